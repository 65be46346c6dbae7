package report

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// Sizes of a chart in its own units, which are pixels where it is shown at full
// size. A chart is narrow so that its text stays readable on a telephone, and
// grows where there is room.
const (
	chartWidth = 420
	plotHeight = 230
	fontSize   = 12
	lineHeight = 17
	charWidth  = 7 // of most letters at fontSize, rather too much than too little

	labelLength = 56 // characters that fit across
)

// chartStyle colours charts, in a page as in a file of its own. Names begin with
// lt- so that they do not meet those of a page around it.
const chartStyle = `.lt-chart{--lt-ink:#1b1f24;--lt-soft:#4d5661;--lt-rule:#d5dae0;--lt-paper:#fff;` +
	`--lt-0:#0b62b0;--lt-1:#b8480b;--lt-2:#147a45;--lt-3:#8a3ea8;--lt-4:#7d6200;--lt-5:#00727f;--lt-6:#a3295b;--lt-7:#4d5561;` +
	`font:12px system-ui,"DejaVu Sans",sans-serif}` +
	`@media (prefers-color-scheme:dark){.lt-chart{--lt-ink:#e8ebef;--lt-soft:#aeb7c2;--lt-rule:#3a424c;--lt-paper:#14181d;` +
	`--lt-0:#6cb2f5;--lt-1:#f5965c;--lt-2:#5fc98d;--lt-3:#cf9bea;--lt-4:#dcbc4a;--lt-5:#4fc4d6;--lt-6:#f285ae;--lt-7:#aab4c0}}` +
	`.lt-chart text{fill:var(--lt-ink)}.lt-chart .lt-soft{fill:var(--lt-soft)}.lt-chart .lt-title{font-size:14px;font-weight:600}` +
	`.lt-chart .lt-small{font-size:11px}.lt-halo{paint-order:stroke;stroke:var(--lt-paper);stroke-width:3px}` +
	`.lt-paper{fill:var(--lt-paper)}.lt-rule{stroke:var(--lt-rule);fill:none}.lt-axis{stroke:var(--lt-soft);fill:none}` +
	`.lt-mark{stroke:var(--lt-soft);stroke-dasharray:3 3;fill:none}.lt-line{fill:none;stroke-width:2;stroke-linejoin:round}` +
	`.lt-error{fill:none;stroke-width:1}`

// colours is how many colours, dashes and markers there are before they repeat.
const colours = 8

// dashes of lines, by series.
var dashes = [colours]string{"", "7 3", "2 3", "9 3 2 3", "13 4", "5 2 1 2", "1 2", "16 3 4 3"}

// colour names the colour of series i.
func colour(i int) string { return "var(--lt-" + strconv.Itoa(i%colours) + ")" }

// svg writes a chart. Coordinates are in chart units, y downwards.
type svg struct {
	b strings.Builder
}

// document returns a whole SVG file of what was drawn.
func (s *svg) document(title string, height float64) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" class="lt-chart" role="img" aria-label="%s" viewBox="0 0 %d %s" width="%d" height="%s">`+
		`<title>%s</title><style>%s</style><rect class="lt-paper" width="100%%" height="100%%"/>%s</svg>`,
		escape(title), chartWidth, num(height), chartWidth, num(height), escape(title), chartStyle, s.b.String())
}

func (s *svg) line(class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(&s.b, `<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`, class, num(x1), num(y1), num(x2), num(y2))
}

// text writes text with its base line at y; anchor is start, middle or end.
func (s *svg) text(class, anchor string, x, y float64, text string) {
	fmt.Fprintf(&s.b, `<text class="%s" text-anchor="%s" x="%s" y="%s">%s</text>`, class, anchor, num(x), num(y), escape(text))
}

// wrapped writes text in lines of width units and returns the y of the next one.
func (s *svg) wrapped(class string, x, y, width, perChar float64, text string) float64 {
	for _, line := range wrap(text, int(width/perChar)) {
		s.text(class, "start", x, y, line)
		y += lineHeight
	}
	return y
}

// title writes a chart's title and returns the y of what comes below it.
func (s *svg) title(text string) float64 {
	if text == "" {
		return 8
	}
	return s.wrapped("lt-title", 8, 20, chartWidth-16, 8.4, text) - 8
}

// marker draws the marker of series i.
func (s *svg) marker(i int, x, y float64) { s.markerSize(i, x, y, 3.6) }

