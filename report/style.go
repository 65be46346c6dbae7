package report

// pageStyle is that of pages. Nothing but tables, blocks and drawings, which
// scroll in a frame of their own, may be wider than the screen.
const pageStyle = `
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#4d5661;--rule:#d5dae0;--paper:#fff;--raised:#f4f6f8;--link:#0b62b0}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#aeb7c2;--rule:#3a424c;--paper:#14181d;--raised:#1c2229;--link:#6cb2f5}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:76rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 1rem}
h2{font-size:1.2rem;line-height:1.3;margin:2rem 0 .6rem;border-bottom:1px solid var(--rule);padding-bottom:.2rem}
p{margin:.5rem 0;max-width:75ch}
a{color:var(--link)}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{max-width:min(calc(100vw - 2.5rem),75ch);text-align:left;color:var(--soft);padding:.2rem 0;caption-side:top}
th,td{text-align:left;padding:.25rem .7rem;border-bottom:1px solid var(--rule);vertical-align:top;overflow-wrap:normal}
td{max-width:32rem}
th{font-weight:600;vertical-align:bottom}
th.r,td.r{text-align:right;white-space:nowrap}
th.c,td.c{text-align:center}
td.n{white-space:nowrap}
tbody tr:nth-child(even){background:var(--raised)}
pre{background:var(--raised);border:1px solid var(--rule);border-radius:4px;padding:.6rem .8rem;margin:.6rem 0;font:13px/1.45 ui-monospace,"DejaVu Sans Mono",monospace;white-space:pre-wrap;overflow:auto;max-height:32rem;unicode-bidi:plaintext}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));gap:1rem;margin:1rem 0;align-items:start}
figure{margin:0;border:1px solid var(--rule);border-radius:4px;padding:.4rem;min-width:0;max-width:44rem}
figure svg{display:block;width:100%;height:auto}
figcaption{color:var(--soft);font-size:.875rem;padding:.3rem .4rem 0}
details{border:1px solid var(--rule);border-radius:4px;margin:.4rem 0;padding:.1rem .8rem}
details[open]{padding-bottom:.5rem}
summary{cursor:pointer;padding:.35rem 0}
.filters{border:1px solid var(--rule);border-radius:4px;margin:.8rem 0;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem}
a:focus-visible,summary:focus-visible,pre:focus-visible,.scroll:focus-visible,input:focus-visible{outline:2px solid var(--link);outline-offset:2px}
@media (max-width:40rem){main{padding:.5rem}figure{padding:.2rem}details{padding:.1rem .5rem}th,td{padding:.25rem .45rem}}
@media print{pre{max-height:none}}
`
