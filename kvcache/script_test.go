package kvcache

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"latent/device"
)

// TestScripts runs testdata/scripts. A prompt is spelled as in tokensOf: pages=abc
// stands for three full pages, tail=5 for five tokens behind them.
//
//	new pages=N
//	acquire NAME [salt=S] [prompt=LETTERS] [tail=N] [more=N] [reserve=N]
//	match NAME [salt=S] [prompt=LETTERS] [tail=N]   holds the prefix only, uncounted
//	insert NAME
//	release NAME
//	flush
func TestScripts(t *testing.T) {
	type held struct {
		salt, prompt string
		tail         int
		table        []int32
	}
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		var c *Cache
		seqs := map[string]*held{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			name := ""
			if len(d.CmdArgs) > 0 && len(d.CmdArgs[0].Vals) == 0 {
				name = d.CmdArgs[0].Key
			}
			arg := func(key string, into any) {
				if d.HasArg(key) {
					d.ScanArgs(t, key, into)
				}
			}
			switch d.Cmd {
			case "new":
				var pages int
				d.ScanArgs(t, "pages", &pages)
				c = New(pages)
				clear(seqs)
			case "acquire", "match":
				s := &held{}
				var more, reserve int
				arg("salt", &s.salt)
				arg("prompt", &s.prompt)
				arg("tail", &s.tail)
				arg("more", &more)
				arg("reserve", &reserve)
				tokens := tokensOf(s.prompt, s.tail)
				var cached int
				if d.Cmd == "match" {
					s.table = c.match(s.salt, tokens)
					cached = len(s.table) * device.PageTokens
				} else {
					var err error
					s.table, cached, err = c.Acquire(s.salt, tokens, PagesFor(len(tokens))+more, reserve)
					if err != nil {
						fmt.Fprintln(&out, err)
						break
					}
				}
				seqs[name] = s
				fmt.Fprintf(&out, "%s: pages %v, %d tokens cached\n", name, s.table, cached)
			case "insert":
				s := seqs[name]
				c.Insert(s.salt, tokensOf(s.prompt, s.tail), s.table)
				fmt.Fprintf(&out, "%s: pages %v\n", name, s.table)
			case "release":
				c.Release(seqs[name].table)
				delete(seqs, name)
			case "flush":
				fmt.Fprintf(&out, "%d pages freed\n", c.Flush())
			default:
				t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
			}
			if err := c.Check(); err != nil {
				t.Fatalf("%s: %v", d.Pos, err)
			}
			s := c.Stats()
			fmt.Fprintf(&out, "used %d, cached %d, free %d; hits %d of %d; evictions %d\n",
				s.Used, s.Cached, s.Free, s.HitTokens, s.QueryTokens, s.Evictions)
			return out.String()
		})
	})
}
