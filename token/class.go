package token

import (
	"slices"
	"sync"
	"unicode"
	"unicode/utf8"
)

// span32 is an inclusive range of code points.
type span32 struct{ lo, hi rune }

// ranges is a set of code points: sorted, disjoint, not adjacent.
type ranges []span32

// newRanges sorts and merges spans into a set.
func newRanges(spans ...span32) ranges {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span32) int { return int(a.lo - b.lo) })
	var out ranges
	for _, s := range spans {
		if n := len(out); n > 0 && s.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, s.hi)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// tableRanges lists the code points of a Unicode table.
func tableRanges(t *unicode.RangeTable) ranges {
	var spans []span32
	add := func(lo, hi, stride rune) {
		if stride == 1 {
			spans = append(spans, span32{lo, hi})
			return
		}
		for c := lo; c <= hi; c += stride {
			spans = append(spans, span32{c, c})
		}
	}
	for _, r := range t.R16 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	for _, r := range t.R32 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	return newRanges(spans...)
}

func (a ranges) union(b ranges) ranges { return newRanges(append(slices.Clone(a), b...)...) }

func (a ranges) complement() ranges {
	var out ranges
	next := rune(0)
	for _, s := range a {
		if s.lo > next {
			out = append(out, span32{next, s.lo - 1})
		}
		next = s.hi + 1
	}
	if next <= unicode.MaxRune {
		out = append(out, span32{next, unicode.MaxRune})
	}
	return out
}

func (a ranges) intersect(b ranges) ranges {
	return a.complement().union(b.complement()).complement()
}

// cased lists the characters that have another case.
var cased = sync.OnceValue(func() []rune {
	var out []rune
	for c := rune(0); c <= unicode.MaxRune; c++ {
		if unicode.SimpleFold(c) != c {
			out = append(out, c)
		}
	}
	return out
})

// folded adds every character that differs from one in the set by case only,
// one character for one.
func (a ranges) folded() ranges {
	out := slices.Clone(a)
	for _, c := range cased() {
		if !a.has(c) {
			continue
		}
		for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
			out = append(out, span32{f, f})
		}
	}
	return newRanges(out...)
}

func (a ranges) has(r rune) bool {
	_, ok := slices.BinarySearchFunc(a, r, func(s span32, r rune) int {
		switch {
		case s.hi < r:
			return -1
		case s.lo > r:
			return 1
		}
		return 0
	})
	return ok
}

// class is a set of code points made ready for fast membership tests.
type class struct {
	ascii [utf8.RuneSelf]bool
	few   ranges // the whole set when it is small
	// Otherwise a bitmap: page[c>>8] is the index of 256 bits.
	page []uint16
	bits [][4]uint64
}

// compile makes a class of the set. Small sets stay lists, so that a pattern
// of many literals needs little memory.
func (a ranges) compile() *class {
	c := new(class)
	for _, s := range a {
		for r := s.lo; r <= min(s.hi, utf8.RuneSelf-1); r++ {
			c.ascii[r] = true
		}
	}
	if len(a) <= 6 {
		c.few = a
		return c
	}
	c.page = make([]uint16, (unicode.MaxRune+1)>>8)
	seen := make(map[[4]uint64]uint16)
	at := 0
	for p := range c.page {
		var bits [4]uint64
		first, last := rune(p)<<8, rune(p)<<8|0xFF
		for at < len(a) && a[at].hi < first {
			at++
		}
		for i := at; i < len(a) && a[i].lo <= last; i++ {
			for w := range bits {
				base := first + rune(w)<<6
				lo, hi := max(a[i].lo, base), min(a[i].hi, base+63)
				if lo <= hi {
					bits[w] |= ^uint64(0) >> (63 - (hi - lo)) << (lo - base)
				}
			}
		}
		id, ok := seen[bits]
		if !ok {
			id = uint16(len(c.bits))
			seen[bits] = id
			c.bits = append(c.bits, bits)
		}
		c.page[p] = id
	}
	return c
}

func (c *class) has(r rune) bool {
	switch {
	case r < utf8.RuneSelf:
		return c.ascii[r]
	case c.page != nil:
		return c.bits[c.page[r>>8]][r>>6&3]&(1<<(r&63)) != 0
	}
	return c.few.has(r)
}

// at tells whether the character of s at i is in the class, and its width;
// there is none at the end of s.
func (c *class) at(s string, i int) (int, bool) {
	if i >= len(s) {
		return 0, false
	}
	if b := s[i]; b < utf8.RuneSelf {
		return 1, c.ascii[b]
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return n, c.has(r)
}
