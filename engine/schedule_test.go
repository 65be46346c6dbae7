package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"latent/model"
	"latent/sample"
)

// alone returns what a choice must say: its tokens, drawn one by one from the
// model's function of the prompt and what came before, with no engine, no
// batch and no cache.
func alone(r *Request, choice, limit int) (ids []int32, text string, finish FinishReason) {
	p := r.Params
	p.Vocabulary = fakeVocab
	p.Seed += uint64(choice) * seedStep
	if !r.IgnoreEOS {
		p.StopIDs = append(slices.Clone(p.StopIDs), fakeEOS)
	}
	sampler := sample.New(p, r.Prompt)
	history := slices.Clone(r.Prompt)
	budget := r.MaxTokens
	if budget < 0 {
		budget = limit - len(r.Prompt)
	}
	open := "" // text in which stop strings are looked for
	for len(ids) < budget {
		drawn, err := sampler.Next(fakeLogits(history, fakeVocab))
		if err != nil {
			panic(err)
		}
		sampler.Accept(drawn.ID)
		history = append(history, drawn.ID)
		ids = append(ids, drawn.ID)
		if len(ids) > p.MinTokens && slices.Contains(p.StopIDs, drawn.ID) {
			shown := ids
			if !r.IncludeStop {
				shown = ids[:len(ids)-1]
			}
			// The stop token itself may complete a stop string.
			text, _ := cutAt(r, fakeText(shown), open)
			return ids, text, FinishStop
		}
		all := fakeText(ids)
		if len(ids) < budget && drawn.ID == fakeHeld {
			all = fakeText(ids[:len(ids)-1]) // the detokenizer holds it back
		}
		if len(ids) <= p.MinTokens {
			open = all
			continue
		}
		if text, stopped := cutAt(r, all, open); stopped {
			return ids, text, FinishStop
		}
	}
	return ids, fakeText(ids), FinishLength
}

// cutAt cuts text at the stop string that ends first, of equal ends the longest,
// behind the part that is shown already.
func cutAt(r *Request, text, shown string) (string, bool) {
	tail := text[len(shown):]
	longest := 0
	for _, stop := range r.Stop {
		longest = max(longest, len(stop))
	}
	for end := 1; end <= len(tail); end++ {
		for start := max(0, end-longest); start < end; start++ {
			if slices.Contains(r.Stop, tail[start:end]) {
				if r.IncludeStop {
					start = end
				}
				return shown + tail[:start], true
			}
		}
	}
	return text, false
}

// randomRequest draws a request; prompts share prefixes.
func randomRequest(random *rand.Rand, limit int) *Request {
	r := &Request{Params: sample.Defaults(), Explain: true, N: 1 + random.IntN(4)*random.IntN(2), MaxTokens: random.IntN(180)}
	for len(r.Prompt) == 0 {
		for range 1 + random.IntN(3) {
			letter := random.Int32N(3)
			n := random.IntN(100)
			if random.IntN(2) == 0 {
				n = 64
			}
			r.Prompt = append(r.Prompt, slices.Repeat([]int32{letter}, n)...)
		}
	}
	r.Prompt = r.Prompt[:min(len(r.Prompt), limit-1)]
	r.MaxTokens = min(r.MaxTokens, limit-len(r.Prompt))
	if random.IntN(12) == 0 {
		r.MaxTokens = -1
	}
	r.Params.Seed = random.Uint64()
	r.Params.Temperature = []float64{0, 0.7, 1}[random.IntN(3)]
	if random.IntN(3) == 0 {
		r.Params.RepetitionPenalty, r.Params.PresencePenalty = 1.2, 0.5
	}
	if random.IntN(3) == 0 {
		r.Params.MinTokens = random.IntN(20)
	}
	if random.IntN(6) == 0 {
		r.Params.StopIDs = []int32{random.Int32N(fakeVocab)}
	}
	for range random.IntN(3) * random.IntN(2) {
		var s strings.Builder
		for range 1 + random.IntN(2) {
			s.WriteString(fakeText([]int32{random.Int32N(fakeVocab)}))
		}
		r.Stop = append(r.Stop, s.String())
	}
	r.IgnoreEOS, r.IncludeStop = random.IntN(3) > 0, random.IntN(3) == 0
	r.PromptLogprobs = random.IntN(6) == 0
	r.CacheSalt = []string{"", "", "", "salt"}[random.IntN(4)]
	return r
}

// answer collects the events of a request.
type answer struct {
	request *Request
	stream  *Stream
	ids     [][]int32
	text    []string
	finish  []FinishReason
	probs   []Token
	last    Event
	err     error
}

func newAnswer(r *Request, s *Stream) *answer {
	return &answer{request: r, stream: s, ids: make([][]int32, r.N), text: make([]string, r.N), finish: make([]FinishReason, r.N)}
}

func (a *answer) take(e Event) {
	if a.finish[e.Choice] != NotFinished {
		a.text[e.Choice] += " (more after the end)"
	}
	a.text[e.Choice] += e.Text
	for _, tok := range e.Tokens {
		a.ids[e.Choice] = append(a.ids[e.Choice], tok.ID)
	}
	a.finish[e.Choice] = e.Finish
	if e.Prompt != nil {
		a.probs = e.Prompt
	}
	a.last = e
	if e.Err != nil {
		a.err = e.Err
	}
}

