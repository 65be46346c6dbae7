package engine

import (
	"latent/device"
	"latent/model"
	"latent/pathway"
)

// batch is the work of one step. Its slices are reused by the next.
type batch struct {
	model.Batch
	plan  pathway.Plan
	draws []device.Draw // memory for Draws
}

func (b *batch) reset() {
	b.Step.Tokens = b.Step.Tokens[:0]
	b.Step.Positions = b.Step.Positions[:0]
	b.Step.Slots = b.Step.Slots[:0]
	clear(b.Step.Seqs)
	b.Step.Seqs = b.Step.Seqs[:0]
	b.Extents = b.Extents[:0]
	b.LogitRows = b.LogitRows[:0]
	b.Draws, b.IDs, b.Meanwhile = nil, nil, nil
	b.Plan = &b.plan
}

// add gives a sequence rows for tokens, which stand behind prefix stored
// positions; pages hold them all. It returns the first row.
func (b *batch) add(tokens []int32, prefix int, pages []int32, phase pathway.Phase, policy pathway.Policy) int {
	row := len(b.Step.Tokens)
	b.Step.Tokens = append(b.Step.Tokens, tokens...)
	for i := range tokens {
		p := prefix + i
		b.Step.Positions = append(b.Step.Positions, int32(p))
		b.Step.Slots = append(b.Step.Slots, pages[p/device.PageTokens]*device.PageTokens+int32(p%device.PageTokens))
	}
	b.Step.Seqs = append(b.Step.Seqs, device.Seq{Row: row, Rows: len(tokens), Prefix: prefix, Pages: pages})
	b.Extents = append(b.Extents, pathway.Extent{Prefix: prefix, New: len(tokens), Phase: phase, Policy: policy})
	return row
}

// wantLogits asks for the logits of rows [from, to) and returns where in the
// logits the first will be.
func (b *batch) wantLogits(from, to int) int {
	at := len(b.LogitRows)
	for r := from; r < to; r++ {
		b.LogitRows = append(b.LogitRows, int32(r))
	}
	return at
}
