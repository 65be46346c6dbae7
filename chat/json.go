package chat

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is the kind of a JSON value.
type Kind uint8

// The kinds of JSON values.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

func (k Kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// Value is a JSON value that remembers what Go's maps and floats forget: the
// order of keys and the digits of integers. The zero Value is null.
type Value struct {
	Kind    Kind
	Bool    bool
	Text    string   // contents of a string; a number as it was written
	Items   []Value  // elements of an array
	Members []Member // members of an object, in order, keys distinct
}

// Member is one key of an object with its value.
type Member struct {
	Key   string
	Value Value
}

// Get returns the member of an object called key.
func (v Value) Get(key string) (Value, bool) {
	for i := range v.Members {
		if v.Members[i].Key == key {
			return v.Members[i].Value, true
		}
	}
	return Value{}, false
}

// String returns v as JSON, see [Value.Append].
func (v Value) String() string { return string(v.Append(nil)) }

// Append appends v to dst as Python's json.dumps(v, ensure_ascii=False) would
// print it after json.loads: separators ", " and ": ", keys in order, integers
// with all their digits, other numbers as the shortest decimal that reads back
// as the same double, and in strings only what must be escaped.
func (v Value) Append(dst []byte) []byte {
	switch v.Kind {
	case Bool:
		return strconv.AppendBool(dst, v.Bool)
	case Number:
		return appendNumber(dst, v.Text)
	case String:
		dst = append(dst, '"')
		dst = appendEscaped(dst, v.Text)
		return append(dst, '"')
	case Array:
		dst = append(dst, '[')
		for i := range v.Items {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = v.Items[i].Append(dst)
		}
		return append(dst, ']')
	case Object:
		dst = append(dst, '{')
		for i := range v.Members {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = append(dst, '"')
			dst = appendEscaped(dst, v.Members[i].Key)
			dst = append(dst, `": `...)
			dst = v.Members[i].Value.Append(dst)
		}
		return append(dst, '}')
	}
	return append(dst, "null"...)
}

// appendNumber prints a number literal as Python would: an int if it has
// neither point nor exponent, else repr of the double.
func appendNumber(dst []byte, literal string) []byte {
	if !strings.ContainsAny(literal, ".eE") {
		if literal == "-0" {
			literal = "0"
		}
		return append(dst, literal...)
	}
	// A literal out of range gives an infinity, which is what Python reads.
	f, _ := strconv.ParseFloat(literal, 64)
	switch {
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	case f == 0:
		if math.Signbit(f) {
			dst = append(dst, '-')
		}
		return append(dst, "0.0"...)
	}
	var buf [32]byte
	shortest := strconv.AppendFloat(buf[:0], f, 'e', -1, 64)
	e := len(shortest) - 1
	for shortest[e] != 'e' {
		e--
	}
	exponent, err := strconv.Atoi(string(shortest[e+1:]))
	if err != nil {
		panic("chat: strconv wrote " + string(shortest))
	}
	if exponent < -4 || exponent >= 16 {
		return append(dst, shortest...)
	}
	n := len(dst)
	dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
	for _, c := range dst[n:] {
		if c == '.' {
			return dst
		}
	}
	return append(dst, ".0"...)
}

// appendEscaped appends the inside of a JSON string. Bytes that are not UTF-8
// become U+FFFD, one for each.
func appendEscaped(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c == '\b':
			dst = append(dst, `\b`...)
		case c == '\f':
			dst = append(dst, `\f`...)
		case c < 0x20:
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			dst = append(dst, c)
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		}
		i++
	}
	return dst
}

// maxDepth is how deep arrays and objects may nest. JSON Schemas of real tools
// stay below 30; the bound keeps hostile input from growing the stack.
const maxDepth = 128

// ParseJSON reads one JSON value (RFC 8259). Of a repeated key the first
// position and the last value count, as in a Python dict. Lone surrogates in
// escapes and bytes that are not UTF-8 become U+FFFD. An error says what was
// wrong and at which byte.
func ParseJSON(text string) (Value, error) {
	p := jsonParser{text: text}
	p.space()
	v, err := p.value(0)
	if err != nil {
		return Value{}, err
	}
	p.space()
	if p.pos < len(p.text) {
		return Value{}, p.errorf("unexpected %s after the value", p.seen())
	}
	return v, nil
}

