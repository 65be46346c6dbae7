package pathway

import "fmt"

// Pathway is one of four algebraically equal ways to compute the attention of a
// DSA layer.
type Pathway uint8

// The pathways. MHA and MLA attend to every visible key, so they are exact only
// for rows whose context is at most index_topk, or for models without an
// indexer. MHAMasked and MLASparse apply the indexer's selection and are always
// exact for models that have one.
const (
	MHA       Pathway = iota // expanded K/V, dense causal
	MHAMasked                // expanded K/V, the selection as a bit mask
	MLA                      // latent cache, absorbed, dense
	MLASparse                // latent cache, absorbed, selected rows gathered
	numPathways
)

// Count is the number of pathways.
const Count = int(numPathways)

func (p Pathway) String() string {
	if p >= numPathways {
		return fmt.Sprintf("Pathway(%d)", uint8(p))
	}
	return [...]string{"mha", "mha-masked", "mla", "mla-sparse"}[p]
}

// MarshalText writes the pathway's name.
func (p Pathway) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Expanded tells whether p computes over expanded K/V.
func (p Pathway) Expanded() bool { return p == MHA || p == MHAMasked }

// Selects tells whether p needs the indexer's selection.
func (p Pathway) Selects() bool { return p == MHAMasked || p == MLASparse }

// Phase says what a sequence's rows are for.
type Phase uint8

// The phases: prompt rows, one generated token, several drafted tokens.
const (
	Prefill Phase = iota
	Decode
	Verify
)

func (p Phase) String() string { return [...]string{"prefill", "decode", "verify"}[p] }

// MarshalText writes the phase's name.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Extent is one sequence's part of a step: New query rows behind Prefix cached
// tokens. Row i has context Prefix+i+1.
type Extent struct {
	Prefix, New int
	Phase       Phase
	// Policy overrules the planner's own for this sequence, if it is not zero.
	// An override that [Planner.CheckPolicy] refuses is not followed.
	Policy Policy
}

// Context returns how many positions the sequence has after the step.
func (e Extent) Context() int { return e.Prefix + e.New }

// Segment is a run of consecutive rows of one extent that takes one pathway.
type Segment struct {
	Extent   int // index into the extents given to Plan
	From, To int // rows [From, To) of the extent
	Pathway  Pathway
	Reason   Reason
	// Keys is the number of positions expanded for this segment, beyond those
	// that earlier segments of the sequence had expanded; 0 unless the pathway
	// is of the MHA family.
	Keys int
	// Pairs is the number of query-key pairs that the attention core computes:
	// selected keys on MLASparse, visible keys elsewhere.
	Pairs int64
	// Cost is the predicted time of the segment's own work in one layer, in
	// microseconds, without the fixed overhead of its pathway.
	Cost float64
	// Alternatives holds, by pathway, the predicted cost of these rows on it,
	// the sequence's earlier segments being as they are, or +Inf where it was
	// excluded; Excluded says why.
	Alternatives [Count]float64
	Excluded     [Count]Exclusion
}

// Rows returns the number of query rows.
func (s *Segment) Rows() int { return s.To - s.From }

// Plan is the decision for one step. Its slices are reused by the next call
// that is given the plan, so that planning into the same Plan step after step
// does not allocate. The zero value is ready for use.
type Plan struct {
	// Segments covers every row of every extent once, ordered by extent, then
	// by row.
	Segments []Segment
	// Waves are the K/V expansions of the MHA family, in order: what of which
	// sequence is expanded together within the workspace bound.
	Waves []Wave
	// Predicted is the predicted time of the attention of one layer in
	// microseconds: segments plus the overhead of each pathway in use.
	Predicted float64
	// Used tells which pathways have segments.
	Used [Count]bool

	rulings    [numPolicies]ruling
	candidates []candidate
	placed     []placedChunk
	chunks     []Chunk
	starts     []int
}

// Wave is one round of K/V expansion followed by MHA over the expanded keys.
type Wave struct {
	Chunks []Chunk
	Keys   int // expanded positions in all
}

// Chunk is a range of positions of one extent's sequence, expanded to rows
// Offset, Offset+1, … of the wave's workspace. Rows of the extent's MHA-family
// segments attend to it; partial results of several chunks of a sequence are
// merged by log-sum-exp. Chunks of a sequence are in different waves, in order
// of position, and their borders depend on the workspace bound alone.
type Chunk struct {
	Extent   int
	From, To int // positions [From, To)
	Offset   int
}
