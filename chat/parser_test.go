package chat

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// counter makes ids call_0, call_1, …
func counter() func() string {
	n := -1
	return func() string { n++; return fmt.Sprintf("call_%d", n) }
}

// complete parses text pushed in the given pieces.
func complete(opts ParserOptions, pieces []string, truncated bool) Message {
	opts.NewID = counter()
	p := NewParser(opts)
	m := Message{Role: Assistant}
	for _, s := range pieces {
		for _, d := range p.Push(s) {
			m.Add(d)
		}
	}
	for _, d := range p.Finish(truncated) {
		m.Add(d)
	}
	return m
}

// dsmlText writes the table's shorthand out: ⟨c⟩ and ⟨/c⟩ for the block, ⟨i f⟩ and
// ⟨/i⟩ for a call, ⟨p k true⟩ and ⟨/p⟩ for a parameter.
func dsmlText(s string) string {
	s = strings.NewReplacer("⟨c⟩", callsOpen, "⟨/c⟩", callsClose, "⟨/i⟩", invokeClose, "⟨/p⟩", parameterClose).Replace(s)
	for {
		i := strings.Index(s, "⟨")
		if i < 0 {
			return s
		}
		n := strings.Index(s[i:], "⟩")
		f := strings.Fields(s[i+len("⟨") : i+n])
		t := invokeOpen + ` name="` + f[1] + `">`
		if f[0] == "p" {
			t = parameterOpen + ` name="` + f[1] + `" string="` + f[2] + `">`
		}
		s = s[:i] + t + s[i+n+len("⟩"):]
	}
}

var parserTools = []Tool{
	{Name: "f", Function: json.RawMessage(`{"name":"f","parameters":{"type":"object","properties":{"s":{"type":"string"},"i":{"type":"integer"},"n":{"type":"number"},"b":{"type":"boolean"},"a":{"type":"array"},"o":{"type":"object"},"u":{"type":["integer","null"]},"y":{"anyOf":[{"type":"boolean"},{"type":"string"}]},"x":{}}}}`)},
	{Name: "own", Function: json.RawMessage(`{"name":"own","parameters":{"properties":{"input":{"type":"string"}}}}`)},
	{Name: "none", Function: json.RawMessage(`{"name":"none"}`)},
}

