package model

import (
	"fmt"

	"latent/checkpoint"
	"latent/device"
	"latent/pathway"
)

// Options say how a model is laid out on a device.
type Options struct {
	// Arithmetic is device.F32 or device.BF16: what products may round their
	// inputs to. Stored types narrower than that stay as they are.
	Arithmetic device.DType
	// CacheFormat is the format of cached latents and index keys.
	CacheFormat device.CacheFormat
	// MaxContext bounds the positions of a sequence; 0 means the configuration's
	// max_position_embeddings.
	MaxContext int
	// ExpandBytes bounds the expanded K/V of one wave of MHA, ScoreBytes the
	// index scores of one chunk of rows, AbsorbBytes the absorbed queries and
	// latent outputs of one chunk of rows. 0 means a default of 256 MiB each.
	ExpandBytes, ScoreBytes, AbsorbBytes int64
}

// Model is a loaded model with its attention cache. It is used by one goroutine
// at a time.
type Model struct {
	dev    device.Device
	cfg    *checkpoint.Config
	opts   Options
	act    device.DType
	embed  device.Tensor // [vocabulary, d], in its stored type
	layers []layer
	norm   device.Tensor // F32 [1, d]
	head   device.Matrix // [vocabulary, d]
	rope   device.Rope   // for MLA
	irope  device.Rope   // for the indexer: same angles, its own pairing
	scale  float32       // softmax scale
	router device.Router
	cache  device.Cache
	bytes  int64 // weights on the device

	work           workspace
	sched          schedule
	selections     [2]device.Selection // by device.SelectionForm
	selectionSize  [2]selectionSize
	selectionsMade int // counts, see Model.moved
	decode         decoder
	scoredRows     []int32
	hostLogits     []float32
	hostIDs        []int32
	sampler        device.Sampler // nil if the device does not choose tokens
	async          bool           // the device works on while its calls return
	timing         timing
}

type selectionSize struct{ rows, keys int }

// layer holds the weights of one decoder layer.
type layer struct {
	inputNorm, postNorm device.Tensor // F32 [1, d]

	queryA     device.Matrix // q_a_proj [Rq, d], nil without query compression
	queryNorm  device.Tensor // q_a_layernorm F32 [1, Rq]
	query      device.Matrix // q_b_proj [H·(dn+dr), Rq], or q_proj [.., d]
	latent     device.Matrix // kv_a_proj_with_mqa [R+dr, d]
	latentNorm device.Tensor // kv_a_layernorm F32 [1, R]
	kvb        device.KVB
	out        device.Matrix // o_proj [d, H·dv]
	index      *indexer      // nil if the layer has none of its own

	gateUp, down device.Matrix // dense MLP, or the shared experts; nil if neither
	router       device.Matrix // [E, d], nil in dense layers
	routerBias   device.Tensor // F32 [1, E], no memory without bias
	experts      device.Experts
}

// indexer holds the weights of a lightning indexer.
type indexer struct {
	query            device.Matrix // wq_b [Hi·Di, Rq]
	key              device.Matrix // wk [Di, d]
	keyNorm, keyBias device.Tensor // k_norm F32 [1, Di]
	weights          device.Matrix // weights_proj [Hi, d]
}

// Config returns the model's configuration.
func (m *Model) Config() *checkpoint.Config { return m.cfg }

// Options returns the options in force, with defaults filled in.
func (m *Model) Options() Options { return m.opts }

// Bytes returns the bytes of weights on the device.
func (m *Model) Bytes() int64 { return m.bytes }

// CacheSpec returns the attention cache the model needs for a number of pages.
func (m *Model) CacheSpec(pages int) device.CacheSpec {
	s := device.CacheSpec{Format: m.opts.CacheFormat, Pages: pages, Layers: m.cfg.Layers,
		Latent: m.cfg.Latent, Rope: m.cfg.RopeDim}
	if ix := m.cfg.Indexer; ix != nil {
		s.IndexDim, s.Indexed = ix.Dim, m.cfg.Indexed()
	}
	return s
}

// AllocateCache makes the attention cache, replacing an earlier one.
func (m *Model) AllocateCache(pages int) error {
	if m.cache != nil {
		m.cache.Free()
		m.cache = nil
	}
	m.closeDecode()
	spec := m.CacheSpec(pages)
	if capture, ok := m.dev.(device.Capturer); ok {
		// One more page, for rows that fill up a captured step.
		m.decode.capture, m.decode.spare = capture, int32(pages)
		spec.Pages++
	}
	c, err := m.dev.NewCache(spec)
	if err != nil {
		return fmt.Errorf("model: attention cache of %d pages (%d bytes): %w", pages, spec.TokenBytes()*device.PageTokens*int64(pages), err)
	}
	m.cache = c
	return nil
}

// KVBytesPerKey returns the workspace that one expanded key position takes.
func (m *Model) KVBytesPerKey() int64 {
	const many = 1 << 10
	return (m.dev.KVBytes(m.layers[0].kvb, m.cfg.RopeDim, many) + many - 1) / many
}

// Geometry returns the numbers of the model that the planner's costs depend on.
func (m *Model) Geometry() pathway.Geometry { return Geometry(m.cfg, m.opts.CacheFormat) }

// Close frees the cache and the workspace. The weights go with the device, which
// stays open.
func (m *Model) Close() {
	m.closeDecode()
	if m.cache != nil {
		m.cache.Free()
		m.cache = nil
	}
	for i, sel := range m.selections {
		if sel != nil {
			sel.Free()
			m.selections[i] = nil
		}
	}
	m.work.free()
}
