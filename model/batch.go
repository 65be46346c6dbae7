package model

import (
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
}
