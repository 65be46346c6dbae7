package task

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const shotRows = `{"question": "Ann picks 2 plums and 3 figs. How many fruits?", "answer": "Ann has 2+3=<<2+3=5>>5 fruits.\n#### 5"}
{"question": "A pen is $1,200. Two pens?", "answer": "2*1200=$<<2*1200=2400>>2,400\n#### 2,400"}
{"question": "It was 4 degrees and fell by 7. Now?", "answer": "4-7=<<4-7=-3>>-3\n#### -3"}
`

const dataRows = "\ufeff" + `{"question": "Bo has 9 cups and breaks 2. How many are left?", "answer": "9-2=<<9-2=7>>7\n#### 7"}

{"question": "Half of 5 litres?", "answer": "5/2=<<5/2=2.5>>2.5\n#### 2.50"}` + "\r\n" +
	`{"question": "Three boxes of 4?", "answer": "3*4=<<3*4=12>>12\n#### 12"}
{"question": "Ten tens?", "answer": "10*10=<<10*10=100>>100\n#### 100", "source": "own"}`

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, name string, o Options) Task {
	t.Helper()
	task, err := Open(name, o)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

func items(t *testing.T, task Task, seed uint64, repeat int) []Item {
	t.Helper()
	all, err := task.Items(seed, repeat)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func ids(all []Item) []string {
	var ids []string
	for _, item := range all {
		ids = append(ids, item.ID)
	}
	return ids
}

func TestGSM8KCompletion(t *testing.T) {
	path := file(t, "data.jsonl", dataRows)
	g := open(t, "gsm8k", Options{API: "completion", DataPath: path, NumShots: new(1)})
	all := items(t, g, 1, 0)
	want := Item{
		ID: "2", Gold: "2.5", MaxTokens: 512, Stop: []string{"Question:"},
		Prompt: "Question: Bo has 9 cups and breaks 2. How many are left?\nAnswer: 9-2=7\n#### 7\n\nQuestion: Half of 5 litres?\nAnswer:",
	}
	if d := cmp.Diff(want, all[0]); d != "" {
		t.Error(d)
	}
	if got := ids(all); !slices.Equal(got, []string{"2", "3", "4"}) {
		t.Errorf("scored rows %v: the worked example must not be among them", got)
	}
	if d := g.Data(); d.Rows != 4 || len(d.SHA256) != 64 || d.Path != path || d.Known != "" || d.Warning == "" {
		t.Errorf("data: %+v", d)
	}
	if v := g.Score(&all[0], " 5/2 = 2.5 litres."); !v.Correct || v.Score != 1 || v.Extracted["flexible"] != "2.5" || v.Extracted["legacy"] != "5" {
		t.Errorf("score: %+v", v)
	}
}

func TestGSM8KChat(t *testing.T) {
	g := open(t, "gsm8k", Options{
		DataPath: file(t, "data.jsonl", dataRows), ShotsPath: file(t, "train.jsonl", shotRows),
		NumShots: new(2), System: "Be brief.",
	})
	all := items(t, g, 1, 0)
	if len(all) != 4 {
		t.Fatalf("%d items, want all rows of the data", len(all))
	}
	m := all[3].Messages
	var roles []string
	for _, x := range m {
		roles = append(roles, x.Role)
	}
	if !slices.Equal(roles, []string{"system", "user", "assistant", "user", "assistant", "user"}) {
		t.Fatalf("roles %v", roles)
	}
	if strings.Contains(m[2].Content+m[4].Content, "<<") || !strings.Contains(m[2].Content, "#### ") {
		t.Errorf("worked examples %q, %q", m[2].Content, m[4].Content)
	}
	if !strings.HasPrefix(m[5].Content, "Ten tens?\n\n") || !strings.HasSuffix(m[5].Content, gsm8kInstruction) {
		t.Errorf("question %q", m[5].Content)
	}
	source, shots := g.(Shots).Shots(1)
	if filepath.Base(source) != "train.jsonl" || len(shots) != 2 {
		t.Errorf("shots from %s: %v", source, shots)
	}
	drawn := map[string]bool{}
	for seed := range uint64(20) {
		_, shots := g.(Shots).Shots(seed)
		drawn[strings.Join(shots, " ")] = true
	}
	if len(drawn) < 3 {
		t.Errorf("20 seeds draw %d sets of worked examples", len(drawn))
	}
	item := &all[0]
	for text, want := range map[string]Verdict{
		"9-2=7\n#### 7.00":  {Correct: true, Score: 1, Extracted: map[string]string{"strict": "7", "flexible": "7", "legacy": "0"}},
		"That makes $7.":    {Invalid: true, Extracted: map[string]string{"flexible": "7", "legacy": "7"}},
		"#### 7\nNot 8.":    {Correct: true, Score: 1, Extracted: map[string]string{"strict": "7", "flexible": "8", "legacy": "8"}},
		"#### -7":           {Extracted: map[string]string{"strict": "-7", "flexible": "-7", "legacy": "7"}},
		"I could not tell.": {Invalid: true, Extracted: map[string]string{}},
	} {
		if d := cmp.Diff(want, g.Score(item, text)); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

func TestGSM8KLegacy(t *testing.T) {
	path := file(t, "data.jsonl", dataRows)
	g := open(t, "gsm8k", Options{API: "completion", DataPath: path, NumShots: new(2), LegacyShots: true, KeepMarks: true, Extract: "legacy"})
	all := items(t, g, 1, 0)
	if len(all) != 4 || !strings.Contains(all[0].Prompt, "<<9-2=7>>") || g.(Titled).Title() == "" {
		t.Errorf("%d items, title %q, prompt %q", len(all), g.(Titled).Title(), all[0].Prompt)
	}
	if v := g.Score(&all[1], "so 3.5"); !v.Correct {
		t.Errorf("the original takes 3.5 for 2.5: %+v", v)
	}
}

// TestShotsAreNotScored gives the data file as its own source of examples.
func TestShotsAreNotScored(t *testing.T) {
	path := file(t, "data.jsonl", dataRows)
	if _, err := Open("gsm8k", Options{DataPath: path, ShotsPath: path, NumShots: new(1)}); !errors.Is(err, ErrUsage) {
		t.Errorf("examples from the scored rows: %v", err)
	}
	mixed := file(t, "mixed.jsonl", strings.Split(shotRows, "\n")[0]+"\n"+strings.Split(dataRows, "\n")[2])
	g := open(t, "gsm8k", Options{DataPath: path, ShotsPath: mixed, NumShots: new(1)})
	for seed := range uint64(10) {
		if _, shots := g.(Shots).Shots(seed); !slices.Equal(shots, []string{"1"}) {
			t.Errorf("seed %d shows rows %v", seed, shots)
		}
	}
}

// TestSampleIsStable appends a row: no item leaves or moves unless the new one
// takes its place.
func TestSampleIsStable(t *testing.T) {
	id := func(i int) string { return string(rune('a' + i)) }
	all := func(n int) (out []int) {
		for i := range n {
			out = append(out, i)
		}
		return out
	}
	for seed := range uint64(50) {
		before, after := sample(all(20), 8, seed, "x", id), sample(all(21), 8, seed, "x", id)
		if len(before) != 8 || !slices.IsSorted(before) {
			t.Fatalf("seed %d: %v", seed, before)
		}
		kept := 0
		for _, i := range after {
			if slices.Contains(before, i) {
				kept++
			}
		}
		if kept < 7 || kept == 7 && !slices.Contains(after, 20) {
			t.Errorf("seed %d: %v, then %v", seed, before, after)
		}
	}
}

func TestGSM8KBadInput(t *testing.T) {
	good := file(t, "good.jsonl", dataRows)
	for _, c := range []struct {
		name, want string
		o          Options
	}{
		{"no path", "--data-path", Options{}},
		{"no file", "no such file", Options{DataPath: "absent.jsonl"}},
		{"empty", "no rows", Options{DataPath: file(t, "a", "\n\n")}},
		{"not JSON", "line 2", Options{DataPath: file(t, "b", shotRows[:strings.Index(shotRows, "\n")+1]+"{")}},
		{"no answer", `"answer"`, Options{DataPath: file(t, "c", `{"question":"a"}`)}},
		{"no number", "####", Options{DataPath: file(t, "d", `{"question":"a","answer":"18"}`)}},
		{"shots", "5 worked examples", Options{DataPath: good}},
		{"all shown", "all 4 rows", Options{DataPath: good, NumShots: new(4)}},
		{"negative", "negative", Options{DataPath: good, NumShots: new(-1)}},
		{"extract", "have strict", Options{DataPath: good, NumShots: new(0), Extract: "last"}},
		{"api", "have chat", Options{DataPath: good, API: "messages"}},
	} {
		if _, err := Open("gsm8k", c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", c.name, err, c.want)
		}
	}
	if _, err := Open("gsm9k", Options{}); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "gsm8k") {
		t.Errorf("unknown task: %v", err)
	}
}

func FuzzReadQA(f *testing.F) {
	f.Add([]byte(dataRows))
	f.Add([]byte(shotRows))
	f.Add([]byte(`{"question":"a","answer":"#### 1e90"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := readQA(data)
		if err == nil && len(rows) == 0 {
			t.Error("no rows and no error")
		}
		for _, row := range rows {
			if v, ok := flexibleNumber("#### " + row.gold); len(row.gold) <= maxDigits && (!ok || v != row.gold) {
				t.Errorf("gold %q reads %q", row.gold, v)
			}
		}
	})
}

// FuzzNumbers checks that what an extractor returns reads as itself.
func FuzzNumbers(f *testing.F) {
	for _, s := range []string{"#### $-1,234.50.", "2 1/2", "-2½", "1e-90", `\frac{1}{3}`, "#### 10^{-3}", "1/3", "x_{12}", "−€ 18", "0.1.2", "1\u202f234"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, extract := range []func(string) (string, bool){strictNumber, flexibleNumber} {
			v, ok := extract(text)
			if !ok {
				continue
			}
			if len(v) > maxDigits {
				return // long fractions, cut when read again
			}
			if again, ok := flexibleNumber(v); !ok || again != v {
				t.Errorf("%q gives %q, which reads %q", text, v, again)
			}
		}
		legacyNumber(text)
	})
}
