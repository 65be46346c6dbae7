package latent

import (
	"fmt"

	"latent/device"
	"latent/engine"
	"latent/model"
	"latent/pathway"
)

// warm runs one step of the largest size, on a cache just large enough, for a
// device whose operations keep memory of their own. Then that memory is there,
// the rest can be given to the cache, and the first request does not wait for
// what happens once. It returns the bytes that operations have taken.
func (e *Loaded) warm(dev device.Buffered) (int64, error) {
	m, steps := e.model, engine.Config{ChunkTokens: e.opts.ChunkedPrefillSize, MaxRunning: e.opts.MaxRunning}
	b := model.Batch{Plan: new(pathway.Plan)}
	var pages int32
	for left := steps.StepTokens(); left > 0; {
		n := min(left, m.Options().MaxContext)
		left -= n
		seq := device.Seq{Row: len(b.Step.Tokens), Rows: n}
		for p := range n {
			if p%device.PageTokens == 0 {
				seq.Pages = append(seq.Pages, pages)
				pages++
			}
			b.Step.Tokens = append(b.Step.Tokens, int32(len(b.Step.Tokens)%e.checkpoint.Config.Vocab))
			b.Step.Positions = append(b.Step.Positions, int32(p))
			b.Step.Slots = append(b.Step.Slots, seq.Pages[p/device.PageTokens]*device.PageTokens+int32(p%device.PageTokens))
		}
		b.Step.Seqs = append(b.Step.Seqs, seq)
		b.Extents = append(b.Extents, pathway.Extent{New: n, Phase: pathway.Prefill})
	}
	for r := range min(steps.LogitRows(), len(b.Step.Tokens)) {
		b.LogitRows = append(b.LogitRows, int32(r))
	}
	if err := m.AllocateCache(int(pages)); err != nil {
		return 0, err
	}
	e.planner.Plan(b.Extents, b.Plan)
	if _, err := m.Forward(&b, nil); err != nil {
		return 0, fmt.Errorf("first step, of %d tokens: %w", len(b.Step.Tokens), err)
	}
	return dev.ScratchBytes(), nil
}
