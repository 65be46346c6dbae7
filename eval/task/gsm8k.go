package task

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
)

const (
	defaultShots = 5
	// gsm8kInstruction stands behind every question of the chat form.
	gsm8kInstruction = "Solve this step by step. Write the final answer on the last line as #### N, where N is the number alone."
	// completionTokens bounds an answer in the completion form, chatTokens in chat.
	completionTokens = 512
	chatTokens       = 2048
)

// wordProblems is gsm8k, or any set of rows in its layout.
type wordProblems struct {
	name string
	opts Options
	data DataInfo
	// rows are all rows of the data; scored are the indices of those that may be
	// asked.
	rows        []qa
	scored      []int
	shots       func(seed uint64) []qa
	shotSource  string
	instruction string
	maxTokens   int
	extract     string
	title       string
}

func openGSM8K(opts Options) (Task, error) {
	raw, err := readFile(opts.DataPath, "--data-path", `JSON lines with "question" and "answer"`)
	if err != nil {
		return nil, err
	}
	rows, err := readQA(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", opts.DataPath, err)
	}
	t := &wordProblems{name: "gsm8k", opts: opts, rows: rows, data: describe(opts.DataPath, raw, len(rows), "gsm8k"), instruction: gsm8kInstruction}
	if err := t.configure(); err != nil {
		return nil, err
	}
	n := defaultShots
	if opts.NumShots != nil {
		n = *opts.NumShots
	}
	if n < 0 {
		return nil, usage("--num-shots %d is negative", n)
	}
	from, taken := rows, true
	if opts.ShotsPath != "" && !opts.LegacyShots {
		raw, err := readFile(opts.ShotsPath, "--shots-path", "")
		if err != nil {
			return nil, err
		}
		if from, err = readQA(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", opts.ShotsPath, err)
		}
		t.shotSource, taken = opts.ShotsPath, false
	} else {
		t.shotSource = opts.DataPath
	}
	if err := t.takeShots(from, n, taken); err != nil {
		return nil, err
	}
	return t, nil
}

// configure sets what depends on the interface.
func (t *wordProblems) configure() error {
	t.extract, t.maxTokens = "strict", chatTokens
	if t.opts.API == "completion" {
		t.extract, t.maxTokens = "flexible", completionTokens
	}
	switch t.opts.Extract {
	case "":
	case "strict", "flexible", "legacy":
		t.extract = t.opts.Extract
	default:
		return usage("--extract %q: have strict, flexible, legacy", t.opts.Extract)
	}
	if t.opts.MaxTokens > 0 {
		t.maxTokens = t.opts.MaxTokens
	}
	if t.opts.PromptFile != "" {
		if t.opts.API == "completion" {
			return usage("--prompt-file replaces the instruction of the chat form; the completion form has none")
		}
		text, err := readFile(t.opts.PromptFile, "--prompt-file", "")
		if err != nil {
			return err
		}
		t.instruction = plainText(text)
	}
	return nil
}

// takeShots chooses n worked examples from the given rows: the first ones if
// these are the scored rows themselves, else by the seed. A question that may be
// shown is not scored, and one that is scored is not shown, unless the original
// script's way was asked for.
func (t *wordProblems) takeShots(from []qa, n int, own bool) error {
	if n > len(from) {
		return usage("%d worked examples of %d rows", n, len(from))
	}
	for i := range t.rows {
		t.scored = append(t.scored, i)
	}
	switch {
	case n == 0:
		t.shots, t.shotSource = func(uint64) []qa { return nil }, ""
	case own && t.opts.LegacyShots:
		t.shots = func(uint64) []qa { return from[:n] }
		t.title = fmt.Sprintf("worked examples are the first %d items, which are scored too", n)
	case own:
		t.shots = func(uint64) []qa { return from[:n] }
		shown := map[string]bool{}
		for _, row := range from[:n] {
			shown[row.question] = true
		}
		t.scored = t.scored[:0]
		for i, row := range t.rows {
			if !shown[row.question] {
				t.scored = append(t.scored, i)
			}
		}
	default:
		asked := map[string]bool{}
		for _, row := range t.rows {
			asked[row.question] = true
		}
		var free []qa
		for _, row := range from {
			if !asked[row.question] {
				free = append(free, row)
			}
		}
		if n > len(free) {
			return usage("%d worked examples, but only %d rows of %s are not scored themselves", n, len(free), t.shotSource)
		}
		t.shots = func(seed uint64) []qa {
			chosen := make([]qa, n)
			for i, k := range stream(seed, t.name+"/shots", "", 0).Perm(len(free))[:n] {
				chosen[i] = free[k]
			}
			return chosen
		}
	}
	if len(t.scored) == 0 {
		return usage("all %d rows are worked examples: give others with --shots-path, or --num-shots", len(t.rows))
	}
	return nil
}

