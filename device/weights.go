package device

// MatrixSource is a weight matrix [Rows (out), Cols (in)] as a checkpoint
// stores it: row-major, little-endian, in Type. For F8E4M3, Scales holds the
// multipliers of the 128x128 blocks, row-major
// [ceil(Rows/128), ceil(Cols/128)]: w = Data·Scales[row/128][col/128]. Edge
// blocks are smaller. Data and Scales are only read while the matrix loads.
type MatrixSource struct {
	Name       string // for error messages
	Rows, Cols int
	Type       DType
	Data       []byte
	Scales     []float32
}

// Matrix is a weight that a device has laid out for itself.
type Matrix interface {
	Rows() int // output features
	Cols() int // input features
	Bytes() int64
}

// KVB is the weight kv_b_proj [H·(dn+dv), R], laid out for its three uses:
// expansion of latents to keys and values, absorption into the query, and the
// inverse on the output. Per head the first dn rows make keys (W_K), the next
// dv rows make values (W_V).
type KVB interface {
	Heads() int
	Nope() int   // dn
	Value() int  // dv
	Latent() int // R
	Bytes() int64
}

// Experts are the routed experts of one layer.
type Experts interface {
	Count() int // E
	Bytes() int64
}

// ExpertSource holds the projections of one routed expert: Gate and Up are
// [Ie, d], Down is [d, Ie].
type ExpertSource struct{ Gate, Up, Down MatrixSource }

// Rope holds a table of rotations for positions 0..Cos.Rows-1: Cos and Sin are
// F32 [positions, dr/2]. A pair (a, b) becomes (a·cos − b·sin, b·cos + a·sin).
// Interleaved pairs are (x[2i], x[2i+1]); otherwise half-split,
// (x[i], x[i+dr/2]).
type Rope struct {
	Cos, Sin    Tensor
	Interleaved bool
}

// Score is the function that turns router logits into scores.
type Score uint8

// Router scores.
const (
	Sigmoid Score = iota
	Softmax
)

// GroupLimit says how a router limits its choice to groups of experts.
type GroupLimit uint8

// Group limits. With GroupTop2Sum a group's score is the sum of its two
// largest choices, and choices of dropped groups become −∞ (DeepSeek-V3
// noaux_tc). With GroupMax it is the largest choice, and choices of dropped
// groups become 0 (DeepSeek-V2 group_limited_greedy).
const (
	NoGroups GroupLimit = iota
	GroupTop2Sum
	GroupMax
)

// Router describes how experts are chosen, see [Device.Route].
type Router struct {
	Score      Score
	Limit      GroupLimit
	Groups     int // n_group, 1 for NoGroups
	KeepGroups int // topk_group
	Choose     int // Ke
	Normalize  bool
	Scale      float32 // routed_scaling_factor
}
