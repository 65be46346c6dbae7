package chat

import "strings"

// tag is a DSML tag that was read.
type tag struct {
	closing bool
	named   bool   // has a name attribute
	name    string // its value
	str     string // value of the string attribute
}

// maxTag is how long a tag may be, in bytes. It bounds what a model that never
// closes one can make the parser hold back.
const maxTag = 4096

// parseTag reads a tag at the start of s: either one that begins with open and
// has attributes, or closing as a whole. It returns the tag's length; 0 if s
// begins with neither, -1 if that depends on text to come.
func parseTag(s, open, closing string) (t tag, n int) {
	t, n = scanTag(s, open, closing)
	if n > maxTag || n < 0 && len(s) >= maxTag {
		return tag{}, 0
	}
	return t, n
}

// scanTag is parseTag for tags of any length:
//
//	closing | open (\s+ [a-z]+ '="' [^"]* '"')* \s* '>'
func scanTag(s, open, closing string) (t tag, n int) {
	switch {
	case strings.HasPrefix(s, closing):
		return tag{closing: true}, len(closing)
	case strings.HasPrefix(closing, s) || strings.HasPrefix(open, s):
		return tag{}, -1
	case !strings.HasPrefix(s, open):
		return tag{}, 0
	}
	rest := s[len(open):]
	for {
		trimmed := strings.TrimLeft(rest, " \t\r\n")
		spaced := len(trimmed) < len(rest)
		rest = trimmed
		if rest == "" {
			return tag{}, -1
		}
		if rest[0] == '>' {
			return t, len(s) - len(rest) + 1
		}
		end := 0
		for end < len(rest) && 'a' <= rest[end] && rest[end] <= 'z' {
			end++
		}
		if !spaced || end == 0 {
			return tag{}, 0
		}
		attribute := rest[:end]
		rest = rest[end:]
		const equals = `="`
		if !strings.HasPrefix(rest, equals) {
			if strings.HasPrefix(equals, rest) {
				return tag{}, -1
			}
			return tag{}, 0
		}
		rest = rest[len(equals):]
		quote := strings.IndexByte(rest, '"')
		if quote < 0 {
			return tag{}, -1
		}
		switch attribute {
		case "name":
			t.name, t.named = rest[:quote], true
		case "string":
			t.str = rest[:quote]
		}
		rest = rest[quote+1:]
	}
}
