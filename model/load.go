package model

import (
	"encoding/binary"
	"fmt"
	"math"

	"latent/checkpoint"
	"latent/device"
	"latent/pathway"
)

// DefaultExpandBytes is the default of Options.ExpandBytes, ScoreBytes and
// AbsorbBytes.
const DefaultExpandBytes = 256 << 20

// Load lays out the weights of a model on a device. The cache is allocated
// separately, see AllocateCache.
func Load(dev device.Device, cfg *checkpoint.Config, w checkpoint.Weights, opts Options) (*Model, error) {
	for _, b := range []*int64{&opts.ExpandBytes, &opts.ScoreBytes, &opts.AbsorbBytes} {
		if *b <= 0 {
			*b = DefaultExpandBytes
		}
	}
	if opts.MaxContext <= 0 || opts.MaxContext > cfg.MaxPos {
		opts.MaxContext = cfg.MaxPos
	}
	if cfg.Indexer != nil && cfg.QueryRank == 0 {
		return nil, fmt.Errorf("model: an indexer needs a compressed query, but q_lora_rank is null")
	}
	m := &Model{dev: dev, cfg: cfg, opts: opts, act: dev.Activation(opts.Arithmetic),
		scale: cfg.SoftmaxScale(), work: workspace{dev: dev}, router: router(cfg)}
	m.sampler, _ = dev.(device.Sampler)
	_, m.async = dev.(device.Timed)
	l := loader{dev: dev, w: w, arithmetic: opts.Arithmetic, m: m}

	m.embed = l.table("model.embed_tokens.weight", cfg.Vocab, cfg.Hidden)
	m.norm = l.vector("model.norm.weight", cfg.Hidden)
	if cfg.TieEmbed {
		m.head = l.matrix("model.embed_tokens.weight", cfg.Vocab, cfg.Hidden)
	} else {
		m.head = l.matrix("lm_head.weight", cfg.Vocab, cfg.Hidden)
	}
	m.loadRope(&l)
	m.layers = make([]layer, cfg.Layers)
	for i := range m.layers {
		l.layer(cfg, i, &m.layers[i])
		if l.err != nil {
			break
		}
	}
	if l.err != nil {
		return nil, fmt.Errorf("model: %w", l.err)
	}
	if err := dev.Sync(); err != nil {
		return nil, fmt.Errorf("model: load: %w", err)
	}
	return m, nil
}

// Geometry returns the numbers the planner's costs depend on, for all heads on
// one device.
func Geometry(c *checkpoint.Config, f device.CacheFormat) pathway.Geometry {
	record := device.CacheSpec{Format: f, Layers: 1, Latent: c.Latent, Rope: c.RopeDim}
	g := pathway.Geometry{Heads: c.Heads, Nope: c.Nope, Rope: c.RopeDim, Value: c.Value, Latent: c.Latent,
		QueryRank: c.QueryRank, RecordSize: int(record.TokenBytes())}
	if ix := c.Indexer; ix != nil {
		g.IndexHeads, g.IndexDim, g.TopK = ix.Heads, ix.Dim, ix.TopK
		g.IndexedShare = float64(len(c.Indexed())) / float64(c.Layers)
	}
	return g
}

func router(c *checkpoint.Config) device.Router {
	r := device.Router{Groups: 1, KeepGroups: 1, Choose: c.Router.Choose, Normalize: c.Router.Normalize, Scale: c.Router.Scale}
	if c.Router.Softmax {
		r.Score = device.Softmax
	}
	if c.Router.Groups > 1 {
		r.Groups, r.KeepGroups, r.Limit = c.Router.Groups, c.Router.KeepGroups, device.GroupTop2Sum
		if c.Router.GroupMax {
			r.Limit = device.GroupMax
		}
	}
	return r
}

