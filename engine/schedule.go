package engine

import (
	"slices"

	"latent/device"
	"latent/kvcache"
	"latent/pathway"
	"latent/sample"
)

// work is a sequence's part of a step.
type work struct {
	seq *sequence
	n   int // tokens computed
	// probAt is where in the logits the rows start that give log probabilities
	// of the prompt, of tokens probFrom, probFrom+1, …, probTo−1.
	probAt, probFrom, probTo int
	sampleAt                 int // row of the logits to sample from, or −1
	out                      outcome
}

// schedule chooses the rows of the next step and sees to their pages. It
// returns false if there are none.
func (e *Engine) schedule() bool {
	e.batch.reset()
	clear(e.works)
	e.works = e.works[:0]
	e.step.reset()

	e.scheduleDecodes()
	budget := chunkBudget{tokens: e.cfg.ChunkTokens, probRows: e.cfg.ProbRows}
	for _, s := range e.running {
		if !s.decoding() {
			e.addRows(s, budget.take(s))
		}
	}
	if e.step.Preempted == 0 { // else what was freed would be handed out again at once
		e.admit(&budget)
	}
	e.wantDraws()
	return len(e.works) > 0
}

// wantDraws lets the model choose the tokens of the step, if none of its
// sequences needs more than that of the logits.
func (e *Engine) wantDraws() {
	draws := e.batch.draws[:0]
	for i := range e.works {
		w := &e.works[i]
		if w.probFrom < w.probTo {
			return
		}
		if w.sampleAt < 0 {
			continue
		}
		u, plain := w.seq.sampler.Uniform()
		if !plain {
			return
		}
		draws = append(draws, draw(&w.seq.params, u, e.cfg.Vocab))
	}
	e.batch.draws, e.batch.Draws = draws, draws
}

// draw translates parameters for the model.
func draw(p *sample.Params, u float64, vocab int) device.Draw {
	d := device.Draw{
		Temperature: p.Temperature, TopP: p.TopP, MinP: p.MinP,
		TopK: int32(max(p.TopK, 0)), Vocabulary: int32(vocab), Uniform: u,
	}
	if p.Greedy() {
		d.Temperature = 0
	}
	if p.Vocabulary > 0 {
		d.Vocabulary = int32(min(p.Vocabulary, vocab))
	}
	return d
}

// scheduleDecodes gives every decoding sequence its row, the oldest first,
// preempting the youngest when pages run out.
func (e *Engine) scheduleDecodes() {
	for i := 0; i < len(e.running); i++ {
		s := e.running[i]
		if s.decoding() && e.grow(s) {
			e.addRows(s, 1)
		}
	}
}

// grow sees to it that the pages of s have room for all its tokens. It returns
// false if s, being the youngest, had to be preempted itself.
func (e *Engine) grow(s *sequence) bool {
	for len(s.pages) < kvcache.PagesFor(len(s.tokens)) {
		page, err := e.cache.Allocate(1)
		if err == nil {
			s.pages = append(s.pages, page...)
			continue
		}
		youngest := e.running[len(e.running)-1]
		e.preempt(youngest)
		if youngest == s {
			return false
		}
	}
	return true
}

// preempt takes a running sequence's pages and puts it back in the queue.
func (e *Engine) preempt(s *sequence) {
	e.running = slices.DeleteFunc(e.running, func(r *sequence) bool { return r == s })
	e.releasePages(s)
	s.done = 0
	e.waiting = insertByAge(e.waiting, s)
	e.step.Preempted++
	e.totals.Preemptions++
}

// admit starts waiting sequences in order of age as long as there is room in
// the step, the batch and the cache.
func (e *Engine) admit(budget *chunkBudget) {
	for i := 0; i < len(e.waiting) && len(e.running) < e.cfg.MaxRunning; {
		s := e.waiting[i]
		if !s.mayStart() {
			i++
			continue
		}
		if !budget.left(s) {
			return
		}
		reserve := len(e.running)
		pages, cached, err := e.cache.Acquire(s.req.CacheSalt, s.shareable(), kvcache.PagesFor(len(s.tokens)), reserve)
		if err != nil {
			return
		}
		s.pages, s.done = pages, cached
		e.waiting = slices.Delete(e.waiting, i, i+1)
		e.running = insertByAge(e.running, s)
		e.admitted(s, cached)
		e.addRows(s, budget.take(s))
	}
}

// addRows puts the next n tokens of s into the step.
func (e *Engine) addRows(s *sequence, n int) {
	if n == 0 {
		return
	}
	phase := pathway.Prefill
	if s.decoding() {
		phase = pathway.Decode
	}
	from, to := s.done, s.done+n
	row := e.batch.add(s.tokens[from:to], from, s.pages, phase, s.req.Policy)
	w := work{seq: s, n: n, sampleAt: -1}
	if s.wantsProbs() {
		// The row of token p gives the probability of token p+1.
		w.probFrom, w.probTo = max(from+1, len(s.req.probs)), min(to+1, s.prompt)
		if w.probFrom < w.probTo {
			w.probAt = e.batch.wantLogits(row+w.probFrom-1-from, row+w.probTo-1-from)
		}
	}
	if to == len(s.tokens) && s.budget > 0 {
		w.sampleAt = e.batch.wantLogits(row+n-1, row+n)
	}
	e.works = append(e.works, w)
}

// chunkBudget is what is left of a step for prompt tokens.
type chunkBudget struct{ tokens, probRows int }

func (b *chunkBudget) left(s *sequence) bool {
	return b.tokens > 0 && (!s.wantsProbs() || b.probRows > 0)
}

// take returns how many of its tokens s may compute.
func (b *chunkBudget) take(s *sequence) int {
	n := min(len(s.tokens)-s.done, b.tokens)
	if s.wantsProbs() {
		n = min(n, b.probRows)
		b.probRows -= n
	}
	b.tokens -= n
	return n
}