var parserCases = []struct {
	name      string
	text      string
	thinking  bool
	truncated bool
	reasoning string
	content   string
	calls     string // "name(arguments)", joined by spaces
}{
	{name: "empty"},
	{name: "plain", text: "Hello", content: "Hello"},
	{name: "reasoning", text: "why</think>because", thinking: true, reasoning: "why", content: "because"},
	{name: "no reasoning", text: "</think>\n\nyes", thinking: true, content: "\n\nyes"},
	{name: "reasoning never ends", text: "why < </thin", thinking: true, reasoning: "why < </thin"},
	{name: "second close is content", text: "a</think>b</think>c", thinking: true, reasoning: "a", content: "b</think>c"},
	{name: "close in chat mode is content", text: "a</think>b", content: "a</think>b"},
	{name: "call in reasoning is reasoning", text: "a\n\n⟨c⟩\n⟨i f⟩\n⟨/i⟩\n⟨/c⟩", thinking: true, reasoning: "a\n\n⟨c⟩\n⟨i f⟩\n⟨/i⟩\n⟨/c⟩"},
	{name: "call", text: "r</think>c\n\n⟨c⟩\n⟨i f⟩\n⟨p s true⟩v⟨/p⟩\n⟨p n false⟩1e3⟨/p⟩\n⟨/i⟩\n⟨/c⟩", thinking: true, reasoning: "r", content: "c", calls: `f({"s": "v", "n": 1e3})`},
	{name: "no arguments", text: "\n\n⟨c⟩\n⟨i f⟩\n\n⟨/i⟩\n⟨/c⟩", calls: `f({})`},
	{name: "two calls, two blocks", text: "\n\n⟨c⟩\n⟨i f⟩\n\n⟨/i⟩\n⟨i none⟩⟨/i⟩\n⟨/c⟩\n\n⟨c⟩⟨i f⟩⟨p s true⟩⟨/p⟩⟨/i⟩⟨/c⟩\n", calls: `f({}) none({}) f({"s": ""})`},
	{name: "exactly one blank line goes", text: "a\n\n\n⟨c⟩⟨i f⟩⟨/i⟩⟨/c⟩", content: "a\n", calls: `f({})`},
	{name: "one newline stays", text: "a\n⟨c⟩⟨i f⟩⟨/i⟩⟨/c⟩", content: "a\n", calls: `f({})`},
	{name: "text between and after blocks", text: "a\n\n⟨c⟩⟨i f⟩⟨/i⟩⟨/c⟩\n b\n\n⟨c⟩⟨i f⟩⟨/i⟩⟨/c⟩ c ", content: "a\n b c ", calls: `f({}) f({})`},
	{name: "escapes", text: "⟨c⟩⟨i f⟩⟨p s true⟩a\"b\\c\n\t\u0001 é😀</⟨/p⟩⟨/i⟩⟨/c⟩", calls: `f({"s": "a\"b\\c\n\t\u0001 é😀</"})`},
	{name: "strings are not trimmed", text: "⟨c⟩⟨i f⟩⟨p s true⟩ \n ⟨/p⟩⟨/i⟩⟨/c⟩", calls: `f({"s": " \n "})`},
	{name: "attributes spread out", text: "⟨c⟩<｜DSML｜invoke\n name=\"f\" ><｜DSML｜parameter  string=\"false\"\tname=\"i\"\n>1⟨/p⟩⟨/i⟩⟨/c⟩", calls: `f({"i": 1})`},
	{name: "closing tags in strings", text: "⟨c⟩⟨i f⟩⟨p s true⟩⟨/i⟩⟨/c⟩</think>⟨/p⟩⟨/i⟩⟨/c⟩", calls: `f({"s": "⟨/i⟩⟨/c⟩</think>"})`},
	{name: "unknown tool", text: "⟨c⟩⟨i g⟩⟨p a.b false⟩[1]⟨/p⟩⟨p c false⟩x⟨/p⟩⟨/i⟩⟨/c⟩", calls: `g({"a.b": [1], "c": "x"})`},

	{name: "integers", text: "⟨c⟩⟨i f⟩⟨p i false⟩ 5.0\n⟨/p⟩⟨/i⟩⟨i f⟩⟨p i false⟩\"7\"⟨/p⟩⟨/i⟩⟨i f⟩⟨p i false⟩12345678901234567890⟨/p⟩⟨/i⟩⟨i f⟩⟨p i false⟩ten⟨/p⟩⟨/i⟩⟨i f⟩⟨p i false⟩2.5⟨/p⟩⟨/i⟩⟨/c⟩",
		calls: `f({"i": 5}) f({"i": 7}) f({"i": 12345678901234567890}) f({"i": "ten"}) f({"i": "2.5"})`},
	{name: "booleans", text: "⟨c⟩⟨i f⟩⟨p b false⟩True⟨/p⟩⟨/i⟩⟨i f⟩⟨p b false⟩0⟨/p⟩⟨/i⟩⟨i f⟩⟨p b false⟩\"false\"⟨/p⟩⟨/i⟩⟨i f⟩⟨p b false⟩maybe⟨/p⟩⟨/i⟩⟨i f⟩⟨p b false⟩null⟨/p⟩⟨/i⟩⟨/c⟩",
		calls: `f({"b": true}) f({"b": false}) f({"b": false}) f({"b": "maybe"}) f({"b": null})`},
	{name: "strings not marked as such", text: "⟨c⟩⟨i f⟩⟨p s false⟩12⟨/p⟩⟨/i⟩⟨i f⟩⟨p s false⟩\"q\"⟨/p⟩⟨/i⟩⟨i f⟩⟨p s false⟩{\"a\": 1}⟨/p⟩⟨/i⟩⟨i f⟩⟨p s false⟩ bare ⟨/p⟩⟨/i⟩⟨/c⟩",
		calls: `f({"s": "12"}) f({"s": "q"}) f({"s": "{\"a\": 1}"}) f({"s": " bare "})`},
	{name: "arrays and objects", text: "⟨c⟩⟨i f⟩⟨p a false⟩[1, {\"k\":null}]⟨/p⟩⟨p o false⟩\"{\\\"k\\\": 1}\"⟨/p⟩⟨p x false⟩[1,⟨/p⟩⟨/i⟩⟨/c⟩",
		calls: `f({"a": [1, {"k":null}], "o": {"k": 1}, "x": "[1,"})`},
	{name: "unions", text: "⟨c⟩⟨i f⟩⟨p u false⟩None⟨/p⟩⟨p y false⟩TRUE⟨/p⟩⟨/i⟩⟨i f⟩⟨p u false⟩3⟨/p⟩⟨p y false⟩yes⟨/p⟩⟨/i⟩⟨/c⟩",
		calls: `f({"u": null, "y": true}) f({"u": 3, "y": "yes"})`},

	{name: "wrapped in arguments", text: "⟨c⟩⟨i f⟩⟨p arguments false⟩{\"s\":\"v\",\"i\":1}⟨/p⟩⟨/i⟩⟨/c⟩", calls: `f({"s": "v", "i": 1})`},
	{name: "wrapped in input, as a string", text: "⟨c⟩⟨i f⟩⟨p input true⟩{\"s\":\"v\"}⟨/p⟩\n⟨/i⟩⟨/c⟩", calls: `f({"s": "v"})`},
	{name: "wrapped, nothing inside", text: "⟨c⟩⟨i none⟩⟨p input false⟩{}⟨/p⟩⟨/i⟩⟨/c⟩", calls: `none({})`},
	{name: "not wrapped: foreign keys", text: "⟨c⟩⟨i f⟩⟨p input false⟩{\"zz\":1}⟨/p⟩⟨/i⟩⟨/c⟩", calls: `f({"input": {"zz":1}})`},
	{name: "not wrapped: not an object", text: "⟨c⟩⟨i f⟩⟨p input true⟩text⟨/p⟩⟨/i⟩⟨/c⟩", calls: `f({"input": "text"})`},
	{name: "not wrapped: more parameters", text: "⟨c⟩⟨i f⟩⟨p input false⟩{\"s\":\"v\"}⟨/p⟩⟨p i false⟩1⟨/p⟩⟨/i⟩⟨/c⟩", calls: `f({"input": {"s":"v"}, "i": 1})`},
	{name: "not wrapped: two of them", text: "⟨c⟩⟨i f⟩⟨p input true⟩{}⟨/p⟩⟨p arguments true⟩{}⟨/p⟩⟨/i⟩⟨/c⟩", calls: `f({"input": "{}", "arguments": "{}"})`},
	{name: "not wrapped: the tool's own", text: "⟨c⟩⟨i own⟩⟨p input true⟩{}⟨/p⟩⟨/i⟩⟨/c⟩", calls: `own({"input": "{}"})`},
	{name: "not wrapped: unknown tool", text: "⟨c⟩⟨i g⟩⟨p input false⟩{}⟨/p⟩⟨/i⟩⟨/c⟩", calls: `g({"input": {}})`},

	{name: "not a block", text: "a\n\n⟨c⟩ is how calls begin", content: "a\n\n⟨c⟩ is how calls begin"},
	{name: "empty block", text: "a\n\n⟨c⟩\n⟨/c⟩", content: "a\n\n⟨c⟩\n⟨/c⟩"},
	{name: "bad invoke tag", text: "⟨c⟩\n<｜DSML｜invoke nam=f>⟨/i⟩\n⟨/c⟩", content: "⟨c⟩\n<｜DSML｜invoke nam=f>⟨/i⟩\n⟨/c⟩"},
	{name: "invoke without a name", text: "⟨c⟩<｜DSML｜invoke>⟨/i⟩⟨/c⟩", content: "⟨c⟩<｜DSML｜invoke>⟨/i⟩⟨/c⟩"},
	{name: "a real block behind a false one", text: "⟨c⟩⟨c⟩\n⟨i f⟩⟨/i⟩⟨/c⟩", content: "⟨c⟩", calls: "f({})"},
	{name: "text between calls", text: "⟨c⟩⟨i f⟩⟨/i⟩ and < \n⟨i f⟩⟨/i⟩⟨/c⟩", content: " and <", calls: "f({}) f({})"},
	{name: "text between parameters", text: "⟨c⟩⟨i f⟩ one \n⟨p i false⟩1⟨/p⟩ two⟨/i⟩⟨/c⟩", content: " one two", calls: `f({"i": 1})`},
	{name: "parameter without string", text: "⟨c⟩⟨i f⟩<｜DSML｜parameter name=\"i\">1⟨/p⟩⟨/i⟩⟨/c⟩", content: "<｜DSML｜parameter name=\"i\">1⟨/p⟩", calls: `f({})`},
	{name: "a tag that never ends", text: "⟨c⟩<｜DSML｜invoke name=\"" + strings.Repeat("x", 5000), content: "⟨c⟩<｜DSML｜invoke name=\"" + strings.Repeat("x", 5000)},
	{name: "a tag that is too long", text: "⟨c⟩⟨i " + strings.Repeat("x", 5000) + "⟩", content: "⟨c⟩⟨i " + strings.Repeat("x", 5000) + "⟩"},
	{name: "half a tag", text: "a <｜DS", content: "a <｜DS"},
	{name: "blank line at the end", text: "a\n\n", content: "a\n\n"},
	{name: "stopped in front of the first call", text: "a\n\n⟨c⟩\n<｜DSML｜inv", content: "a\n\n⟨c⟩\n<｜DSML｜inv"},
	{name: "stopped inside a call", text: "⟨c⟩⟨i f⟩\n⟨p i false⟩1⟨/p⟩\n", calls: `f({"i": 1})`},
	{name: "stopped inside a value", text: "⟨c⟩⟨i f⟩⟨p i false⟩1", calls: `f({"i": 1})`},
	{name: "stopped inside a tag", text: "⟨c⟩⟨i f⟩⟨p i false⟩1⟨/p⟩<｜DSML｜par", content: "<｜DSML｜par", calls: `f({"i": 1})`},
	{name: "stopped after a call", text: "⟨c⟩⟨i f⟩⟨/i⟩\n", calls: `f({})`},

	{name: "truncated in front of the first call", text: "a\n\n⟨c⟩\n<｜DSML｜inv", truncated: true, content: "a"},
	{name: "truncated inside a string", text: "⟨c⟩⟨i f⟩⟨p i false⟩1⟨/p⟩⟨p s true⟩hel</｜DS", truncated: true, calls: `f({"i": 1, "s": "hel"})`},
	{name: "truncated inside another value", text: "⟨c⟩⟨i f⟩⟨p s true⟩a⟨/p⟩⟨p i false⟩1", truncated: true, calls: `f({"s": "a"})`},
	{name: "truncated inside a tag", text: "⟨c⟩⟨i f⟩⟨p i false⟩1⟨/p⟩<｜DSML｜par", truncated: true, calls: `f({"i": 1})`},
	{name: "truncated inside a wrapper", text: "⟨c⟩⟨i f⟩⟨p input true⟩{\"s\": \"a", truncated: true, calls: `f({})`},
	{name: "truncated behind a wrapper", text: "⟨c⟩⟨i f⟩⟨p input true⟩{\"s\": \"a\"}⟨/p⟩", truncated: true, calls: `f({"s": "a"})`},
	{name: "truncated half a tag in content", text: "a\n\n<｜DSML｜fun", truncated: true, content: "a\n\n<｜DSML｜fun"},
}

