package token

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// kind is a set of flags of one character, all that the hand-written scanners
// need to know about it.
type kind uint8

const (
	letter    kind = 1 << iota // \p{L}
	mark                       // \p{M}
	number                     // \p{N}
	punct                      // \p{P}
	symbol                     // \p{S}
	space                      // \s, Unicode White_Space
	newline                    // CR and LF
	asciiWord                  // A-Z, a-z
)

// kindTable holds the kind of every code point in deduplicated pages of 256.
type kindTable struct {
	page [(unicode.MaxRune + 1) >> 8]uint16
	kind [][256]kind
}

// kinds builds the table on first use; it is never written afterwards.
var kinds = sync.OnceValue(func() *kindTable {
	flat := make([]kind, unicode.MaxRune+1)
	set := func(k kind, table *unicode.RangeTable) {
		for _, r := range tableRanges(table) {
			for c := r.lo; c <= r.hi; c++ {
				flat[c] |= k
			}
		}
	}
	set(letter, unicode.L)
	set(mark, unicode.M)
	set(number, unicode.N)
	set(punct, unicode.P)
	set(symbol, unicode.S)
	set(space, unicode.White_Space)
	flat['\r'] |= newline
	flat['\n'] |= newline
	for c := 'a'; c <= 'z'; c++ {
		flat[c] |= asciiWord
		flat[c-'a'+'A'] |= asciiWord
	}
	t := new(kindTable)
	seen := make(map[[256]kind]uint16)
	for p := range t.page {
		content := [256]kind(flat[p<<8:])
		id, ok := seen[content]
		if !ok {
			id = uint16(len(t.kind))
			seen[content] = id
			t.kind = append(t.kind, content)
		}
		t.page[p] = id
	}
	return t
})

// of gives the kind and the width in bytes of the character of s at i, which
// must be inside s. A byte that is not UTF-8 counts as U+FFFD of width one.
func (t *kindTable) of(s string, i int) (kind, int) {
	if c := s[i]; c < utf8.RuneSelf {
		return t.kind[0][c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return t.kind[t.page[r>>8]][r&0xFF], n
}

// run gives the end of the longest run from i of characters that have one of
// the flags of want.
func (t *kindTable) run(s string, i int, want kind) int {
	for i < len(s) {
		k, n := t.of(s, i)
		if k&want == 0 {
			break
		}
		i += n
	}
	return i
}