// check compares an answer with that of the request alone. Of a request that was
// cancelled it must be the beginning.
func (a *answer) check(limit int) error {
	completion := 0
	for i := range a.ids {
		ids, text, finish := alone(a.request, i, limit)
		completion += len(a.ids[i])
		if a.finish[i] == FinishAbort && a.err == context.Canceled {
			if len(a.ids[i]) > len(ids) || !slices.Equal(a.ids[i], ids[:len(a.ids[i])]) || !strings.HasPrefix(text, a.text[i]) {
				return fmt.Errorf("choice %d, cancelled: %v %q is not the beginning of %v %q", i, a.ids[i], a.text[i], ids, text)
			}
			continue
		}
		if !slices.Equal(a.ids[i], ids) || a.text[i] != text || a.finish[i] != finish {
			return fmt.Errorf("choice %d: %v %q %s, alone %v %q %s (error %v)",
				i, a.ids[i], a.text[i], a.finish[i], ids, text, finish, a.err)
		}
	}
	if u := a.last.Usage; u.Completion != completion || u.Prompt != len(a.request.Prompt) {
		return fmt.Errorf("usage is %d + %d, want %d + %d", u.Prompt, u.Completion, len(a.request.Prompt), completion)
	}
	if a.request.PromptLogprobs && a.finish[0] != FinishAbort {
		return a.checkProbs()
	}
	return nil
}

// checkProbs compares the log probabilities of the prompt with the model's
// function.
func (a *answer) checkProbs() error {
	prompt := a.request.Prompt
	if len(a.probs) != len(prompt) {
		return fmt.Errorf("%d log probabilities for %d tokens of the prompt", len(a.probs), len(prompt))
	}
	for i, tok := range a.probs {
		want := Token{ID: prompt[i]}
		if i > 0 {
			p, _, err := sample.Logprobs(fakeLogits(prompt[:i], fakeVocab), prompt[i], 0)
			if err != nil {
				return err
			}
			want.Logprob, want.HasProb = p, true
		}
		if tok.ID != want.ID || tok.Logprob != want.Logprob || tok.HasProb != want.HasProb {
			return fmt.Errorf("token %d of the prompt: %+v, want %+v", i, tok, want)
		}
	}
	return nil
}

// TestRandomSchedules runs many requests at random times through small engines
// and compares each with the same request alone.
func TestRandomSchedules(t *testing.T) {
	seed := rand.Uint64()
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	var preemptions, evictions, hits int64
	steps, drawn := 0, 0
	for round := range rounds {
		random := rand.New(rand.NewPCG(seed, uint64(round)))
		pages := 3 + random.IntN(12)
		c, m := testConfig(t, pages)
		c.MaxRunning = 1 + random.IntN(6)
		c.ChunkTokens = []int{1, 7, 16, 64, 200}[random.IntN(5)]
		c.ProbRows = 1 + random.IntN(40)
		c.MaxContext = 64 + random.IntN(64*pages)
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d, round %d, %d pages: %s", seed, round, pages, fmt.Sprintf(format, args...))
		}
		e, err := newEngine(c)
		if err != nil {
			fail("%v", err)
		}
		m.before = func(b *model.Batch) {
			if rows := len(b.Step.Tokens); rows > e.cfg.StepTokens() || len(b.Extents) > c.MaxRunning {
				fail("a step of %d rows in %d sequences", rows, len(b.Extents))
			}
		}
		var answers []*answer
		cancels := map[*answer]context.CancelFunc{}
		left := 12
		for turn := 0; left > 0 || len(e.live) > 0; turn++ {
			for left > 0 && (len(e.live) == 0 || random.IntN(4) == 0) {
				left--
				r := randomRequest(random, c.limit())
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				stream, err := e.Submit(ctx, r)
				if err != nil {
					fail("%v", err)
				}
				a := newAnswer(r, stream)
				answers, cancels[a] = append(answers, a), cancel
			}
			if random.IntN(80) == 0 {
				a := answers[random.IntN(len(answers))]
				e.mu.Lock()
				if r := e.live[a.stream.ID()]; r != nil {
					e.cancelled = append(e.cancelled, cancellation{r, context.Canceled})
				}
				e.mu.Unlock()
			}
			if random.IntN(200) == 0 {
				e.cache.Flush()
			}
			if n := len(e.running); n > 0 && random.IntN(40) == 0 {
				e.preempt(e.running[n-1])
			}
			e.add(false)
			e.turn()
			if random.IntN(2) == 0 {
				e.deliver() // as the next turn would
			}
			if err := checkInvariants(e); err != nil {
				fail("turn %d: %v", turn, err)
			}
			if len(e.running)+len(e.waiting)+len(e.spoken) == 0 && len(e.live) > 0 {
				fail("turn %d: %d requests live, nothing runs or waits", turn, len(e.live))
			}
			for _, a := range answers {
				for random.IntN(3) > 0 { // a slow reader
					ev, _, ok := a.stream.Poll()
					if !ok {
						break
					}
					a.take(ev)
				}
			}
		}
		for i, a := range answers {
			for ev := range a.stream.All() {
				a.take(ev)
			}
			if err := a.check(c.limit()); err != nil {
				fail("request %d: %v\n%+v", i, err, a.request)
			}
			if err := checkDecisions(a.last.Usage); err != nil {
				fail("request %d: %v", i, err)
			}
		}
		e.publish()
		checkRest(t, e)
		s := e.Stats()
		preemptions, evictions, hits = preemptions+s.Preemptions, evictions+s.Cache.Evictions, hits+s.Cache.HitTokens
		steps, drawn = steps+m.steps, drawn+m.drawn
	}
	t.Logf("%d preemptions, %d evictions, %d tokens found in the prefix cache", preemptions, evictions, hits)
	if drawn == 0 || drawn == steps {
		t.Errorf("seed %d: the model chose the tokens of %d steps of %d", seed, drawn, steps)
	}
	if preemptions == 0 || evictions == 0 || hits == 0 {
		t.Errorf("seed %d: %d preemptions, %d evictions, %d prefix hits: the schedules are too easy", seed, preemptions, evictions, hits)
	}
}