func calls(m Message) string {
	var list []string
	for i, c := range m.ToolCalls {
		if c.ID != fmt.Sprintf("call_%d", i) {
			list = append(list, "id "+c.ID)
		}
		list = append(list, c.Name+"("+c.Arguments+")")
	}
	return strings.Join(list, " ")
}

func TestParser(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range parserCases {
		t.Run(c.name, func(t *testing.T) {
			text := dsmlText(c.text)
			opts := ParserOptions{Reasoning: c.thinking, Tools: parserTools}
			type result struct{ Reasoning, Content, Calls string }
			want := result{dsmlText(c.reasoning), dsmlText(c.content), dsmlText(c.calls)}
			check := func(how string, pieces []string) {
				t.Helper()
				m := complete(opts, pieces, c.truncated)
				if diff := cmp.Diff(want, result{m.ReasoningContent, m.Content, calls(m)}); diff != "" {
					t.Errorf("%s (-want +got):\n%s", how, diff)
				}
				for _, call := range m.ToolCalls {
					if !json.Valid([]byte(call.Arguments)) {
						t.Errorf("%s: arguments %s", how, call.Arguments)
					}
				}
			}
			check("at once", []string{text})
			var bytes []string
			for i := range len(text) {
				bytes = append(bytes, text[i:i+1])
			}
			check("by bytes", bytes)
			for range 50 {
				check("cut at random", cut(text, rng))
			}
		})
	}
}

