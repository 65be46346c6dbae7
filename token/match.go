package token

import "unicode/utf8"

// How many branches one matcher may try, at the start and for each byte of the
// text, before it remembers those that failed. Ordinary patterns stay below it.
const (
	patience        = 4096
	patiencePerByte = 64
)

// matcher runs one pattern over one text.
//
// The same branch at the same place always fares the same, so remembering the
// failures bounds the number of branches tried by pattern size times text
// length, where plain backtracking may need exponentially many. The memory is
// only worth its price when much has been tried.
type matcher struct {
	s      string
	tried  int
	failed map[attempt]struct{}
}

// attempt is a branch of the pattern tried at a place of the text.
type attempt struct {
	in *instruction
	at int
}

// branch is match for a place to which the matcher may come back.
func (m *matcher) branch(in *instruction, i int) (end int, ok bool) {
	m.tried++
	if m.failed != nil {
		if _, known := m.failed[attempt{in, i}]; known {
			return 0, false
		}
	}
	if end, ok = m.match(in, i); !ok && m.tried > patience+patiencePerByte*i {
		if m.failed == nil {
			m.failed = make(map[attempt]struct{})
		}
		m.failed[attempt{in, i}] = struct{}{}
	}
	return end, ok
}

// match gives the end of the match that begins at i: the first one in the
// order of alternatives, longest repetitions first (leftmost-first, as Perl
// and Oniguruma have it; not the longest). The depth of recursion is bounded
// by the size of the pattern.
func (m *matcher) match(in *instruction, i int) (end int, ok bool) {
	s := m.s
	for {
		switch in.op {
		case opAccept:
			return i, true
		case opClass, opPossessive:
			count, at := 0, i
			for in.high < 0 || count < in.high {
				n, ok := in.class.at(s, at)
				if !ok {
					break
				}
				at += n
				count++
			}
			if count < in.low {
				return 0, false
			}
			if in.op == opClass {
				for ; count > in.low; count-- {
					if end, ok := m.branch(in.next, at); ok {
						return end, true
					}
					_, n := utf8.DecodeLastRuneInString(s[:at])
					at -= n
				}
			}
			i = at
		case opAlternate:
			for _, alt := range in.alts {
				if end, ok := m.branch(alt, i); ok {
					return end, true
				}
			}
			return 0, false
		case opAtomic:
			end, ok := m.match(in.alts[0], i)
			if !ok {
				return 0, false
			}
			i = end
		case opLook:
			if _, ok := m.match(in.alts[0], i); ok == in.negate {
				return 0, false
			}
		case opLineStart:
			if i > 0 && s[i-1] != '\n' {
				return 0, false
			}
		case opLineEnd:
			if i < len(s) && s[i] != '\n' {
				return 0, false
			}
		case opTextStart:
			if i > 0 {
				return 0, false
			}
		case opTextEnd:
			if i < len(s) {
				return 0, false
			}
		case opWordBorder:
			_, after := in.class.at(s, i)
			before := false
			if i > 0 {
				r, _ := utf8.DecodeLastRuneInString(s[:i])
				before = in.class.has(r)
			}
			if (before != after) == in.negate {
				return 0, false
			}
		}
		in = in.next
	}
}

// cuts appends to ends where the pieces of s end when its matches, and the
// gaps between them, are isolated. base is added to every end.
func (in *instruction) cuts(s string, base int, ends []int) []int {
	m := matcher{s: s}
	gap := 0 // where the current gap began
	for i := 0; i < len(s); {
		end, ok := m.match(in, i)
		if ok && i > gap {
			ends = append(ends, base+i)
			gap = i
		}
		if ok && end > i {
			ends = append(ends, base+end)
			i, gap = end, end
			continue
		}
		_, n := utf8.DecodeRuneInString(s[i:]) // no match, or an empty one
		i += n
	}
	if gap < len(s) {
		ends = append(ends, base+len(s))
	}
	return ends
}
