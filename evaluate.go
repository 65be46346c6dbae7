package latent

import (
	"context"
	"fmt"
	"slices"

	"latent/bench"
	"latent/device"
	"latent/engine"
	"latent/model"
)

// Evaluation holds what Evaluate computed for one prompt.
type Evaluation struct {
	Logits []float32 // row-major [tokens, vocabulary]
	// Selected holds, by layer, the positions that the indexer selected for
	// each token, ascending: everything the token sees where no selection was
	// needed. nil for layers without an indexer of their own.
	Selected map[int][][]int32
}

// Evaluate runs prompts as one ragged batch, in steps of at most
// Options.ChunkedPrefillSize tokens of each prompt (0: whole prompts), and
// returns the logits of every position and what every indexer selected. It
// writes to the attention cache from its first page: an [Engine] refuses it.
func (e *Loaded) Evaluate(prompts [][]int32, chunk int) ([]Evaluation, error) {
	if e.serving {
		return nil, fmt.Errorf("evaluate: %w", errServing)
	}
	cfg := e.checkpoint.Config
	out := make([]Evaluation, len(prompts))
	for i, ids := range prompts {
		out[i].Selected = allVisible(cfg.Indexed(), len(ids))
	}
	logits, err := engine.Evaluate(engine.EvalConfig{
		Model: e.model, Planner: e.planner, Pages: e.memory.Pages, MaxContext: e.model.Options().MaxContext,
		Vocab: cfg.Vocab, Chunk: chunk,
		Trace: func(step *device.Step, sequences []int) *model.Trace {
			if cfg.Indexer == nil {
				return nil
			}
			return &model.Trace{Selection: func(layer, row int, positions []int32) {
				i := slices.IndexFunc(step.Seqs, func(s device.Seq) bool { return row >= s.Row && row < s.Row+s.Rows })
				s := step.Seqs[i]
				out[sequences[i]].Selected[layer][s.Prefix+row-s.Row] = slices.Clone(positions)
			}}
		},
	}, prompts)
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	for i := range out {
		out[i].Logits = logits[i]
	}
	return out, nil
}

// allVisible returns, for each layer and token, the positions up to the token.
func allVisible(layers []int, tokens int) map[int][][]int32 {
	positions := make([]int32, tokens)
	for i := range positions {
		positions[i] = int32(i)
	}
	out := map[int][][]int32{}
	for _, l := range layers {
		out[l] = make([][]int32, tokens)
		for t := range tokens {
			out[l][t] = positions[:t+1]
		}
	}
	return out
}

// BenchAttention measures what the stages of a layer take. It fills the
// attention cache with random records: an [Engine] refuses it.
func (e *Loaded) BenchAttention(ctx context.Context, o bench.AttentionOptions) (*bench.AttentionReport, error) {
	if e.serving {
		return nil, fmt.Errorf("bench: %w", errServing)
	}
	return bench.Attention(ctx, bench.Target{
		Model: e.model, Planner: e.planner, Pages: e.memory.Pages,
		Name: e.Name(), Key: e.calibration.Key, Calibration: e.calibrated,
	}, o)
}
