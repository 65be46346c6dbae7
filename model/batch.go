package model

import (
	"time"

	"latent/device"
	"latent/pathway"
)

// Batch is the work of one forward pass: the geometry of its tokens, the plan
// of their attention, and the rows whose logits are wanted.
type Batch struct {
	Step device.Step
	// Extents are what Plan was made for: Extents[i] describes Step.Seqs[i].
	Extents []pathway.Extent
	Plan    *pathway.Plan
	// LogitRows are the rows of the step whose logits are computed, ascending.
	LogitRows []int32
	// Draws, if not nil, says for each of the LogitRows how to choose a token
	// from its logits.
	Draws []device.Draw
	// Meanwhile, if not nil, is called once by Forward when the device has all
	// of the work, before waiting for it; or first, if the device works only
	// while it is called.
	Meanwhile func()

	// IDs is set by Forward if there are Draws and the device chooses tokens
	// itself: a token for each of the LogitRows, −1 where the logits allow none.
	// They are valid until the next call. Otherwise it is nil.
	IDs []int32

	// Times is set by Forward: what the attention of all layers took. It is 0 if
	// the pass had a trace of layers, which leaves no marks within them.
	Times Times
}

func (b *Batch) meanwhile() {
	if b.Meanwhile != nil {
		b.Meanwhile()
	}
}

// Times is the time that a forward pass spent on attention, all layers
// together: what a plan predicts, without projections and cache writes.
type Times struct {
	Select   time.Duration // indexer queries, scores and selection
	Expanded time.Duration // K/V expansion, MHA, merging
	Absorbed time.Duration // absorption, MLA, the way back
}

// Total returns the sum.
func (t Times) Total() time.Duration { return t.Select + t.Expanded + t.Absorbed }