// cut cuts text into random pieces.
func cut(text string, rng *rand.Rand) (pieces []string) {
	most := 1 + rng.IntN(20)
	for text != "" {
		n := min(rng.IntN(most+1), len(text))
		pieces = append(pieces, text[:n])
		text = text[n:]
	}
	return pieces
}

func TestNoToolCalls(t *testing.T) {
	text := dsmlText("a\n\n⟨c⟩⟨i f⟩⟨/i⟩⟨/c⟩")
	m := complete(ParserOptions{NoToolCalls: true}, []string{text}, false)
	if m.Content != text || m.ToolCalls != nil {
		t.Errorf("%+v", m)
	}
}

// Deltas must come as soon as they are certain, and the first of a call must
// have id and name and no arguments.
func TestParserStreams(t *testing.T) {
	p := NewParser(ParserOptions{Reasoning: true, Tools: parserTools, NewID: counter()})
	show := func(deltas []Delta) string {
		var s []string
		for _, d := range deltas {
			switch {
			case d.ToolCall != nil && d.ToolCall.Name != "":
				s = append(s, fmt.Sprintf("call %d %s %s%s", d.ToolCall.Index, d.ToolCall.ID, d.ToolCall.Name, d.ToolCall.Arguments))
			case d.ToolCall != nil:
				s = append(s, fmt.Sprintf("args %d %s", d.ToolCall.Index, d.ToolCall.Arguments))
			case d.Reasoning != "":
				s = append(s, "reasoning "+d.Reasoning)
			default:
				s = append(s, "content "+d.Content)
			}
		}
		return strings.Join(s, "; ")
	}
	for i, step := range []struct{ push, want string }{
		{"think", "reasoning think"},
		{"ing </th", "reasoning ing "},
		{"ink", ""},
		{">Hi", "content Hi"},
		{" 1 < 2", "content  1 < 2"},
		{"\n", ""},
		{"\n\n", "content \n"},
		{"x\n\n<", "content \n\nx"},
		{"｜DSML｜function_calls", ""},
		{">\n", ""},
		{dsmlText("⟨i f⟩"), "call 0 call_0 f"},
		{dsmlText("\n⟨p s true⟩"), `args 0 {"s": "`},
		{"say \"", `args 0 say \"`},
		{"é</｜DSML｜", `args 0 é`},
		{"parameter", ""},
		{">", `args 0 "`},
		{dsmlText("⟨p i false⟩1"), ""},
		{"2", ""},
		{dsmlText("⟨/p⟩"), `args 0 , "i": 12`},
		{dsmlText("⟨/i⟩⟨i none⟩⟨/i⟩"), "args 0 }; call 1 call_1 none; args 1 {}"},
		{dsmlText("⟨/c⟩\n"), ""},
		{"bye", "content \nbye"},
		{"\xf0\x9f", ""},
		{"\x98\x80", "content 😀"},
		{"\xf0", ""},
	} {
		if got := show(p.Push(step.push)); got != step.want {
			t.Errorf("step %d, %q: %q, want %q", i, step.push, got, step.want)
		}
	}
	if got := show(p.Finish(false)); got != "content \uFFFD" {
		t.Errorf("at the end: %q", got)
	}
	if p.ToolCalls() != 2 {
		t.Errorf("%d calls", p.ToolCalls())
	}
}

