package token

import "unicode/utf8"

// alphabetRune gives the printable character that stands for a byte in the
// file's spelling of tokens (the byte alphabet of GPT-2): printable Latin-1
// bytes stand for themselves, the other 68, ascending, for U+0100 and up.
func alphabetRune(b byte) rune {
	switch {
	case printable(b):
		return rune(b)
	case b <= 0x20:
		return 0x100 + rune(b)
	case b <= 0xA0: // 0x7F..0xA0, after the 33 bytes 0x00..0x20
		return 0x121 + rune(b-0x7F)
	default: // 0xAD
		return 0x143
	}
}

// printable tells whether a byte stands for itself in the byte alphabet.
func printable(b byte) bool {
	return b >= 0x21 && b <= 0x7E || b >= 0xA1 && b <= 0xAC || b >= 0xAE
}

// alphabetByte is the inverse of alphabetRune.
func alphabetByte(r rune) (byte, bool) {
	switch {
	case r < 0x100:
		return byte(r), r >= 0 && printable(byte(r))
	case r <= 0x120:
		return byte(r - 0x100), true
	case r <= 0x142:
		return byte(r-0x121) + 0x7F, true
	case r == 0x143:
		return 0xAD, true
	}
	return 0, false
}

// spelledBytes gives the bytes behind a token in the file's spelling. A token
// with a character outside the byte alphabet (a special token such as
// "<｜User｜>", stored in the vocabulary as it is) stands for its own UTF-8.
func spelledBytes(spelling string) string {
	out := make([]byte, 0, len(spelling))
	for _, r := range spelling {
		b, ok := alphabetByte(r)
		if !ok {
			return spelling
		}
		out = append(out, b)
	}
	return string(out)
}

// spelling is the inverse of spelledBytes for tokens of the byte alphabet.
func spelling(bytes string) string {
	out := make([]byte, 0, len(bytes)+len(bytes)/2)
	for i := range len(bytes) {
		out = utf8.AppendRune(out, alphabetRune(bytes[i]))
	}
	return string(out)
}
