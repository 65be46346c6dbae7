package task

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode"
)

// A generated text is a list of facts among filler. The facts and the prompt
// around the text are fixed first; filler is then added until the whole prompt
// has exactly the tokens that were asked for, as the server counts them:
//
//  1. Add or drop sentences, counting the whole prompt each time, until at most
//     closeTokens are missing.
//  2. Measure a pool of sentences one by one behind a short text, and choose some
//     whose lengths add up to what is missing.
//  3. Count the whole again. Tokens that merge across sentences may leave an
//     error, which is added to what is missing before choosing again.
//
// Adding words until it fits would be simpler, but puts text into the prompt
// that stands out from the rest.
const (
	closeTokens = 60
	poolSize    = 24
	fitTries    = 8
)

// fact is a sentence with its depth: 0 before all filler, 1 behind it.
type fact struct {
	text  string
	depth float64
}

// tooLong says that the facts alone need more tokens than there are.
type tooLong struct{ context, needs int }

func (e *tooLong) Error() string {
	return fmt.Sprintf("a context of %d tokens cannot hold this item, which takes %d without any filler", e.context, e.needs)
}

// errNoFit says that no choice of filler gave the exact number of tokens.
var errNoFit = errors.New("no filler gives exactly this number of tokens")

// text is one generated text on its way to a number of tokens.
type text struct {
	facts  []fact
	filler func() (string, error) // the next sentence
	last   func() (string, error) // sentences to end with, which make the length exact
	count  func(body string) (int, error)
}

// fit returns the text whose prompt has exactly target tokens.
func (t text) fit(target int) (string, error) {
	slices.SortStableFunc(t.facts, func(a, b fact) int {
		switch {
		case a.depth < b.depth:
			return -1
		case a.depth > b.depth:
			return 1
		}
		return 0
	})
	base, err := t.count(t.join(nil))
	if err != nil {
		return "", err
	}
	if base > target {
		return "", &tooLong{target, base}
	}
	var filler []string
	missing, each := target-base, 12.0
	for range 20 {
		switch {
		case missing > closeTokens:
			for range max(1, int(float64(missing-closeTokens/2)/each)) {
				s, err := t.filler()
				if err != nil {
					return "", err
				}
				filler = append(filler, s)
			}
		case missing < 0:
			filler = filler[:max(0, len(filler)-int(math.Ceil(float64(-missing)/each))-1)]
		}
		n, err := t.count(t.join(filler))
		if err != nil {
			return "", err
		}
		missing = target - n
		if len(filler) > 0 {
			each = max(1, float64(n-base)/float64(len(filler)))
		}
		if missing >= 0 && missing <= closeTokens {
			break
		}
	}
	return t.close(filler, target)
}

// close does steps 2 and 3. When nothing adds up, the last sentence goes and
// its tokens are missing too; then two more, and so on.
func (t text) close(filler []string, target int) (string, error) {
	const before = "It was late."
	short, err := t.count(before)
	if err != nil {
		return "", err
	}
	for try := range fitTries {
		n, err := t.count(t.join(filler))
		if err != nil {
			return "", err
		}
		missing := target - n
		if missing == 0 {
			return t.join(filler), nil
		}
		if missing > 0 {
			pool, lengths := make([]string, poolSize), make([]int, poolSize)
			for i := range pool {
				if pool[i], err = t.last(); err != nil {
					return "", err
				}
				if lengths[i], err = t.count(before + " " + pool[i]); err != nil {
					return "", err
				}
				lengths[i] -= short
			}
			want := missing
			for range fitTries {
				chosen := addUp(lengths, want)
				if chosen == nil {
					break
				}
				all := slices.Clone(filler)
				for _, i := range chosen {
					all = append(all, pool[i])
				}
				n, err := t.count(t.join(all))
				if err != nil {
					return "", err
				}
				if n == target {
					return t.join(all), nil
				}
				want += target - n
			}
		}
		if len(filler) == 0 {
			break
		}
		filler = filler[:len(filler)-min(len(filler), 1<<try, poolSize/2)]
	}
	return "", errNoFit
}

// addUp returns ascending indices of lengths with the given sum, as few as
// possible, or nil.
func addUp(lengths []int, sum int) []int {
	if sum <= 0 {
		return nil
	}
	best := make([][]int, sum+1)
	best[0] = []int{}
	for i, n := range lengths {
		if n <= 0 {
			continue
		}
		for s := sum; s >= n; s-- {
			if from := best[s-n]; from != nil && (best[s] == nil || len(from)+1 < len(best[s])) {
				best[s] = append(slices.Clone(from), i)
			}
		}
	}
	return best[sum]
}

// join places the facts, sorted by depth, among the filler.
func (t text) join(filler []string) string {
	var parts []string
	next := 0
	for _, f := range t.facts {
		upTo := int(math.Round(f.depth * float64(len(filler))))
		parts = append(parts, filler[next:max(next, upTo)]...)
		next = max(next, upTo)
		parts = append(parts, f.text)
	}
	return strings.Join(append(parts, filler[next:]...), " ")
}

// noise returns sentences that say nothing, in the demo model's words.
func noise(r *rand.Rand) func() (string, error) {
	w := lists()
	return func() (string, error) {
		subject := fill(pick(r, w.Filler.Subjects), "a", pick(r, w.Adjectives), "n", pick(r, w.Nouns))
		return fill(pick(r, w.Filler.Sentences),
			"s", subject, "t", strings.ToLower(subject[:1])+subject[1:],
			"v", pick(r, w.Filler.Verbs), "b", pick(r, w.Adjectives), "m", pick(r, w.Nouns)), nil
	}
}