// The official example's own assistant turns must read back as they were.
func TestParseOfficialExample(t *testing.T) {
	req, text := official(t)
	turns := strings.Split(text, eos)
	n := 0
	for _, m := range req.Messages {
		if m.Role != Assistant {
			continue
		}
		turn := turns[n]
		n++
		i := max(strings.LastIndex(turn, thinkOpen), strings.LastIndex(turn, assistantMark+thinkClose), strings.LastIndex(turn, "</function_results>\n\n"+thinkClose))
		open := strings.HasPrefix(turn[i:], thinkOpen)
		if open {
			turn = turn[i+len(thinkOpen):]
		} else {
			turn = turn[i+strings.Index(turn[i:], thinkClose)+len(thinkClose):]
			m.ReasoningContent = "" // dropped
		}
		got := complete(ParserOptions{Reasoning: open, Tools: req.Tools}, []string{turn}, false)
		for j := range got.ToolCalls {
			got.ToolCalls[j].ID = m.ToolCalls[j].ID
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Errorf("turn %d (-want +got):\n%s", n, diff)
		}
	}
	if n != 5 {
		t.Errorf("%d assistant turns", n)
	}
}

// FuzzParser: however a text is cut, the result is the same; arguments are valid
// JSON; without DSML no byte is lost.
func FuzzParser(f *testing.F) {
	for i, c := range parserCases {
		f.Add(dsmlText(c.text), c.thinking, c.truncated, uint64(i))
	}
	f.Fuzz(func(t *testing.T, text string, thinking, truncated bool, seed uint64) {
		opts := ParserOptions{Reasoning: thinking, Tools: parserTools}
		want := complete(opts, []string{text}, truncated)
		rng := rand.New(rand.NewPCG(seed, 0))
		for range 3 {
			pieces := cut(text, rng)
			if diff := cmp.Diff(want, complete(opts, pieces, truncated)); diff != "" {
				t.Fatalf("cut as %q (-at once +cut):\n%s", pieces, diff)
			}
		}
		for _, call := range want.ToolCalls {
			if !json.Valid([]byte(call.Arguments)) || !strings.HasPrefix(call.Arguments, "{") {
				t.Fatalf("arguments %s", call.Arguments)
			}
		}
		if !strings.Contains(text, "<｜DSML｜") {
			got := want.ReasoningContent + want.Content
			if thinking {
				text = strings.Replace(text, thinkClose, "", 1)
			}
			if got != validUTF8(text) {
				t.Fatalf("%q became %q", text, got)
			}
		}
	})
}