// loadRope uploads the one table of angles that MLA and the indexer share.
func (m *Model) loadRope(l *loader) {
	cos, sin := m.cfg.RopeTable(m.opts.MaxContext)
	n := m.cfg.RopeDim / 2
	m.rope = device.Rope{Cos: l.f32(cos, m.opts.MaxContext, n), Sin: l.f32(sin, m.opts.MaxContext, n),
		Interleaved: m.cfg.Rope.Interleaved}
	m.irope = m.rope
	if m.cfg.Indexer != nil {
		m.irope.Interleaved = m.cfg.Indexer.Interleaved
	}
}

// loader reads tensors onto the device and remembers the first error.
type loader struct {
	dev        device.Device
	w          checkpoint.Weights
	arithmetic device.DType
	m          *Model
	err        error
}

func (l *loader) layer(c *checkpoint.Config, i int, w *layer) {
	p := fmt.Sprintf("model.layers.%d.", i)
	attn := p + "self_attn."
	w.inputNorm = l.vector(p+"input_layernorm.weight", c.Hidden)
	w.postNorm = l.vector(p+"post_attention_layernorm.weight", c.Hidden)

	heads := c.Heads * (c.Nope + c.RopeDim)
	if c.QueryRank > 0 {
		w.queryA = l.matrix(attn+"q_a_proj.weight", c.QueryRank, c.Hidden)
		w.queryNorm = l.vector(attn+"q_a_layernorm.weight", c.QueryRank)
		w.query = l.matrix(attn+"q_b_proj.weight", heads, c.QueryRank)
	} else {
		w.query = l.matrix(attn+"q_proj.weight", heads, c.Hidden)
	}
	w.latent = l.matrix(attn+"kv_a_proj_with_mqa.weight", c.Latent+c.RopeDim, c.Hidden)
	w.latentNorm = l.vector(attn+"kv_a_layernorm.weight", c.Latent)
	w.kvb = l.kvb(attn+"kv_b_proj.weight", c)
	w.out = l.matrix(attn+"o_proj.weight", c.Hidden, c.Heads*c.Value)
	if ix := c.Indexer; ix != nil && ix.Full[i] {
		x := attn + "indexer."
		w.index = &indexer{
			query:   l.matrix(x+"wq_b.weight", ix.Heads*ix.Dim, c.QueryRank),
			key:     l.matrix(x+"wk.weight", ix.Dim, c.Hidden),
			keyNorm: l.vector(x+"k_norm.weight", ix.Dim),
			keyBias: l.vector(x+"k_norm.bias", ix.Dim),
			weights: l.exact(x+"weights_proj.weight", ix.Heads, c.Hidden),
		}
	}

	mlp := p + "mlp."
	if !c.MoE[i] {
		w.gateUp = l.matrix2(mlp+"gate_proj.weight", mlp+"up_proj.weight", c.Inter, c.Hidden)
		w.down = l.matrix(mlp+"down_proj.weight", c.Hidden, c.Inter)
		return
	}
	w.router = l.exact(mlp+"gate.weight", c.Experts, c.Hidden)
	if c.Router.Bias {
		w.routerBias = l.vector(mlp+"gate.e_score_correction_bias", c.Experts)
	}
	w.experts = l.experts(mlp+"experts.", c)
	if c.Shared > 0 {
		s, inner := mlp+"shared_experts.", c.Shared*c.ExpertDim
		w.gateUp = l.matrix2(s+"gate_proj.weight", s+"up_proj.weight", inner, c.Hidden)
		w.down = l.matrix(s+"down_proj.weight", c.Hidden, inner)
	}
}

func (l *loader) source(name string, rows, cols int) (device.MatrixSource, bool) {
	if l.err != nil {
		return device.MatrixSource{}, false
	}
	t, err := l.w.Tensor(name, rows, cols)
	if err != nil {
		l.err = err
		return device.MatrixSource{}, false
	}
	return device.MatrixSource{Name: name, Rows: rows, Cols: cols, Type: t.Type, Data: t.Data, Scales: t.Scales}, true
}

func (l *loader) load(arithmetic device.DType, names []string, rows, cols int) device.Matrix {
	parts := make([]device.MatrixSource, len(names))
	for i, name := range names {
		var ok bool
		if parts[i], ok = l.source(name, rows, cols); !ok {
			return nil
		}
	}
	m, err := l.dev.LoadMatrix(arithmetic, parts...)
	if err != nil {
		l.err = err
		return nil
	}
	l.m.bytes += m.Bytes()
	return m
}

