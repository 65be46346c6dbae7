package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"latent/chat"
)

// maxDepth bounds how deep a request's arrays and objects nest.
const maxDepth = 64

// fields is a JSON object that is being read. A field is taken by its name; what
// is left in the end is unknown. The first error sticks, so that a reader can
// take all its fields and check err once. Of a repeated key the last value
// counts; null is the same as absent, for every field.
type fields struct {
	path string // of the object, "" for the request itself
	raw  map[string]json.RawMessage
	err  *failure
}

// parseBody reads a request's body.
func parseBody(body []byte) (*fields, *failure) {
	f, err := parseFields("", body)
	if err != nil {
		err.code = "invalid_json"
	}
	return f, err
}

func parseFields(path string, raw []byte) (*fields, *failure) {
	if len(bytes.TrimLeft(raw, " \t\r\n")) == 0 {
		return nil, invalid(path, "the body is empty, want a JSON object")
	}
	if depth := nesting(raw); depth > maxDepth {
		return nil, invalid(path, "nested %d deep, the limit is %d", depth, maxDepth)
	}
	f := &fields{path: path}
	if err := json.Unmarshal(raw, &f.raw); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, invalid(path, "invalid JSON at byte %d: %s", syntax.Offset, syntax.Error())
		}
		return nil, invalid(path, "want a JSON object, found %s", kindOf(raw))
	}
	if f.raw == nil {
		return nil, invalid(path, "want a JSON object, found null")
	}
	return f, nil
}

// nesting returns how deep arrays and objects nest in text, valid JSON or not.
func nesting(text []byte) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// kindOf names the kind of a JSON value for messages.
func kindOf(raw json.RawMessage) string {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return "nothing"
	}
	switch raw[0] {
	case '{':
		return chat.Object.String()
	case '[':
		return chat.Array.String()
	case '"':
		return chat.String.String()
	case 't', 'f':
		return chat.Bool.String()
	case 'n':
		return chat.Null.String()
	}
	return chat.Number.String()
}

// at returns the path of a field.
func (f *fields) at(key string) string {
	if f.path == "" {
		return key
	}
	return f.path + "." + key
}

func (f *fields) fail(err *failure) {
	if f.err == nil {
		f.err = err
	}
}

func (f *fields) mistyped(key, want string, raw json.RawMessage) {
	f.fail(invalid(f.at(key), "want %s, found %s", want, kindOf(raw)))
}

// take returns a field and counts it as known; nil if it is absent or null.
func (f *fields) take(key string) json.RawMessage {
	raw := f.raw[key]
	delete(f.raw, key)
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// unknown lists the fields that nobody took.
func (f *fields) unknown() []string {
	var keys []string
	for key := range f.raw {
		keys = append(keys, f.at(key))
	}
	slices.Sort(keys)
	return keys
}

// boolean sets dst if the field is there, as do the following.
func (f *fields) boolean(key string, dst *bool) {
	switch raw := f.take(key); string(raw) {
	case "":
	case "true", "false":
		*dst = raw[0] == 't'
	default:
		f.mistyped(key, "true or false", raw)
	}
}

func (f *fields) text(key string, dst *string) {
	raw := f.take(key)
	if raw == nil {
		return
	}
	if raw[0] != '"' {
		f.mistyped(key, "a string", raw)
		return
	}
	*dst = unquote(raw)
}

func (f *fields) number(key string, dst *float64) {
	raw := f.take(key)
	if raw == nil {
		return
	}
	x, err := parseNumber(raw)
	if err != "" {
		f.fail(invalid(f.at(key), "%s", err))
		return
	}
	*dst = x
}

// integer sets dst to a whole number from low to high.
func (f *fields) integer(key string, dst *int64, low, high int64) {
	raw := f.take(key)
	if raw == nil {
		return
	}
	n, err := parseInteger(raw, low, high)
	if err != "" {
		f.fail(invalid(f.at(key), "%s", err))
		return
	}
	*dst = n
}

func (f *fields) int(key string, dst *int, low, high int) {
	n := int64(*dst)
	f.integer(key, &n, int64(low), int64(high))
	*dst = int(n)
}

// object takes a field that is an object; nil if it is absent.
func (f *fields) object(key string) *fields {
	raw := f.take(key)
	if raw == nil {
		return nil
	}
	if raw[0] != '{' {
		f.mistyped(key, "an object", raw)
		return nil
	}
	sub, err := parseFields(f.at(key), raw)
	if err != nil {
		f.fail(err)
	}
	return sub
}

// close passes the errors of an object that was taken on to f.
func (f *fields) close(sub *fields) {
	if sub.err != nil {
		f.fail(sub.err)
	}
}

// items splits the elements of an array.
func items(raw json.RawMessage) []json.RawMessage {
	var out []json.RawMessage
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err) // raw is an array, part of JSON that was checked
	}
	return out
}

// unquote returns the contents of a JSON string. What is not Unicode, such as
// lone surrogates, becomes U+FFFD.
func unquote(raw json.RawMessage) string {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		panic(err) // raw is a string, part of JSON that was checked
	}
	return s
}

// parseNumber reads a JSON number, or says what is wrong.
func parseNumber(raw json.RawMessage) (float64, string) {
	if kindOf(raw) != chat.Number.String() {
		return 0, "want a number, found " + kindOf(raw)
	}
	x, err := strconv.ParseFloat(string(raw), 64)
	if err != nil {
		return 0, fmt.Sprintf("%s is out of range", shorten(raw))
	}
	return x, ""
}

// parseInteger reads a whole number, however it is written, or says what is
// wrong.
func parseInteger(raw json.RawMessage, low, high int64) (int64, string) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		x, problem := parseNumber(raw)
		switch {
		case kindOf(raw) != chat.Number.String():
			return 0, "want a whole number, found " + kindOf(raw)
		case problem == "" && x != math.Trunc(x):
			return 0, fmt.Sprintf("is %s, want a whole number", shorten(raw))
		case problem != "" || math.Abs(x) > 1<<53:
			return 0, outside(raw, low, high)
		}
		n = int64(x)
	}
	if n < low || n > high {
		return 0, outside(raw, low, high)
	}
	return n, ""
}

func outside(raw json.RawMessage, low, high int64) string {
	return fmt.Sprintf("is %s, want a whole number from %d to %d", shorten(raw), low, high)
}

// shorten keeps a client's number from filling the message.
func shorten(raw json.RawMessage) string {
	const enough = 32
	if len(raw) > enough {
		return string(raw[:enough]) + "..."
	}
	return string(raw)
}
