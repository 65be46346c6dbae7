package chat

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPythonJSON(t *testing.T) {
	f, err := os.Open("testdata/json_dumps.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	n := 0
	for lines.Scan() {
		var pair [2]string
		if err := json.Unmarshal(lines.Bytes(), &pair); err != nil {
			t.Fatal(err)
		}
		v, err := ParseJSON(pair[0])
		if err != nil {
			t.Errorf("%s: %v", pair[0], err)
			continue
		}
		if got := v.String(); got != pair[1] {
			t.Errorf("%s:\n got %s\nwant %s", pair[0], got, pair[1])
		}
		n++
	}
	if err := lines.Err(); err != nil || n < 500 {
		t.Fatalf("read %d lines: %v", n, err)
	}
}

func TestJSONErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "byte 0: unexpected end of text"},
		{"  ", "byte 2: unexpected end of text"},
		{"NaN", `byte 0: unexpected "N"`},
		{"-Infinity", `byte 1: unexpected "I", want a digit`},
		{"nul", `unexpected "n"`},
		{"nullx", `byte 4: unexpected "x" after the value`},
		{"01", `byte 1: unexpected "1" after`},
		{"+1", `unexpected "+"`},
		{"-", "want a digit"},
		{"1.", "digit after the point"},
		{".5", `unexpected "."`},
		{"1e", "digit of the exponent"},
		{"1e+", "digit of the exponent"},
		{"0x1", `byte 1`},
		{`"a`, "end of text in a string"},
		{`"a\`, "end of text in a string"},
		{`"\x"`, `unknown escape "\\x"`},
		{`"\u12"`, `\u escape`},
		{`"\u12g4"`, "hexadecimal"},
		{`"\ud83d\u12g4"`, "hexadecimal"},
		{"\"a\nb\"", `control character "\n"`},
		{"'a'", `unexpected "'"`},
		{"[1,]", `byte 3: unexpected "]", want a value`},
		{"[1 2]", `want ',' or ']'`},
		{"[1", "end of text in an array"},
		{`{"a":1,}`, "want a key"},
		{`{"a" 1}`, "want ':'"},
		{`{"a":1`, "end of text in an object"},
		{`{"a":1 "b":2}`, `want ',' or '}'`},
		{`{a:1}`, `unexpected "a", want a key in quotes`},
		{`{1:1}`, "want a key"},
		{"[1]]", `unexpected "]" after`},
		{"/* */1", `unexpected "/"`},
		{strings.Repeat("[", 129) + strings.Repeat("]", 129), "nested deeper than 128"},
		{strings.Repeat(`{"a":`, 100000), "nested deeper than 128"},
	} {
		_, err := ParseJSON(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: got %v, want an error with %q", c.text, err, c.want)
		}
	}
	if _, err := ParseJSON(strings.Repeat("[", 128) + strings.Repeat("]", 128)); err != nil {
		t.Error(err)
	}
}

func TestJSONSurrogates(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`"\ud83d\ude00"`, "😀"},
		{`"\ud83d"`, "\uFFFD"},
		{`"\ude00\ud83d"`, "\uFFFD\uFFFD"},
		{`"\ud83d\u0041"`, "\uFFFDA"},
		{`"\ud83d\ud83d\ude00"`, "\uFFFD😀"},
		{"\"a\xffb\"", "a\uFFFDb"},
		{"\"\xff\\n\xfe\"", "\uFFFD\n\uFFFD"},
	} {
		v, err := ParseJSON(c.text)
		if err != nil || v.Text != c.want {
			t.Errorf("%s: %q, %v; want %q", c.text, v.Text, err, c.want)
		}
	}
}

func TestGetOfManyKeys(t *testing.T) {
	v, err := ParseJSON(`{"a": 1, "b": {"c": [2]}, "a": 3}`)
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := v.Get("a"); !ok || a.Text != "3" {
		t.Errorf("a = %v, %v; want the last value, 3", a, ok)
	}
	if _, ok := v.Get("c"); ok {
		t.Error("found a key of a nested object")
	}
}

// FuzzJSON compares with encoding/json: the same texts are valid, what is
// written reads back as the same value, and writing is stable.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a": [1, 2.5e-7, "x\u00e9"], "b": {}}`, "[[1e999]]", `"\ud800"`, " 12 ", `{"a":1,"a":2}`, "-0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseJSON(text)
		if valid := json.Valid([]byte(text)); valid != (err == nil) {
			if valid && strings.Contains(err.Error(), "nested deeper") {
				return
			}
			t.Fatalf("encoding/json says valid %v, ParseJSON %v", valid, err)
		}
		if err != nil {
			return
		}
		out := v.String()
		if !utf8.ValidString(out) {
			t.Fatalf("%q is not UTF-8", out)
		}
		if strings.Contains(out, "Infinity") {
			return
		}
		again, err := ParseJSON(out)
		if err != nil {
			t.Fatalf("own output %s: %v", out, err)
		}
		if s := again.String(); s != out {
			t.Fatalf("written again, %s became %s", out, s)
		}
		var a, b any
		if json.Unmarshal([]byte(text), &a) != nil {
			return // a number that a double cannot hold
		}
		if err := json.Unmarshal([]byte(out), &b); err != nil {
			t.Fatalf("encoding/json on %s: %v", out, err)
		}
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		// 0 and -0 differ in bits only: -0 is an integer to Python.
		if string(x) != string(y) && strings.ReplaceAll(string(x), "-0", "0") != strings.ReplaceAll(string(y), "-0", "0") {
			t.Fatalf("%s became %s", x, y)
		}
	})
}
