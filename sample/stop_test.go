package sample

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestStopMatcher(t *testing.T) {
	for _, c := range []struct {
		stops   []string
		pieces  []string
		outs    []string // of each Push
		rest    string   // of Finish
		matched string
	}{
		{nil, []string{"ab", "c"}, []string{"ab", "c"}, "", ""},
		{[]string{"STOP"}, []string{"a S", "T", "ART ST", "OP b"}, []string{"a ", "", "START ", ""}, "", "STOP"},
		{[]string{"STOP"}, []string{"a STO"}, []string{"a "}, "STO", ""},
		{[]string{"\n\n"}, []string{"a\n", "b\n\nc"}, []string{"a", "\nb"}, "", "\n\n"},
		{[]string{"aab"}, []string{"aaa", "ab"}, []string{"a", "a"}, "", "aab"},
		{[]string{"abcd", "bc"}, []string{"xabcd"}, []string{"xa"}, "", "bc"},
		{[]string{"c", "abc"}, []string{"xabcd"}, []string{"x"}, "", "abc"},
		{[]string{"x"}, []string{"x", "more"}, []string{"", ""}, "", "x"},
		{[]string{"é"}, []string{"caf\xc3", "\xa9!"}, []string{"caf", ""}, "", "é"},
		{[]string{"ab", "abc"}, []string{"abc"}, []string{""}, "", "ab"},
	} {
		for _, include := range []bool{false, true} {
			m := NewStopMatcher(c.stops, include)
			var got, want strings.Builder
			for i, piece := range c.pieces {
				out, stopped := m.Push(piece)
				got.WriteString(out)
				want.WriteString(c.outs[i])
				if !include && out != c.outs[i] {
					t.Errorf("%q: piece %d of %q gives %q, want %q", c.stops, i, c.pieces, out, c.outs[i])
				}
				if stopped != (m.Matched() != "") {
					t.Errorf("%q: stopped %v with match %q", c.stops, stopped, m.Matched())
				}
			}
			got.WriteString(m.Finish())
			want.WriteString(c.rest)
			if include {
				want.WriteString(c.matched)
			}
			if m.Matched() != c.matched || got.String() != want.String() {
				t.Errorf("%q, include %v: %q gives %q and match %q, want %q and %q", c.stops, include, c.pieces, got.String(), m.Matched(), want.String(), c.matched)
			}
		}
	}
}

// firstStop looks at every end of text, character by character.
func firstStop(stops []string, text string) (shown, matched string) {
	for end := range len(text) + 1 {
		for _, s := range stops {
			if strings.HasSuffix(text[:end], s) && len(s) > len(matched) {
				matched = s
			}
		}
		if matched != "" {
			return text[:end-len(matched)], matched
		}
	}
	return text, ""
}

func FuzzStopMatcher(f *testing.F) {
	f.Add("abcabcabd", "abd", "ca", uint64(1))
	f.Add("aaaaaab", "aaab", "b", uint64(2))
	f.Add("x\n\ny", "\n\n\n", "\n\n", uint64(3))
	f.Fuzz(func(t *testing.T, text, a, b string, seed uint64) {
		var stops []string
		for _, s := range []string{a, b} {
			if s != "" {
				stops = append(stops, s)
			}
		}
		shown, matched := firstStop(stops, text)
		rng := rand.New(rand.NewPCG(seed, 0))
		for range 5 {
			m := NewStopMatcher(stops, false)
			var got strings.Builder
			for rest := text; rest != ""; {
				n := min(rng.IntN(5), len(rest))
				out, stopped := m.Push(rest[:n])
				got.WriteString(out)
				rest = rest[n:]
				if stopped {
					break
				}
				if shown := text[:len(text)-len(rest)]; !strings.HasPrefix(shown, got.String()) {
					t.Fatalf("showed %q of %q", got.String(), shown)
				}
			}
			got.WriteString(m.Finish())
			if got.String() != shown || m.Matched() != matched {
				t.Fatalf("%q with stops %q: %q and match %q, want %q and %q", text, stops, got.String(), m.Matched(), shown, matched)
			}
		}
	})
}