// sentences cuts a text behind full stops, and stretches without one behind
// every 30 words.
func sentences(data string) []string {
	var out []string
	var words []string
	for _, word := range strings.Fields(data) {
		words = append(words, word)
		last := []rune(strings.TrimRightFunc(word, func(c rune) bool { return strings.ContainsRune(`"')]”’`, c) }))
		if len(words) >= 30 || len(last) > 0 && strings.ContainsRune(".!?。", last[len(last)-1]) {
			out = append(out, strings.Join(words, " "))
			words = nil
		}
	}
	if words != nil {
		out = append(out, strings.Join(words, " "))
	}
	return out
}

// running returns the sentences of a text in order from a random place, from
// its beginning again after its end.
func running(r *rand.Rand, all []string) func() (string, error) {
	at := r.IntN(len(all))
	return func() (string, error) {
		s := all[at]
		at = (at + 1) % len(all)
		return s, nil
	}
}

// generated is what needle and variable-tracking share: contexts, the prompt
// around a text, and the count of its tokens.
type generated struct {
	opts     Options
	contexts []contextSize
	story    []string // sentences of haystack text
	data     DataInfo
	template string // of the prompt, with {text} and {question}
}

// contextSize is a number of tokens. One that was added because the server
// selects top-k keys is left out where it is too small for an item.
type contextSize struct {
	tokens int
	added  bool
}

func newGenerated(opts Options, template string) (generated, error) {
	g := generated{opts: opts, template: template}
	if len(opts.Context) == 0 {
		opts.Context = []int{512, 2048, 8192}
		if opts.Style == styleDemo {
			opts.Context = []int{256, 512, 1024, 2048}
		}
	}
	seen := map[int]bool{}
	for _, n := range opts.Context {
		if n < 1 {
			return g, usage("--context %d: want at least 1", n)
		}
		if !seen[n] {
			g.contexts = append(g.contexts, contextSize{n, false})
		}
		seen[n] = true
	}
	if k := opts.IndexTopK; k > 0 {
		for _, n := range []int{k - 1, k, k + 1} {
			if !seen[n] && n > 0 {
				g.contexts = append(g.contexts, contextSize{n, true})
			}
			seen[n] = true
		}
	}
	slices.SortFunc(g.contexts, func(a, b contextSize) int { return a.tokens - b.tokens })
	if opts.PromptFile != "" {
		raw, err := readFile(opts.PromptFile, "--prompt-file", "")
		if err != nil {
			return g, err
		}
		g.template = plainText(raw)
		if !strings.Contains(g.template, "{text}") || !strings.Contains(g.template, "{question}") {
			return g, usage("--prompt-file %s: want {text} and {question} in it", opts.PromptFile)
		}
	}
	switch opts.Haystack {
	case "", "noise", "needles":
	case "text":
		raw, err := readFile(opts.DataPath, "--data-path", "a text to hide the facts in")
		if err != nil {
			return g, err
		}
		if g.story = sentences(string(raw)); len(g.story) < 10 {
			return g, fmt.Errorf("%s: %d sentences, want at least 10", opts.DataPath, len(g.story))
		}
		g.data = describe(opts.DataPath, raw, len(g.story), "text")
		g.data.Warning = ""
	default:
		return g, usage("--haystack %q: have noise, text, needles", opts.Haystack)
	}
	return g, nil
}

// prompt sets the messages or the prompt of an item.
func (g *generated) prompt(item *Item, body, question string) {
	text := strings.NewReplacer("{text}", body, "{question}", question).Replace(g.template)
	if g.opts.API == "completion" {
		item.Prompt = text + "\n\nAnswer:"
		if g.opts.System != "" {
			item.Prompt = g.opts.System + "\n\n" + item.Prompt
		}
		return
	}
	item.Messages = nil
	if g.opts.System != "" {
		item.Messages = append(item.Messages, Message{"system", g.opts.System})
	}
	item.Messages = append(item.Messages, Message{"user", text})
}

// counted returns the tokens of the prompt with the given text.
func (g *generated) counted(question string) func(string) (int, error) {
	count := g.opts.Count
	if count == nil {
		count = estimate
	}
	return func(body string) (int, error) {
		var item Item
		g.prompt(&item, body, question)
		n, err := count(item.Messages, item.Prompt)
		if err != nil {
			return 0, fmt.Errorf("count tokens: %w", err)
		}
		return n, nil
	}
}

// estimate counts words, marks and digits, which is near what tokenizers do
// with this filler.
func estimate(messages []Message, prompt string) (int, error) {
	n := 0
	for _, m := range messages {
		n += 3
		prompt += " " + m.Content
	}
	inWord := false
	for _, c := range prompt {
		letter := unicode.IsLetter(c)
		if letter && !inWord || !letter && !unicode.IsSpace(c) {
			n++
		}
		inWord = letter
	}
	return n, nil
}

// build makes items until one fits exactly: another draw of its facts may.
// skip says that an added context is too small.
func (g *generated) build(size contextSize, draw func(attempt int) (Item, error)) (item Item, skip bool, err error) {
	for attempt := range fitTries {
		item, err = draw(attempt)
		var long *tooLong
		if errors.As(err, &long) && size.added {
			return item, true, nil
		}
		if !errors.Is(err, errNoFit) {
			return item, false, err
		}
	}
	if size.added {
		return item, true, nil
	}
	return item, false, fmt.Errorf("context of %d tokens: %w", size.tokens, err)
}
