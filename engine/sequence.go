package engine

import (
	"slices"
	"time"

	"latent/kvcache"
	"latent/pathway"
	"latent/sample"
)

// sequence is one choice of a request on its way through the engine. Only the
// loop touches it.
type sequence struct {
	req   *request
	index int // of the choice

	tokens []int32 // the prompt, then what was generated
	prompt int     // tokens of the prompt
	budget int     // tokens that may be generated in all
	done   int     // tokens computed: their records are in pages
	sent   int     // generated tokens whose events were sent
	pages  []int32 // nil unless running

	params  sample.Params
	sampler *sample.Sampler
	detok   Detokenizer
	stops   *sample.StopMatcher

	finish    FinishReason
	last      time.Time // of the last token
	decisions []Decision
}

// generated returns how many tokens were generated.
func (s *sequence) generated() int { return len(s.tokens) - s.prompt }

// decoding tells whether the only thing left to compute is the token generated
// last.
func (s *sequence) decoding() bool { return s.generated() > 0 && s.done == len(s.tokens)-1 }

// wantsProbs tells whether log probabilities of the prompt are still missing.
func (s *sequence) wantsProbs() bool {
	return s.index == 0 && s.req.PromptLogprobs && len(s.req.probs) < s.prompt
}

// shareable returns the tokens for which cached pages may be used: all, unless
// their rows must be computed for the log probabilities of the prompt.
func (s *sequence) shareable() []int32 {
	if s.wantsProbs() {
		return s.tokens[:len(s.req.probs)]
	}
	return s.tokens
}

// mayStart tells whether a waiting sequence can be admitted: the first choice
// at any time, the others when its prompt is in the tree or no page of
// it can be shared.
func (s *sequence) mayStart() bool {
	return s.index == 0 || s.req.prefilled || kvcache.PagesFor(s.prompt) == 1
}

// older tells whether s comes before t in the order of arrival.
func (s *sequence) older(t *sequence) bool {
	if s.req.order != t.req.order {
		return s.req.order < t.req.order
	}
	return s.index < t.index
}

// insertByAge puts s where it belongs in a list in order of arrival.
func insertByAge(list []*sequence, s *sequence) []*sequence {
	at := len(list)
	for at > 0 && s.older(list[at-1]) {
		at--
	}
	return slices.Insert(list, at, s)
}

// decide records a segment of the sequence's rows.
func (s *sequence) decide(seg *pathway.Segment, x pathway.Extent) {
	d := Decision{
		Choice: s.index, Phase: x.Phase,
		From: x.Prefix + seg.From, To: x.Prefix + seg.To,
		Pathway: seg.Pathway, Reason: seg.Reason,
		PredictedUS: seg.Cost, Alternatives: seg.Alternatives, Excluded: seg.Excluded,
	}
	if n := len(s.decisions); n > 0 && s.decisions[n-1].extend(&d) || n == maxDecisions {
		return
	}
	s.decisions = append(s.decisions, d)
}

// extend makes next part of d and returns true, if it is more of the same.
func (d *Decision) extend(next *Decision) bool {
	if d.Phase != next.Phase || d.To != next.From || d.Pathway != next.Pathway ||
		d.Reason != next.Reason || d.Excluded != next.Excluded {
		return false
	}
	d.To = next.To
	d.PredictedUS += next.PredictedUS
	for p := range d.Alternatives {
		d.Alternatives[p] += next.Alternatives[p]
	}
	return true
}

func (s *sequence) view(running bool) SequenceView {
	return SequenceView{
		Request: s.req.ID, Choice: s.index, Running: running,
		Prompt: s.prompt, Computed: s.done, Generated: s.generated(),
		Decisions: slices.Clone(s.decisions),
	}
}