type jsonParser struct {
	text string
	pos  int
}

func (p *jsonParser) errorf(format string, args ...any) error {
	return fmt.Errorf("invalid JSON at byte %d: %s", p.pos, fmt.Sprintf(format, args...))
}

// seen describes what stands at the position, for error messages.
func (p *jsonParser) seen() string {
	if p.pos >= len(p.text) {
		return "end of text"
	}
	_, size := utf8.DecodeRuneInString(p.text[p.pos:])
	return strconv.Quote(p.text[p.pos : p.pos+size])
}

func (p *jsonParser) space() {
	for p.pos < len(p.text) {
		switch p.text[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

func (p *jsonParser) value(depth int) (Value, error) {
	if p.pos >= len(p.text) {
		return Value{}, p.errorf("unexpected end of text")
	}
	switch c := p.text[p.pos]; {
	case c == '{' || c == '[':
		if depth == maxDepth {
			return Value{}, p.errorf("nested deeper than %d", maxDepth)
		}
		if c == '{' {
			return p.object(depth)
		}
		return p.array(depth)
	case c == '"':
		s, err := p.string()
		return Value{Kind: String, Text: s}, err
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	}
	switch rest := p.text[p.pos:]; {
	case strings.HasPrefix(rest, "null"):
		p.pos += 4
		return Value{}, nil
	case strings.HasPrefix(rest, "true"):
		p.pos += 4
		return Value{Kind: Bool, Bool: true}, nil
	case strings.HasPrefix(rest, "false"):
		p.pos += 5
		return Value{Kind: Bool}, nil
	}
	return Value{}, p.errorf("unexpected %s, want a value", p.seen())
}

func (p *jsonParser) object(depth int) (Value, error) {
	v := Value{Kind: Object}
	var index map[string]int // of keys; made when a linear search gets slow
	p.pos++
	p.space()
	if p.pos < len(p.text) && p.text[p.pos] == '}' {
		p.pos++
		return v, nil
	}
	for {
		if p.pos >= len(p.text) || p.text[p.pos] != '"' {
			return v, p.errorf("unexpected %s, want a key in quotes", p.seen())
		}
		key, err := p.string()
		if err != nil {
			return v, err
		}
		p.space()
		if p.pos >= len(p.text) || p.text[p.pos] != ':' {
			return v, p.errorf("unexpected %s, want ':'", p.seen())
		}
		p.pos++
		p.space()
		member, err := p.value(depth + 1)
		if err != nil {
			return v, err
		}
		v.Members, index = setMember(v.Members, index, key, member)
		p.space()
		if p.pos >= len(p.text) {
			return v, p.errorf("unexpected end of text in an object")
		}
		switch p.text[p.pos] {
		case '}':
			p.pos++
			return v, nil
		case ',':
			p.pos++
			p.space()
		default:
			return v, p.errorf("unexpected %s, want ',' or '}'", p.seen())
		}
	}
}

// setMember sets key in members, at its old place if it has one.
func setMember(members []Member, index map[string]int, key string, v Value) ([]Member, map[string]int) {
	const linear = 16
	at, found := 0, false
	if index != nil {
		at, found = index[key]
	} else {
		for at = range members {
			if found = members[at].Key == key; found {
				break
			}
		}
	}
	if found {
		members[at].Value = v
		return members, index
	}
	members = append(members, Member{key, v})
	if index != nil {
		index[key] = len(members) - 1
	} else if len(members) > linear {
		index = make(map[string]int, 2*len(members))
		for i := range members {
			index[members[i].Key] = i
		}
	}
	return members, index
}

func (p *jsonParser) array(depth int) (Value, error) {
	v := Value{Kind: Array}
	p.pos++
	p.space()
	if p.pos < len(p.text) && p.text[p.pos] == ']' {
		p.pos++
		return v, nil
	}
	for {
		item, err := p.value(depth + 1)
		if err != nil {
			return v, err
		}
		v.Items = append(v.Items, item)
		p.space()
		if p.pos >= len(p.text) {
			return v, p.errorf("unexpected end of text in an array")
		}
		switch p.text[p.pos] {
		case ']':
			p.pos++
			return v, nil
		case ',':
			p.pos++
			p.space()
		default:
			return v, p.errorf("unexpected %s, want ',' or ']'", p.seen())
		}
	}
}

func (p *jsonParser) number() (Value, error) {
	start := p.pos
	digits := func() bool {
		from := p.pos
		for p.pos < len(p.text) && '0' <= p.text[p.pos] && p.text[p.pos] <= '9' {
			p.pos++
		}
		return p.pos > from
	}
	at := func(set string) bool {
		if p.pos < len(p.text) && strings.IndexByte(set, p.text[p.pos]) >= 0 {
			p.pos++
			return true
		}
		return false
	}
	at("-")
	if !at("0") && !digits() {
		return Value{}, p.errorf("unexpected %s, want a digit", p.seen())
	}
	if at(".") && !digits() {
		return Value{}, p.errorf("unexpected %s, want a digit after the point", p.seen())
	}
	if at("eE") {
		at("+-")
		if !digits() {
			return Value{}, p.errorf("unexpected %s, want a digit of the exponent", p.seen())
		}
	}
	return Value{Kind: Number, Text: p.text[start:p.pos]}, nil
}

func (p *jsonParser) string() (string, error) {
	p.pos++
	start := p.pos
	// Most strings have no escapes and are returned as they stand.
	for p.pos < len(p.text) && p.text[p.pos] != '"' && p.text[p.pos] != '\\' && p.text[p.pos] >= 0x20 {
		p.pos++
	}
	if p.pos < len(p.text) && p.text[p.pos] == '"' {
		p.pos++
		return validUTF8(p.text[start : p.pos-1]), nil
	}
	buf := []byte(validUTF8(p.text[start:p.pos]))
	for p.pos < len(p.text) {
		switch c := p.text[p.pos]; {
		case c == '"':
			p.pos++
			return validUTF8(string(buf)), nil
		case c == '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			buf = utf8.AppendRune(buf, r)
		case c < 0x20:
			return "", p.errorf("control character %s in a string must be escaped", p.seen())
		default:
			buf = append(buf, c)
			p.pos++
		}
	}
	return "", p.errorf("unexpected end of text in a string")
}

// escape reads a backslash and what follows. A pair of surrogates makes one
// rune, a lone one U+FFFD.
func (p *jsonParser) escape() (rune, error) {
	if p.pos+1 >= len(p.text) {
		p.pos = len(p.text)
		return 0, p.errorf("unexpected end of text in a string")
	}
	c := p.text[p.pos+1]
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		p.pos += 2
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	if c != 'u' {
		return 0, p.errorf("unknown escape %q", `\`+string(rune(c)))
	}
	r, err := p.hex4()
	if err != nil {
		return 0, err
	}
	const high, low, end = 0xD800, 0xDC00, 0xE000
	if r < high || r >= end {
		return r, nil
	}
	if r < low && strings.HasPrefix(p.text[p.pos:], `\u`) {
		mark := p.pos
		second, err := p.hex4()
		if err != nil {
			return 0, err
		}
		if second >= low && second < end {
			return 0x10000 + (r-high)<<10 + (second - low), nil
		}
		p.pos = mark
	}
	return utf8.RuneError, nil
}

// hex4 reads \uXXXX.
func (p *jsonParser) hex4() (rune, error) {
	if len(p.text)-p.pos < 6 {
		return 0, p.errorf(`incomplete \u escape`)
	}
	var r rune
	for _, c := range []byte(p.text[p.pos+2 : p.pos+6]) {
		r <<= 4
		switch {
		case '0' <= c && c <= '9':
			r |= rune(c - '0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r |= rune(c|0x20-'a') + 10
		default:
			return 0, p.errorf(`\u escape with a character that is not hexadecimal`)
		}
	}
	p.pos += 6
	return r, nil
}

// validUTF8 replaces each byte of s that is not UTF-8 by U+FFFD.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}