func (s *svg) markerSize(i int, x, y, r float64) {
	var d string
	p := func(f string, at ...float64) {
		all := make([]any, len(at))
		for i, v := range at {
			all[i] = num(v)
		}
		d = fmt.Sprintf(f, all...)
	}
	fill := colour(i)
	switch i % colours {
	case 0:
		fmt.Fprintf(&s.b, `<circle cx="%s" cy="%s" r="%s" fill="%s"/>`, num(x), num(y), num(r), fill)
		return
	case 1:
		p("M%s %sh%sv%sh-%sz", x-r, y-r, 2*r, 2*r, 2*r)
	case 2:
		p("M%s %sL%s %sL%s %sz", x, y-1.2*r, x+1.2*r, y+r, x-1.2*r, y+r)
	case 3:
		p("M%s %sL%s %sL%s %sL%s %sz", x, y-1.4*r, x+1.4*r, y, x, y+1.4*r, x-1.4*r, y)
	case 4:
		p("M%s %sL%s %sM%s %sL%s %s", x-r, y-r, x+r, y+r, x-r, y+r, x+r, y-r)
	case 5:
		p("M%s %sL%s %sM%s %sL%s %s", x-1.2*r, y, x+1.2*r, y, x, y-1.2*r, x, y+1.2*r)
	case 6:
		p("M%s %sL%s %sL%s %sz", x, y+1.2*r, x+1.2*r, y-r, x-1.2*r, y-r)
	default:
		fmt.Fprintf(&s.b, `<circle cx="%s" cy="%s" r="%s" fill="var(--lt-paper)" stroke="%s" stroke-width="1.5"/>`, num(x), num(y), num(r), fill)
		return
	}
	fmt.Fprintf(&s.b, `<path d="%s" fill="%s" stroke="%s" stroke-width="1.2"/>`, d, fill, fill)
}

// texture fills a rectangle of series i: by colour, and by stripes that tell it
// from others in grey. It needs no id, which would have to be unique on a page.
func (s *svg) texture(i int, x, y, w, h float64) {
	c := colour(i)
	opacity := []string{"1", ".25", ".55", ".12"}[i%4]
	fmt.Fprintf(&s.b, `<rect x="%s" y="%s" width="%s" height="%s" fill="%s" fill-opacity="%s" stroke="%s"/>`,
		num(x), num(y), num(w), num(h), c, opacity, c)
	var d strings.Builder
	switch i % 4 {
	case 1:
		for at := x + 4; at < x+w; at += 5 {
			fmt.Fprintf(&d, "M%s %sv%s", num(at), num(y), num(h))
		}
	case 3:
		for at := y + 3; at < y+h; at += 4 {
			fmt.Fprintf(&d, "M%s %sh%s", num(x), num(at), num(w))
		}
	}
	if d.Len() > 0 {
		fmt.Fprintf(&s.b, `<path d="%s" stroke="%s" fill="none"/>`, d.String(), c)
	}
}

// legend writes names in rows, a sample of i before each, and returns the y of
// what comes below.
func (s *svg) legend(names []string, y float64, sample func(i int, x, y float64)) float64 {
	if len(names) == 0 {
		return y
	}
	const gap, key = 22, 30
	x := 8.0
	for i, name := range names {
		name = cut(name, labelLength-6)
		width := key + textWidth(name)
		if x > 8 && x+width > chartWidth-8 {
			x, y = 8, y+lineHeight
		}
		sample(i, x, y-4)
		s.text("", "start", x+key, y, name)
		x += width + gap
	}
	return y + lineHeight
}

// num writes a coordinate.
func num(v float64) string {
	v = math.Round(v*10) / 10
	if v == 0 { // no -0
		v = 0
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// escape makes text safe between tags and in quoted attributes, of HTML as of
// XML. Characters that XML cannot hold become visible ones.
func escape(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return r
		case r < 0x20: // a control's picture
			return 0x2400 + r
		case r == 0x7f:
			return 0x2421
		case r == 0xfffe || r == 0xffff || 0x80 <= r && r < 0xa0:
			return 0xfffd
		}
		return r // an invalid byte comes as U+FFFD
	}, text)
	return html.EscapeString(text)
}

// textWidth estimates the width of a text at fontSize.
func textWidth(text string) float64 {
	w := 0.0
	for _, r := range text {
		if r >= 0x1100 { // letters as wide as high
			w += fontSize
		} else {
			w += charWidth
		}
	}
	return w
}

// cut shortens a text to at most n characters.
func cut(text string, n int) string {
	r := []rune(text)
	if len(r) <= n {
		return text
	}
	return string(r[:max(n-1, 0)]) + "…"
}

// wrap breaks a text between words into lines of at most n characters; three
// lines at most.
func wrap(text string, n int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		word = cut(word, n)
		switch {
		case line == "":
			line = word
		case len([]rune(line))+1+len([]rune(word)) <= n:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	lines = append(lines, line)
	if len(lines) > 3 {
		lines = append(lines[:2], cut(strings.Join(lines[2:], " "), n))
	}
	return lines
}
