package chat

import (
	"math"
	"strconv"
	"strings"
)

// call turns the parameters of one tool call into fragments of a JSON object.
// Values marked as strings stream; others are collected and read according to
// the tool's schema. Whatever the parameters hold, the fragments up to close
// make valid JSON.
type call struct {
	known      bool  // the tool is one that the model was shown
	properties Value // of its schema
	written    int   // members written so far

	key      string
	str      bool // the current value is marked as a string
	collects bool
	text     strings.Builder // collected so far

	// wrapper holds back a first parameter that may turn out to be all
	// arguments in one.
	wrapper *wrapper
}

type wrapper struct {
	key, text string
	str       bool
}

func newCall(name string, tools []Tool) *call {
	c := &call{}
	for i := range tools {
		if tools[i].Name != name {
			continue
		}
		function, err := ParseJSON(string(tools[i].Function))
		if err != nil {
			break
		}
		c.known = true
		parameters, _ := function.Get("parameters")
		c.properties, _ = parameters.Get("properties")
		break
	}
	return c
}

// mayWrap tells whether models are known to put all arguments of a tool into
// one parameter of that name, and the tool has none such.
func (c *call) mayWrap(key string) bool {
	if !c.known || c.written > 0 || key != "arguments" && key != "input" {
		return false
	}
	_, own := c.properties.Get(key)
	return !own
}

// open begins a parameter.
func (c *call) open(key string, str bool) string {
	wrap := c.wrapper == nil && c.mayWrap(key)
	fragment := c.unheld()
	c.key, c.str = key, str
	c.collects = wrap || !str
	c.text.Reset()
	if c.collects {
		return fragment
	}
	return fragment + c.lead(key) + `"`
}

// value takes a piece of the parameter's value.
func (c *call) value(text string) string {
	if c.collects {
		c.text.WriteString(text)
		return ""
	}
	return string(appendEscaped(nil, text))
}

// end ends a parameter.
func (c *call) end() string {
	if !c.collects {
		return `"`
	}
	if c.wrapper == nil && c.mayWrap(c.key) {
		c.wrapper = &wrapper{c.key, c.text.String(), c.str}
		return ""
	}
	return c.member(c.key, c.text.String(), c.str)
}

// cut ends a parameter whose closing tag is missing; rest is what was held back
// as its possible beginning. With truncated, a value that cannot be told from a
// part of it is dropped.
func (c *call) cut(rest string, truncated bool) string {
	switch {
	case !truncated:
		return c.value(rest) + c.end()
	case c.collects:
		return ""
	}
	return `"`
}

// close ends the call.
func (c *call) close() string {
	if w := c.wrapper; w != nil {
		if v, err := ParseJSON(strings.TrimSpace(w.text)); err == nil && c.fits(v) {
			c.wrapper = nil
			return v.String()
		}
	}
	fragment := c.unheld()
	if c.written == 0 {
		return fragment + "{}"
	}
	return fragment + "}"
}

// fits tells whether v is an object with keys of the tool's schema only.
func (c *call) fits(v Value) bool {
	for i := range v.Members {
		if _, ok := c.properties.Get(v.Members[i].Key); !ok {
			return false
		}
	}
	return v.Kind == Object
}

// unheld writes the wrapper as the ordinary parameter it turned out to be.
func (c *call) unheld() string {
	w := c.wrapper
	if w == nil {
		return ""
	}
	c.wrapper = nil
	return c.member(w.key, w.text, w.str)
}

// member writes a collected parameter.
func (c *call) member(key, text string, str bool) string {
	lead := c.lead(key)
	if str {
		return lead + quote(text)
	}
	schema, _ := c.properties.Get(key)
	return lead + coerce(schema, text)
}

// lead writes what stands before a value.
func (c *call) lead(key string) string {
	separator := "{"
	if c.written > 0 {
		separator = ", "
	}
	c.written++
	return separator + quote(key) + ": "
}

func quote(s string) string {
	return Value{Kind: String, Text: s}.String()
}

// coerce returns the JSON of a parameter that the model did not mark as a
// string. A value of a type that the schema allows stays as written, as do null,
// arrays and objects; other scalars are converted if the schema's type is clear
// from the text, such as True for a boolean. What remains becomes a string.
func coerce(schema Value, raw string) string {
	text := strings.TrimSpace(raw)
	v, err := ParseJSON(text)
	valid := err == nil
	types := schemaTypes(nil, schema, 0)
	onlyString := len(types) > 0
	for _, t := range types {
		if valid && hasType(v, t) {
			return text
		}
		onlyString = onlyString && t == "string"
	}
	if valid && (len(types) == 0 || v.Kind == Null || !onlyString && (v.Kind == Array || v.Kind == Object)) {
		return text
	}
	bare := text
	if valid && v.Kind == String {
		bare = strings.TrimSpace(v.Text)
	}
	for _, t := range types {
		if s, ok := convert(t, bare); ok {
			return s
		}
	}
	if valid && v.Kind == String {
		return text
	}
	return quote(raw)
}

// schemaTypes appends the type names that a JSON Schema allows, as far as it
// says so plainly.
func schemaTypes(types []string, schema Value, depth int) []string {
	t, _ := schema.Get("type")
	switch t.Kind {
	case String:
		types = append(types, t.Text)
	case Array:
		for _, item := range t.Items {
			if item.Kind == String {
				types = append(types, item.Text)
			}
		}
	}
	const nesting = 4 // of unions
	if depth < nesting {
		for _, union := range [...]string{"anyOf", "oneOf"} {
			alternatives, _ := schema.Get(union)
			for _, s := range alternatives.Items {
				types = schemaTypes(types, s, depth+1)
			}
		}
	}
	return types
}

func hasType(v Value, name string) bool {
	switch v.Kind {
	case Null:
		return name == "null"
	case Bool:
		return name == "boolean"
	case Number:
		return name == "number" || name == "integer" && !strings.ContainsAny(v.Text, ".eE")
	case String:
		return name == "string"
	case Array:
		return name == "array"
	case Object:
		return name == "object"
	}
	return false
}

// convert reads text as a value of the named type and returns its JSON.
func convert(name, text string) (string, bool) {
	switch name {
	case "null":
		return "null", strings.EqualFold(text, "none") || text == "null"
	case "boolean":
		switch {
		case strings.EqualFold(text, "true") || text == "1":
			return "true", true
		case strings.EqualFold(text, "false") || text == "0":
			return "false", true
		}
		return "", false
	}
	v, err := ParseJSON(text)
	if err != nil {
		return "", false
	}
	if hasType(v, name) {
		return text, v.Kind != String
	}
	if name == "integer" && v.Kind == Number {
		// 5.0 and 1e3 are integers to JSON Schema; doubles hold them exactly
		// below 2^53.
		f, err := strconv.ParseFloat(text, 64)
		if err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return strconv.FormatInt(int64(f), 10), true
		}
	}
	return "", false
}
