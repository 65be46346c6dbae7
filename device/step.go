package device

// PageTokens is the number of tokens in a page of the attention cache.
const PageTokens = 64

// Step is the geometry of one forward pass over a ragged batch: T new tokens of
// several sequences, each behind its cached prefix. Row r of every activation
// tensor belongs to Tokens[r].
type Step struct {
	Tokens    []int32 // [T] token ids
	Positions []int32 // [T] position of each token in its sequence, from 0
	Slots     []int32 // [T] cache slot each token is stored in: page·PageTokens + offset
	Seqs      []Seq
}

// Seq is one sequence of a step. Its new tokens are rows [Row, Row+Rows) at
// positions Prefix..Prefix+Rows−1; Pages[p/PageTokens] is the page that holds
// position p, for all positions up to the last new token.
type Seq struct {
	Row, Rows int
	Prefix    int
	Pages     []int32
}

// Context returns how many positions the sequence has after the step.
func (s Seq) Context() int { return s.Prefix + s.Rows }

// Run is a run of consecutive query rows of one sequence, handled alike by an
// attention or indexer operation. Query row i of the run (0 ≤ i < Rows) is row
// Row+i of the step, sits at position Pos+i and sees the keys at positions
// [KeyFrom, min(KeyTo, Pos+i+1)); that range may be empty for leading rows of
// a later key chunk.
type Run struct {
	Seq     int // index into Step.Seqs
	Row     int // first row in the step
	Rows    int
	Pos     int // position of the first row
	KeyFrom int
	KeyTo   int
	// Keys is where position KeyFrom stands in the expanded K/V of
	// [Device.ExpandKV]; used by [Device.MHA] only.
	Keys int
	// Sel is the first row of the run in a selection, or −1 when every visible
	// key is attended to.
	Sel int
}

// KeyRange is a range of cached positions of one sequence to expand: positions
// [From, To) of Step.Seqs[Seq] become keys Keys, Keys+1, … of the expansion.
type KeyRange struct {
	Seq, From, To, Keys int
}

// RunRows returns the number of rows in runs.
func RunRows(runs []Run) int {
	n := 0
	for i := range runs {
		n += runs[i].Rows
	}
	return n
}

// CacheFormat is the number format of cached latents and index keys.
type CacheFormat uint8

// Cache formats (DeepSeek's reference layout, sizes for R=512, dr=64, Di=128).
//
// CacheF32 and CacheBF16 store latents, rope keys and index keys in that type,
// index keys without a Hadamard transform. CacheF8 stores a latent as e4m3 in
// blocks of min(128, R) with one power-of-two float32 scale per block, the rope
// key as bfloat16 (656 bytes), and an index key as e4m3 with one scale (132
// bytes), after a Hadamard transform if Di is a power of two. Scales follow
// [QuantScale].
const (
	CacheF32 CacheFormat = iota
	CacheBF16
	CacheF8
)

func (f CacheFormat) String() string {
	return [...]string{"float32", "bfloat16", "fp8_e4m3"}[f]
}

// CacheSpec describes a paged attention cache.
type CacheSpec struct {
	Format   CacheFormat
	Pages    int
	Layers   int   // layers with a latent pool
	Indexed  []int // layers that also have an index-key pool, ascending
	Latent   int   // R
	Rope     int   // dr
	IndexDim int   // Di
}

// TokenBytes returns the bytes that one token takes in all layers.
func (s CacheSpec) TokenBytes() int64 {
	var latent, index int
	switch s.Format {
	case CacheF32:
		latent, index = 4*(s.Latent+s.Rope), 4*s.IndexDim
	case CacheBF16:
		latent, index = 2*(s.Latent+s.Rope), 2*s.IndexDim
	case CacheF8:
		block := min(128, s.Latent)
		latent = s.Latent + 4*((s.Latent+block-1)/block) + 2*s.Rope
		index = s.IndexDim + 4
	}
	return int64(s.Layers)*int64(latent) + int64(len(s.Indexed))*int64(index)
}

// Cache is a device's paged attention cache.
type Cache interface {
	Spec() CacheSpec
	Bytes() int64
	Free()
}

// SelectionForm says how a selection is stored.
type SelectionForm uint8

// SelectIndices stores K positions a row, ascending, padded with −1.
// SelectMask stores one bit per position of the context.
const (
	SelectIndices SelectionForm = iota
	SelectMask
)

// Selection is a device's store of selected keys for a number of rows.
type Selection interface {
	Form() SelectionForm
	Rows() int
	// Positions reads row r back: selected positions, ascending. For tests,
	// traces and inspection; it waits for the device.
	Positions(r int) []int32
	Free()
}
