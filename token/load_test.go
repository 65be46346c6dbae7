package token

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// edited gives the V3 fixture's file after a change to its JSON.
func edited(t testing.TB, edit func(map[string]any)) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/v3.tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	edit(file)
	if data, err = json.Marshal(file); err != nil {
		t.Fatal(err)
	}
	return data
}

func model(f map[string]any) map[string]any { return f["model"].(map[string]any) }

func stage(f map[string]any, i int) map[string]any {
	return f["pre_tokenizer"].(map[string]any)["pretokenizers"].([]any)[i].(map[string]any)
}

func TestLoadRefuses(t *testing.T) {
	type file = map[string]any
	for want, edit := range map[string]func(file){
		"normalizer NFC":        func(f file) { f["normalizer"] = file{"type": "NFC"} },
		`model type "Unigram"`:  func(f file) { model(f)["type"] = "Unigram" },
		"dropout":               func(f file) { model(f)["dropout"] = 0.1 },
		"unk_token":             func(f file) { model(f)["unk_token"] = "<unk>" },
		"byte_fallback":         func(f file) { model(f)["byte_fallback"] = true },
		"end_of_word_suffix":    func(f file) { model(f)["end_of_word_suffix"] = "</w>" },
		"continuing_subword":    func(f file) { model(f)["continuing_subword_prefix"] = "##" },
		"decoder":               func(f file) { f["decoder"] = file{"type": "Metaspace"} },
		"pre_tokenizer is miss": func(f file) { f["pre_tokenizer"] = nil },
		`"Whitespace" is not`:   func(f file) { f["pre_tokenizer"] = file{"type": "Whitespace"} },
		`"Removed"`:             func(f file) { stage(f, 0)["behavior"] = "Removed" },
		"invert true":           func(f file) { stage(f, 0)["invert"] = true },
		`{"String":"x"}`:        func(f file) { stage(f, 0)["pattern"] = file{"String": "x"} },
		"look-ahead":            func(f file) { stage(f, 0)["pattern"] = file{"Regex": "(?!a)*"} },
		"add_prefix_space":      func(f file) { stage(f, 3)["add_prefix_space"] = true },
		"no ByteLevel":          func(f file) { f["pre_tokenizer"] = stage(f, 0) },
		"after ByteLevel":       func(f file) { l := f["pre_tokenizer"].(file)["pretokenizers"].([]any); l[0], l[3] = l[3], l[0] },
		"byte 0x41":             func(f file) { delete(model(f)["vocab"].(file), "A") },
		"same id":               func(f file) { model(f)["vocab"].(file)["A"] = 0 },
		"not in [0":             func(f file) { model(f)["vocab"].(file)["unheard"] = -1 },
		"not in [0, 1048576":    func(f file) { model(f)["vocab"].(file)["unheard"] = 1 << 20 },
		"vocabulary lacks":      func(f file) { model(f)["merges"] = []any{"q z"} },
		"with a space between":  func(f file) { model(f)["merges"] = []any{"a b c"} },
		"3 parts":               func(f file) { model(f)["merges"] = []any{[]any{"a", "b", "c"}} },
		"neither a list":        func(f file) { model(f)["merges"] = []any{1} },
		"cannot unmarshal":      func(f file) { f["added_tokens"] = []any{file{"id": "x"}} },
		"have the same id":      func(f file) { f["added_tokens"] = []any{file{"id": 5, "content": "new"}} },
	} {
		_, err := Load(edited(t, edit))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// TestLoadForms checks that what is written differently but means the same
// gives the same tokenizer.
func TestLoadForms(t *testing.T) {
	want := loadFamily(t, "v3")
	type file = map[string]any
	for name, edit := range map[string]func(file){
		"empty normalizer sequence": func(f file) { f["normalizer"] = file{"type": "Sequence", "normalizers": []any{}} },
		"merges as strings": func(f file) {
			merges := model(f)["merges"].([]any)
			for i, m := range merges {
				merges[i] = m.([]any)[0].(string) + " " + m.([]any)[1].(string)
			}
		},
		"newlines as escapes": func(f file) {
			p := stage(f, 2)["pattern"].(file)
			p["Regex"] = canonicalPattern(p["Regex"].(string))
		},
		"nested sequence": func(f file) {
			f["pre_tokenizer"] = file{"type": "Sequence", "pretokenizers": []any{f["pre_tokenizer"]}}
		},
		"empty added token": func(f file) { f["added_tokens"] = append(f["added_tokens"].([]any), file{"id": 0, "content": ""}) },
		"unset, not absent": func(f file) { model(f)["dropout"] = 0.0; model(f)["end_of_word_suffix"] = "" },
		"id of a vocabulary token": func(f file) { // the vocabulary's id counts
			ello := f["added_tokens"].([]any)[0].(file)
			if ello["content"] != "ello" || model(f)["vocab"].(file)["ello"] != ello["id"] {
				t.Fatalf("the fixture's first added token is %v", ello)
			}
			ello["id"] = 7
		},
	} {
		got, err := Load(edited(t, edit))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if g, w := got.Encode(benchmarkText()[:2000]), want.Encode(benchmarkText()[:2000]); !slices.Equal(g, w) {
			t.Errorf("%s: ids differ", name)
		}
	}
}

func TestLoadDir(t *testing.T) {
	demo, err := LoadDir(os.DirFS("../demo/hf"))
	if err != nil {
		t.Fatal(err)
	}
	bos, _ := demo.BOS()
	eos, _ := demo.EOS()
	pad, _ := demo.Pad()
	if bos != 0 || eos != 1 || pad != 2 || !demo.AddBOS() || demo.Config().MaxLength != 4096 || demo.Config().ChatTemplate != "" || demo.Size() != 2048 {
		t.Errorf("demo: bos %d eos %d pad %d, add %v, config %+v, size %d", bos, eos, pad, demo.AddBOS(), demo.Config(), demo.Size())
	}
	if got := demo.WithBOS([]int{9}); !slices.Equal(got, []int{0, 9}) {
		t.Errorf("WithBOS = %v", got)
	}
	if got := demo.WithBOS([]int{0, 9}); !slices.Equal(got, []int{0, 9}) {
		t.Errorf("WithBOS doubles it: %v", got)
	}
	if !demo.IsSpecial(3) || demo.IsSpecial(6) || demo.IsSpecial(100) || demo.IsSpecial(-1) || demo.IsSpecial(1<<30) {
		t.Error("IsSpecial: <｜User｜> must be, </think> and words must not")
	}
	if id, ok := demo.ID("Ġthe"); !ok || demo.TokenText(id) != " the" || string(demo.TokenBytes(id)) != " the" {
		t.Errorf("Ġthe is %d, %q", id, demo.TokenText(id))
	}
	if demo.TokenBytes(2048) != nil || demo.TokenText(2048) != "" {
		t.Error("an id without a token has text")
	}

	data, err := os.ReadFile("testdata/v3.tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	const b = "<｜begin▁of▁sentence｜>"
	template := edited(t, func(f map[string]any) {
		f["post_processor"] = map[string]any{"type": "Sequence", "processors": []any{
			map[string]any{"type": "ByteLevel"},
			map[string]any{"type": "TemplateProcessing", "single": []any{
				map[string]any{"SpecialToken": map[string]any{"id": b, "type_id": 0}},
				map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}}}}}
	})
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for name, c := range map[string]struct {
		files   fstest.MapFS
		bos     bool
		add     bool
		jinja   string
		length  int
		problem string
	}{
		"no config":       {files: fstest.MapFS{"tokenizer.json": file(string(data))}},
		"template":        {files: fstest.MapFS{"tokenizer.json": file(string(template))}, bos: true, add: true},
		"config overrule": {files: fstest.MapFS{"tokenizer.json": file(string(template)), "tokenizer_config.json": file(`{"add_bos_token": false}`)}, bos: true},
		"object": {files: fstest.MapFS{"tokenizer.json": file(string(data)), "tokenizer_config.json": file(
			`{"bos_token": {"content": "` + b + `"}, "eos_token": null, "model_max_length": 1e30, "chat_template": "{{ x }}"}`)}, bos: true, jinja: "{{ x }}"},
		"named templates": {files: fstest.MapFS{"tokenizer.json": file(string(data)), "tokenizer_config.json": file(
			`{"model_max_length": 99, "chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]}`)}, jinja: "d", length: 99},
		"jinja file":   {files: fstest.MapFS{"tokenizer.json": file(string(data)), "chat_template.jinja": file("j")}, jinja: "j"},
		"missing":      {files: fstest.MapFS{}, problem: "tokenizer.json"},
		"unknown":      {files: fstest.MapFS{"tokenizer.json": file(string(data)), "tokenizer_config.json": file(`{"eos_token": "nope"}`)}, problem: `eos_token "nope"`},
		"broken":       {files: fstest.MapFS{"tokenizer.json": file(string(data)), "tokenizer_config.json": file(`{`)}, problem: "tokenizer_config.json"},
		"bad name":     {files: fstest.MapFS{"tokenizer.json": file(string(data)), "tokenizer_config.json": file(`{"eos_token": 7}`)}, problem: "special token 7"},
		"bad template": {files: fstest.MapFS{"tokenizer.json": file(string(data)), "tokenizer_config.json": file(`{"chat_template": 7}`)}, problem: "chat_template"},
	} {
		tok, err := LoadDir(c.files)
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%s: error %v, want one with %q", name, err, c.problem)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, bos := tok.BOS()
		if bos != c.bos || tok.AddBOS() != c.add || tok.Config().ChatTemplate != c.jinja || tok.Config().MaxLength != c.length {
			t.Errorf("%s: bos %v, add %v, config %+v", name, bos, tok.AddBOS(), tok.Config())
		}
	}
}

// FuzzLoad: whatever the file says, Load answers with a tokenizer that works
// or with an error.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{},"merges":[]},"decoder":{"type":"ByteLevel"},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false}}`))
	f.Add(edited(f, func(map[string]any) {}))
	f.Add(edited(f, func(file map[string]any) {
		stage(file, 2)["pattern"] = map[string]any{"Regex": `(?i:a|b)?[^\s&&[a-z]]{1,3}(?!x)|\p{^L}$`}
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := Load(data)
		if err != nil {
			return
		}
		for _, text := range []string{"", "Hello  world 123\n<think> 毕", "\xff\xe4"} {
			tok.Decode(tok.Encode(text), true)
			if got := tok.EncodePlain(text); len(got) > len(text) {
				t.Errorf("%d ids for %q", len(got), text)
			}
		}
	})
}

// FuzzPattern: a pattern compiles and terminates, or is refused.
func FuzzPattern(f *testing.F) {
	for _, p := range []string{patternV3, patternGLM, patternTrailing, patternGPT2, `^a++(?>b|c)[[x]&&^y]\b`, `(?i)s{2,5}|\x{41}.`} {
		f.Add(p, "Hello 's  \n\naaab")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		program, err := compilePattern(pattern)
		if err != nil {
			return
		}
		ends := program.cuts(text, 0, nil)
		if text != "" && (len(ends) == 0 || ends[len(ends)-1] != len(text)) {
			t.Errorf("cuts of %q by %q end at %v", text, pattern, ends)
		}
		if !slices.IsSorted(ends) || len(slices.Compact(slices.Clone(ends))) != len(ends) {
			t.Errorf("cuts of %q by %q: %v", text, pattern, ends)
		}
	})
}
