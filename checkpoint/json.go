package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
)

// ConfigError is a key of a configuration that has no usable value.
type ConfigError struct {
	Key   string // dotted path, e.g. "rope_scaling.factor"
	Found string // the value as JSON, shortened, or "nothing"
	Want  string // what is allowed
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s: found %s, want %s", e.Key, e.Found, e.Want)
}

// decodeObject decodes data, one JSON object, keeping numbers as written.
func decodeObject(data []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("not valid JSON: it ends too early")
		}
		return nil, fmt.Errorf("not valid JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("not valid JSON: more text after the object, at byte %d", dec.InputOffset())
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("found %s, want a JSON object", show(v))
	}
	return m, nil
}

// merge lays over onto base: objects key by key, anything else as a whole.
func merge(base, over map[string]any) {
	for k, v := range over {
		sub, ok := v.(map[string]any)
		into, isObject := base[k].(map[string]any)
		if ok && isObject {
			merge(into, sub)
			continue
		}
		base[k] = v
	}
}

// show prints a JSON value for an error message.
func show(v any) string {
	if v == nil {
		return "null"
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprintf("a %T", v)
	}
	b := bytes.TrimSpace(buf.Bytes())
	if r := []rune(string(b)); len(r) > 60 {
		return string(r[:57]) + "..."
	}
	return string(b)
}

// object reads typed values from a JSON object. The first error of a reader
// and of all objects below it is kept in err; later reads return zero values
// or defaults, so that the caller checks once.
type object struct {
	m    map[string]any
	path string // prefix of keys, "" or "rope_scaling."
	err  *error
}

// lookup returns the first of keys that is present and not null, and the name
// it was found under. Aliases that contradict one another are an error.
func (o object) lookup(keys ...string) (v any, key string) {
	for _, k := range keys {
		x, ok := o.m[k]
		if !ok || x == nil {
			continue
		}
		if key == "" {
			v, key = x, k
		} else if show(x) != show(v) {
			o.fail(k, show(x), fmt.Sprintf("the same as its alias %s, %s", o.path+key, show(v)))
		}
	}
	return v, key
}

// has tells whether key is present, even if null.
func (o object) has(key string) bool { _, ok := o.m[key]; return ok }

func (o object) fail(key, found, want string) {
	if *o.err == nil {
		*o.err = &ConfigError{o.path + key, found, want}
	}
}

// integer reads an integer in [lo, hi]. A missing or null key gives def, or is
// an error if def is negative.
func (o object) integer(def, lo, hi int, keys ...string) int {
	want := fmt.Sprintf("an integer from %d to %d", lo, hi)
	v, key := o.lookup(keys...)
	if key == "" {
		if def < 0 {
			o.fail(keys[0], o.absence(keys[0]), want)
			return 0
		}
		return def
	}
	num, ok := v.(json.Number)
	n, err := strconv.ParseInt(string(num), 10, 64)
	if !ok || err != nil || n < int64(lo) || n > int64(hi) {
		o.fail(key, show(v), want)
		return 0
	}
	return int(n)
}

func (o object) absence(key string) string {
	if o.has(key) {
		return "null"
	}
	return "nothing"
}

// number reads a finite float. A missing or null key gives def, or is an error
// if def is NaN.
func (o object) number(def float64, want string, ok func(float64) bool, key string) float64 {
	v, found := o.lookup(key)
	if found == "" {
		if math.IsNaN(def) {
			o.fail(key, o.absence(key), want)
		}
		return def
	}
	num, isNumber := v.(json.Number)
	f, err := strconv.ParseFloat(string(num), 64)
	if !isNumber || err != nil || math.IsInf(f, 0) || math.IsNaN(f) || !ok(f) {
		o.fail(key, show(v), want)
		return def
	}
	return f
}

func (o object) boolean(def bool, key string) bool {
	v, found := o.lookup(key)
	if found == "" {
		return def
	}
	b, ok := v.(bool)
	if !ok {
		o.fail(key, show(v), "true or false")
	}
	return b
}

// str reads a string; with allowed values it must be one of them.
func (o object) str(def, key string, allowed ...string) string {
	v, found := o.lookup(key)
	if found == "" {
		return def
	}
	s, ok := v.(string)
	if !ok {
		o.fail(key, show(v), "a string")
		return def
	}
	for _, a := range allowed {
		if s == a {
			return s
		}
	}
	if len(allowed) > 0 {
		o.fail(key, show(v), oneOf(allowed))
	}
	return s
}

// oneOf phrases a list of allowed values.
func oneOf(allowed []string) string {
	s := ""
	for i, a := range allowed {
		switch {
		case i == 0:
		case i == len(allowed)-1:
			s += " or "
		default:
			s += ", "
		}
		s += strconv.Quote(a)
	}
	return s
}

// child reads an object; missing or null gives ok = false.
func (o object) child(key string) (c object, ok bool) {
	v, found := o.lookup(key)
	if found == "" {
		return object{path: o.path + key + ".", err: o.err}, false
	}
	m, isObject := v.(map[string]any)
	if !isObject {
		o.fail(key, show(v), "an object or null")
	}
	return object{m, o.path + key + ".", o.err}, isObject
}

// words reads a list of strings, each one of allowed, of length n. Missing or
// null gives nil.
func (o object) words(n int, key string, allowed ...string) []string {
	v, found := o.lookup(key)
	if found == "" {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		o.fail(key, show(v), "a list of "+oneOf(allowed))
		return nil
	}
	if len(list) != n {
		o.fail(key, fmt.Sprintf("%d entries", len(list)), fmt.Sprintf("one for each of the %d layers", n))
		return nil
	}
	words := make([]string, n)
	for i, x := range list {
		at := object{map[string]any{fmt.Sprintf("%s[%d]", key, i): x}, o.path, o.err}
		if x == nil {
			at.fail(fmt.Sprintf("%s[%d]", key, i), "null", oneOf(allowed))
		}
		words[i] = at.str("", fmt.Sprintf("%s[%d]", key, i), allowed...)
	}
	return words
}

// ids reads one token id or a list of them; missing or null gives nil.
func (o object) ids(key string) []int {
	v, found := o.lookup(key)
	if found == "" {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	ids := make([]int, 0, min(len(list), 64))
	for _, x := range list {
		num, isNumber := x.(json.Number)
		n, err := strconv.ParseInt(string(num), 10, 32)
		if !isNumber || err != nil || n < 0 {
			o.fail(key, show(v), "a token id or a list of token ids")
			return nil
		}
		ids = append(ids, int(n))
	}
	return ids
}
