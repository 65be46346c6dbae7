package engine

import (
	"fmt"
	"slices"

	"latent/sample"
)

// newSequence makes choice index of a request.
func (e *Engine) newSequence(r *request, index, budget int) *sequence {
	s := &sequence{
		req: r, index: index, budget: budget, prompt: len(r.Prompt),
		tokens: slices.Clip(r.Prompt), // shared until the first token is appended
		params: r.Params,
	}
	s.params.Seed += uint64(index) * seedStep
	if !r.IgnoreEOS {
		s.params.StopIDs = append(slices.Clip(r.Params.StopIDs), e.cfg.StopIDs...)
	}
	s.sampler = sample.New(s.params, r.Prompt)
	if e.cfg.Detokenizer != nil {
		s.detok = e.cfg.Detokenizer(r.SkipSpecial)
		s.stops = sample.NewStopMatcher(r.Stop, r.IncludeStop)
	}
	return s
}

// seedStep is the distance of the seeds of a request's choices: the odd number
// nearest 2^64 divided by the golden ratio, so that small seeds do not meet.
const seedStep = 0x9e3779b97f4a7c15

// advance chooses the next token from the logits of the last row and takes it.
func (s *sequence) advance(logits []float32, out *outcome) {
	drawn, err := s.sampler.Next(logits)
	if err != nil {
		out.err = fmt.Errorf("engine: logits of token %d: %w", len(s.tokens), err)
		return
	}
	s.take(drawn, out)
}

// take appends the next token. It and whether the choice ends with it go to out.
func (s *sequence) take(drawn sample.Result, out *outcome) {
	s.sampler.Accept(drawn.ID)
	s.tokens = append(s.tokens, drawn.ID)
	out.token = Token{ID: drawn.ID, Logprob: drawn.Logprob, Top: drawn.Top, HasProb: s.params.Logprobs >= 0}
	out.early = s.generated() <= s.params.MinTokens
	switch {
	case !out.early && slices.Contains(s.params.StopIDs, drawn.ID):
		out.finish, out.stop = FinishStop, drawn.ID
	case s.generated() == s.budget:
		out.finish = FinishLength
	}
}

// spell puts the text that the token taken last completes into out, and the
// choice's end if a stop string does that.
func (s *sequence) spell(out *outcome) {
	if s.detok == nil {
		return
	}
	var text string
	if out.finish != FinishStop || s.req.IncludeStop {
		text = s.detok.Add(out.token.ID)
	}
	if out.finish != NotFinished {
		text += s.detok.Flush()
	}
	if out.early {
		out.text = text
		return
	}
	shown, stopped := s.stops.Push(text)
	out.text = shown
	switch {
	case stopped:
		out.finish, out.stop = FinishStop, s.stops.Matched()
	case out.finish != NotFinished:
		out.text += s.stops.Finish()
	}
}

// promptProb returns the log probability of token p of the prompt, from the
// logits of the row before it.
func (s *sequence) promptProb(logits []float32, p int) (Token, error) {
	id := s.tokens[p]
	prob, top, err := sample.Logprobs(logits[:s.params.Vocabulary], id, max(s.params.Logprobs, 0))
	if err != nil {
		return Token{}, fmt.Errorf("engine: logits of token %d: %w", p, err)
	}
	return Token{ID: id, Logprob: prob, Top: top, HasProb: true}, nil
}
