package token

import "unicode/utf8"

// Decode turns ids into text. Bytes that are not UTF-8 become U+FFFD, one for
// each maximal part that could have begun a character (Unicode, "substitution
// of maximal subparts"). With skipSpecial, special tokens ([Tokenizer.IsSpecial])
// contribute nothing; ids without a token never do.
func (t *Tokenizer) Decode(ids []int, skipSpecial bool) string {
	var raw []byte
	for _, id := range ids {
		raw = append(raw, t.visible(id, skipSpecial)...)
	}
	text, rest := appendText(make([]byte, 0, len(raw)), raw)
	if rest < len(raw) {
		text = utf8.AppendRune(text, utf8.RuneError)
	}
	return string(text)
}

// visible gives the bytes of a token, or none if it is to be skipped.
func (t *Tokenizer) visible(id int, skipSpecial bool) string {
	if id < 0 || id >= len(t.entries) || skipSpecial && t.entries[id].special {
		return ""
	}
	return t.entries[id].bytes
}

// appendText appends raw to text with U+FFFD for what is not UTF-8. It stops
// before a last character that raw does not complete; rest is where.
func appendText(text, raw []byte) (_ []byte, rest int) {
	for i := 0; i < len(raw); {
		if raw[i] < utf8.RuneSelf {
			text = append(text, raw[i])
			i++
			continue
		}
		if _, n := utf8.DecodeRune(raw[i:]); n > 1 {
			text = append(text, raw[i:i+n]...)
			i += n
			continue
		}
		n := validPrefix(raw[i:])
		if n > 0 && i+n == len(raw) {
			return text, i
		}
		text = utf8.AppendRune(text, utf8.RuneError)
		i += max(n, 1)
	}
	return text, len(raw)
}

// validPrefix gives the length of the longest proper prefix of a multi-byte
// character with which p begins, 0 if there is none (Unicode, table 3-7).
func validPrefix(p []byte) int {
	need, lo, hi := 0, byte(0x80), byte(0xBF)
	switch c := p[0]; {
	case c >= 0xC2 && c <= 0xDF:
		need = 2
	case c >= 0xE0 && c <= 0xEF:
		need = 3
		switch c {
		case 0xE0:
			lo = 0xA0 // lower ones would be overlong
		case 0xED:
			hi = 0x9F // higher ones would be surrogates
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 4
		switch c {
		case 0xF0:
			lo = 0x90
		case 0xF4:
			hi = 0x8F // higher ones would be above U+10FFFF
		}
	}
	if need == 0 {
		return 0
	}
	n := 1
	for n < len(p) && n < need-1 && p[n] >= lo && p[n] <= hi {
		n++
		lo, hi = 0x80, 0xBF
	}
	return n
}

// Stream decodes ids one by one. What it has returned so far is always a
// prefix of the final text: it holds back an incomplete character (at most
// three bytes) until the next token completes or refutes it. The deltas of
// Next and the last one of Flush concatenate to what [Tokenizer.Decode] gives
// for all ids at once.
//
// A Stream belongs to one goroutine at a time.
type Stream struct {
	tok         *Tokenizer
	skipSpecial bool
	raw, text   []byte // raw: the pending bytes between calls
}

// NewStream begins a stream; skipSpecial is as for [Tokenizer.Decode].
func (t *Tokenizer) NewStream(skipSpecial bool) *Stream {
	return &Stream{tok: t, skipSpecial: skipSpecial}
}

// Next gives the text that the token adds: whole characters, possibly none.
func (s *Stream) Next(id int) string {
	s.raw = append(s.raw, s.tok.visible(id, s.skipSpecial)...)
	var rest int
	s.text, rest = appendText(s.text[:0], s.raw)
	s.raw = append(s.raw[:0], s.raw[rest:]...)
	return string(s.text)
}

// Flush ends the text: a pending incomplete character becomes one U+FFFD. The
// stream can then be used for another text.
func (s *Stream) Flush() string {
	if len(s.raw) == 0 {
		return ""
	}
	s.raw = s.raw[:0]
	return string(utf8.RuneError)
}