func (t *wordProblems) Name() string   { return t.name }
func (t *wordProblems) Data() DataInfo { return t.data }
func (t *wordProblems) Title() string  { return t.title }

// Shots returns where the worked examples come from and their rows.
func (t *wordProblems) Shots(seed uint64) (source string, ids []string) {
	for _, shot := range t.shots(seed) {
		ids = append(ids, shot.id)
	}
	return t.shotSource, ids
}

func (t *wordProblems) Items(seed uint64, _ int) ([]Item, error) {
	shots := t.shots(seed)
	var items []Item
	for _, i := range sample(t.scored, t.opts.NumExamples, seed, t.name, func(i int) string { return t.rows[i].id }) {
		row := t.rows[i]
		item := Item{ID: row.id, Gold: row.gold, Tags: row.tags, MaxTokens: t.maxTokens, Stop: t.opts.Stop}
		if t.opts.API == "completion" {
			item.Prompt = t.completion(shots, row)
			if len(item.Stop) == 0 {
				item.Stop = []string{"Question:"}
			}
		} else {
			item.Messages = t.conversation(shots, row)
		}
		items = append(items, item)
	}
	return items, nil
}

// completion is "Question: .." and "Answer: .." blocks with empty lines between.
func (t *wordProblems) completion(shots []qa, row qa) string {
	var b strings.Builder
	if t.opts.System != "" {
		b.WriteString(t.opts.System + "\n\n")
	}
	for _, s := range shots {
		fmt.Fprintf(&b, "Question: %s\nAnswer: %s\n\n", s.question, t.worked(s))
	}
	fmt.Fprintf(&b, "Question: %s\nAnswer:", row.question)
	return b.String()
}

// conversation has the worked examples as turns.
func (t *wordProblems) conversation(shots []qa, row qa) []Message {
	var m []Message
	if t.opts.System != "" {
		m = append(m, Message{"system", t.opts.System})
	}
	for _, s := range shots {
		m = append(m, Message{"user", t.instructed(s.question)}, Message{"assistant", t.worked(s)})
	}
	return append(m, Message{"user", t.instructed(row.question)})
}

func (t *wordProblems) instructed(question string) string {
	switch {
	case t.instruction == "":
		return question
	case strings.Contains(t.instruction, "{question}"):
		return strings.ReplaceAll(t.instruction, "{question}", question)
	}
	return question + "\n\n" + t.instruction
}

var calculatorMark = regexp.MustCompile(`<<[^<>\n]*>>`)

// worked is the answer of a worked example, without the calculator marks.
func (t *wordProblems) worked(shot qa) string {
	if t.opts.KeepMarks {
		return shot.answer
	}
	return calculatorMark.ReplaceAllString(shot.answer, "")
}

// Score compares exact decimals. All three extractors are kept; the task's own
// decides.
func (t *wordProblems) Score(item *Item, text string) Verdict {
	extractors := map[string]func(string) (string, bool){"strict": strictNumber, "flexible": flexibleNumber, "legacy": legacyNumber}
	found := map[string]string{}
	for name, extract := range maps.All(extractors) {
		if v, ok := extract(text); ok {
			found[name] = v
		}
	}
	gold := item.Gold
	if t.extract == "legacy" { // the original reads the right answer in the same way
		gold, _ = legacyNumber(gold)
	}
	got, ok := found[t.extract]
	return mark(ok && got == gold, !ok, found)
}

// mark is the verdict on an answer that is right or wrong as a whole.
func mark(correct, invalid bool, found map[string]string) Verdict {
	v := Verdict{Correct: correct, Invalid: invalid, Extracted: found}
	if correct {
		v.Score = 1
	}
	return v
}