func (l *loader) matrix(name string, rows, cols int) device.Matrix {
	return l.load(l.arithmetic, []string{name}, rows, cols)
}

// exact loads a matrix whose products are never rounded below float32: the
// router and the indexer's weights_proj.
func (l *loader) exact(name string, rows, cols int) device.Matrix {
	return l.load(device.F32, []string{name}, rows, cols)
}

// matrix2 stacks two matrices of one shape.
func (l *loader) matrix2(a, b string, rows, cols int) device.Matrix {
	return l.load(l.arithmetic, []string{a, b}, rows, cols)
}

func (l *loader) kvb(name string, c *checkpoint.Config) device.KVB {
	src, ok := l.source(name, c.Heads*(c.Nope+c.Value), c.Latent)
	if !ok {
		return nil
	}
	k, err := l.dev.LoadKVB(l.arithmetic, c.Heads, c.Nope, c.Value, src)
	if err != nil {
		l.err = err
		return nil
	}
	l.m.bytes += k.Bytes()
	return k
}

func (l *loader) experts(prefix string, c *checkpoint.Config) device.Experts {
	src := make([]device.ExpertSource, c.Experts)
	for j := range src {
		p := fmt.Sprintf("%s%d.", prefix, j)
		src[j].Gate, _ = l.source(p+"gate_proj.weight", c.ExpertDim, c.Hidden)
		src[j].Up, _ = l.source(p+"up_proj.weight", c.ExpertDim, c.Hidden)
		src[j].Down, _ = l.source(p+"down_proj.weight", c.Hidden, c.ExpertDim)
	}
	if l.err != nil {
		return nil
	}
	e, err := l.dev.LoadExperts(l.arithmetic, src)
	if err != nil {
		l.err = err
		return nil
	}
	l.m.bytes += e.Bytes()
	return e
}

// table uploads an embedding table in its stored type.
func (l *loader) table(name string, rows, cols int) device.Tensor {
	src, ok := l.source(name, rows, cols)
	if !ok {
		return device.Tensor{}
	}
	if src.Type == device.F8E4M3 {
		l.err = fmt.Errorf("%s: an embedding table in %v is not supported; store it as bfloat16 or float32", name, src.Type)
		return device.Tensor{}
	}
	return l.upload(device.Tensor{Type: src.Type, Rows: rows, Cols: cols}, src.Data)
}

// vector uploads a norm weight or bias as float32.
func (l *loader) vector(name string, n int) device.Tensor {
	if l.err != nil {
		return device.Tensor{}
	}
	t, err := l.w.Tensor(name, n)
	if err != nil {
		l.err = err
		return device.Tensor{}
	}
	v := make([]float32, n)
	for i := range v {
		switch t.Type {
		case device.F32:
			v[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
		case device.BF16:
			v[i] = device.F32FromBF16(binary.LittleEndian.Uint16(t.Data[2*i:]))
		case device.F16:
			v[i] = device.F32FromF16(binary.LittleEndian.Uint16(t.Data[2*i:]))
		default:
			l.err = fmt.Errorf("%s: a vector of %v is not supported; store it as bfloat16 or float32", name, t.Type)
			return device.Tensor{}
		}
	}
	return l.f32(v, 1, n)
}

func (l *loader) f32(v []float32, rows, cols int) device.Tensor {
	return l.upload(device.Tensor{Type: device.F32, Rows: rows, Cols: cols}, bytesOf(v))
}

func (l *loader) upload(t device.Tensor, data []byte) device.Tensor {
	if l.err != nil {
		return device.Tensor{}
	}
	mem, err := l.dev.Alloc(t.Bytes())
	if err != nil {
		l.err = err
		return device.Tensor{}
	}
	t.Mem = mem
	l.dev.Upload(t, data)
	l.m.bytes += t.Bytes()
	return t
}
