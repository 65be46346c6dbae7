package token

import "unicode/utf8"

// A finder gives the first match in s at or after i, or start == len(s) if
// there is none. Matches are not empty.
type finder func(s string, i int) (start, end int)

// cutWith makes a splitter that isolates the matches of a finder.
func cutWith(find finder) splitter {
	return func(s string, base int, ends []int) []int {
		for i := 0; i < len(s); {
			start, end := find(s, i)
			if start > i {
				ends = append(ends, base+start)
			}
			if start < len(s) {
				ends = append(ends, base+end)
			}
			i = max(start, end)
		}
		return ends
	}
}

// run is a pattern of the form L?C{1,high}, either with the optional lead L
// or without: letters with a space before them, three digits, one newline.
type run struct {
	lead, class *class              // lead may be nil
	high        int                 // the largest count of class; < 0: no limit
	begins      [utf8.RuneSelf]bool // ASCII characters of lead or class
}

// newRun makes a run of L?C{1,high}; lead may be nil.
func newRun(lead, class *class, high int) *run {
	r := &run{lead: lead, class: class, high: high, begins: class.ascii}
	for c := range r.begins {
		r.begins[c] = r.begins[c] || lead != nil && lead.ascii[c]
	}
	return r
}

// runOf recognises a compiled pattern as a run.
func runOf(in *instruction) (*run, bool) {
	var lead *class
	if in.op == opClass && in.low == 0 && in.high == 1 {
		lead, in = in.class, in.next
	}
	if in.op != opClass || in.low != 1 || in.next.op != opAccept {
		return nil, false // with a larger minimum the lead may have to be given back
	}
	return newRun(lead, in.class, in.high), true
}

// next is the finder of a run.
func (r *run) next(s string, i int) (start, end int) {
	for {
		for i < len(s) && s[i] < utf8.RuneSelf && !r.begins[s[i]] {
			i++
		}
		if i >= len(s) {
			return len(s), len(s)
		}
		n, inClass := r.class.at(s, i)
		if r.lead != nil {
			if _, ok := r.lead.at(s, i); ok {
				if _, ok := r.class.at(s, i+n); ok {
					return i, r.end(s, i+n)
				}
			}
		}
		if inClass {
			return i, r.end(s, i)
		}
		i += n
	}
}

// end extends a run that begins at i.
func (r *run) end(s string, i int) int {
	for count := 0; r.high < 0 || count < r.high; count++ {
		n, ok := r.class.at(s, i)
		if !ok {
			break
		}
		i += n
	}
	return i
}

// nextV3 finds matches of patternV3. Each case is an alternative of the
// pattern, in its order; what follows says where they can begin:
//
//	1  ASCII punctuation, then ASCII letters
//	2  at most one character that is no letter, punctuation, symbol, CR or LF;
//	   then letters and marks
//	3  at most one space; punctuation and symbols; CRs and LFs
//	4-6  white space, see whiteSpace
func (t *kindTable) nextV3(s string, i int) (start, end int) {
	for i < len(s) {
		k, n := t.of(s, i)
		var next kind // of the character after this one
		if i+n < len(s) {
			next, _ = t.of(s, i+n)
		}
		switch {
		case k&(punct|symbol) != 0 && s[i] < utf8.RuneSelf && next&asciiWord != 0: // 1
			return i, t.run(s, i+n, asciiWord)
		case k&(letter|mark) != 0: // 2; a mark taken as the optional character ends at the same place
			return i, t.run(s, i+n, letter|mark)
		case k&(punct|symbol|newline) == 0 && next&(letter|mark) != 0: // 2
			return i, t.run(s, i+n, letter|mark)
		case k&(punct|symbol) != 0, s[i] == ' ' && next&(punct|symbol) != 0: // 3
			return i, t.run(s, t.run(s, i+n, punct|symbol), newline)
		case k&space != 0:
			return i, t.whiteSpace(s, i)
		}
		i += n
	}
	return len(s), len(s)
}

// nextGLM finds matches of patternGLM, which every character begins:
//
//	1  an apostrophe and the rest of an English contraction
//	2  at most one character that is no letter, number, CR or LF; then letters
//	3  one to three numbers
//	4  at most one space; anything but white space, letters and numbers; CRs and LFs
//	5-7  white space, see whiteSpace
func (t *kindTable) nextGLM(s string, i int) (start, end int) {
	k, n := t.of(s, i)
	var next kind // of the character after this one
	if i+n < len(s) {
		next, _ = t.of(s, i+n)
	}
	switch {
	case s[i] == '\'' && contraction(s[i:]) > 0: // 1
		return i, i + contraction(s[i:])
	case k&letter != 0, k&(number|newline) == 0 && next&letter != 0: // 2
		return i, t.run(s, i+n, letter)
	case k&number != 0: // 3
		end = i + n
		for range 2 {
			if end == len(s) {
				break
			}
			k, n := t.of(s, end)
			if k&number == 0 {
				break
			}
			end += n
		}
		return i, end
	case k&space == 0, s[i] == ' ' && i+n < len(s) && next&(space|letter|number) == 0: // 4
		end = i + n
		for end < len(s) {
			k, n := t.of(s, end)
			if k&(space|letter|number) != 0 {
				break
			}
			end += n
		}
		return i, t.run(s, end, newline)
	}
	return i, t.whiteSpace(s, i)
}

// contraction gives the length of 's, 't, 're, 've, 'm, 'll or 'd in any case
// at the start of s, or 0. The long s (U+017F) is an s in another case.
func contraction(s string) int {
	lower := func(i int) byte {
		if i < len(s) {
			return s[i] | 0x20
		}
		return 0
	}
	switch lower(1) {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if lower(2) == 'e' {
			return 3
		}
	case 'l':
		if lower(2) == 'l' {
			return 3
		}
	}
	if len(s) >= 3 && s[1:3] == "\u017f" {
		return 3
	}
	return 0
}

// whiteSpace gives the end of the match of \s*[\r\n]+|\s+(?!\S)|\s+ at white
// space: the run up to its last CR or LF if there is one; else the whole run
// at the end of the text; else the run without its last character, which
// belongs to the word that follows, unless there is only that one.
func (t *kindTable) whiteSpace(s string, i int) int {
	end, last, lastNewline := i, i, -1
	for end < len(s) {
		k, n := t.of(s, end)
		if k&space == 0 {
			break
		}
		last = end
		end += n
		if k&newline != 0 {
			lastNewline = end
		}
	}
	switch {
	case lastNewline >= 0:
		return lastNewline
	case end == len(s) || last == i:
		return end
	}
	return last
}

// nextTrailing finds matches of \s+$: white space up to the end of the text or
// of the line. A run of white space is looked at once, where a matcher would
// try again from each of its characters.
func (t *kindTable) nextTrailing(s string, i int) (start, end int) {
	for i < len(s) {
		k, n := t.of(s, i)
		if k&space == 0 {
			i += n
			continue
		}
		lastLF := -1 // of those that could end a match
		for end = i + n; end < len(s); end += n {
			if k, n = t.of(s, end); k&space == 0 {
				break
			}
			if s[end] == '\n' {
				lastLF = end
			}
		}
		switch {
		case end == len(s):
			return i, end
		case lastLF >= 0:
			return i, lastLF
		}
		i = end
	}
	return len(s), len(s)
}
