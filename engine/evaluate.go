package engine

import (
	"fmt"

	"latent/device"
	"latent/kvcache"
	"latent/model"
	"latent/pathway"
)

// EvalConfig says how to run prompts outside an engine, for tests and
// inspection.
type EvalConfig struct {
	Model      Forwarder
	Planner    Planner
	Pages      int // pages of the model's attention cache
	MaxContext int // positions that the model can have
	Vocab      int
	// Chunk bounds the tokens that Evaluate gives each prompt in a step; 0: the
	// whole prompt in one.
	Chunk int
	// Trace, if not nil, is called before every step and returns what observes
	// it, or nil. step.Seqs[i] is the part of sequence (or prompt) sequences[i];
	// its Row and Prefix tell which position a row of the trace is. Both are
	// valid until the step ends.
	Trace func(step *device.Step, sequences []int) *model.Trace
}

// Sequences are token sequences that share steps of a model, each with pages
// of its own. Unlike an engine's they are driven by hand: every call of Step is
// one forward pass.
type Sequences struct {
	cfg   EvalConfig
	cache *kvcache.Cache
	seqs  []evalSequence
	batch batch
	index []int // of the sequences in the step
}

type evalSequence struct {
	tokens []int32
	pages  []int32
}

// NewSequences returns n empty sequences.
func NewSequences(c EvalConfig, n int) *Sequences {
	return &Sequences{cfg: c, cache: kvcache.New(c.Pages), seqs: make([]evalSequence, n)}
}

// Step appends tokens[i] to sequence i, computes all of them as one ragged
// batch, and returns their logits: for each sequence row-major
// [len(tokens[i]), vocabulary]. A sequence without new tokens takes no part. A
// single token behind others counts as decode, anything else as prefill. After
// an error the sequences must not be used again.
func (s *Sequences) Step(tokens [][]int32) ([][]float32, error) {
	if len(tokens) != len(s.seqs) {
		return nil, fmt.Errorf("engine: tokens for %d sequences, there are %d", len(tokens), len(s.seqs))
	}
	s.batch.reset()
	s.index = s.index[:0]
	for i, ids := range tokens {
		if err := s.add(i, ids); err != nil {
			return nil, fmt.Errorf("engine: sequence %d: %w", i, err)
		}
	}
	out := make([][]float32, len(tokens))
	rows := len(s.batch.Step.Tokens)
	if rows == 0 {
		return out, nil
	}
	s.batch.wantLogits(0, rows)
	var trace *model.Trace
	if s.cfg.Trace != nil {
		trace = s.cfg.Trace(&s.batch.Step, s.index)
	}
	s.cfg.Planner.Plan(s.batch.Extents, s.batch.Plan)
	logits, err := s.cfg.Model.Forward(&s.batch.Batch, trace)
	if err != nil {
		return nil, err
	}
	if want := rows * s.cfg.Vocab; len(logits) != want {
		return nil, fmt.Errorf("engine: %d logits came back, want %d", len(logits), want)
	}
	logits = append([]float32(nil), logits...)
	for i, ids := range tokens {
		n := len(ids) * s.cfg.Vocab
		out[i], logits = logits[:n:n], logits[n:]
	}
	return out, nil
}

func (s *Sequences) add(i int, ids []int32) error {
	if len(ids) == 0 {
		return nil
	}
	for _, id := range ids {
		if id < 0 || int(id) >= s.cfg.Vocab {
			return fmt.Errorf("token %d, the vocabulary ends at %d", id, s.cfg.Vocab-1)
		}
	}
	q := &s.seqs[i]
	prefix := len(q.tokens)
	q.tokens = append(q.tokens, ids...)
	if len(q.tokens) > s.cfg.MaxContext {
		return &TooLongError{Prompt: len(q.tokens), Limit: s.cfg.MaxContext}
	}
	pages, err := s.cache.Allocate(kvcache.PagesFor(len(q.tokens)) - len(q.pages))
	if err != nil {
		return err
	}
	q.pages = append(q.pages, pages...)
	phase := pathway.Prefill
	if prefix > 0 && len(ids) == 1 {
		phase = pathway.Decode
	}
	s.batch.add(ids, prefix, q.pages, phase, pathway.PolicyDefault)
	s.index = append(s.index, i)
	return nil
}

// Evaluate runs prompts as one ragged batch and returns the logits of every
// position: for each prompt row-major [tokens, vocabulary]. In every step each
// prompt that is not done gets Chunk of its tokens.
func Evaluate(c EvalConfig, prompts [][]int32) ([][]float32, error) {
	s := NewSequences(c, len(prompts))
	out := make([][]float32, len(prompts))
	rest := append([][]int32(nil), prompts...)
	for {
		part := make([][]int32, len(prompts))
		todo := false
		for i, ids := range rest {
			n := len(ids)
			if c.Chunk > 0 {
				n = min(n, c.Chunk)
			}
			part[i], rest[i] = ids[:n], ids[n:]
			todo = todo || n > 0
		}
		if !todo {
			return out, nil
		}
		logits, err := s.Step(part)
		if err != nil {
			return nil, err
		}
		for i := range out {
			out[i] = append(out[i], logits[i]...)
		}
	}
}
