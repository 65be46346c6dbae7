package engine

import (
	"slices"

	"latent/sample"
)

// newSequence makes choice index of a request. Choices of a request draw from
// different seeds; without a seed of its own it gets one.
func (e *Engine) newSequence(r *request, index, budget int, seed uint64) (*sequence, error) {
	s := &sequence{
		req: r, index: index, budget: budget, prompt: len(r.Prompt),
		tokens: slices.Clip(r.Prompt), // shared until the first token is appended
	}
	s.sampler = sample.NewSampler(r.Params, r.Prompt, seed+uint64(index))
	if e.cfg.Detokenizer != nil {
		s.detok = e.cfg.Detokenizer(r.SkipSpecial)
		s.stops = sample.NewStopMatcher(r.Stop, r.IncludeStop)
	}
	return s, nil
}

// advance takes the next token from the logits of the last row: the token, the
// text it completes, and whether the choice ends with it.
func (s *sequence) advance(logits []float32, isStop func(int32) bool, out *outcome) {
	p := &s.req.Params
	drawn := s.sampler.Sample(logits)
	s.tokens = append(s.tokens, drawn.ID)
	out.token = Token{ID: drawn.ID, Logprob: drawn.Logprob, Top: drawn.Top, HasProb: p.Logprobs}

	stopID := slices.Contains(p.StopIDs, drawn.ID) || !s.req.IgnoreEOS && isStop(drawn.ID)
	switch {
	case stopID && s.generated() >= p.MinTokens:
		out.finish, out.stop = FinishStop, drawn.ID
	case s.generated() == s.budget:
		out.finish = FinishLength
	}
	if s.detok == nil {
		return
	}
	var text string
	if out.finish != FinishStop || s.req.IncludeStop {
		text = s.detok.Add(drawn.ID)
	}
	if out.finish != NotFinished {
		text += s.detok.Flush()
	}
	emit, matched, ok := s.stops.Add(text)
	out.text = emit
	switch {
	case ok:
		out.finish, out.stop = FinishStop, matched
	case out.finish != NotFinished:
		out.text += s.stops.Flush()
	}
}

// promptProb returns the log probability of token p of the prompt, from the
// logits of the row before it.
func (s *sequence) promptProb(logits []float32, p int) Token {
	id := s.tokens[p]
	prob, top := sample.Logprobs(logits, id, s.req.Params.TopLogprobs)
	return Token{ID: id, Logprob: prob, Top: top, HasProb: true}
}
