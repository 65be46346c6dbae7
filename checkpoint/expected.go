package checkpoint

import (
	"fmt"

	"latent/device"
)

// Role says what a tensor is for. It decides how many of its parameters a token
// uses, what dummy weights look like and whether FP8 releases quantise it.
type Role uint8

// Roles of tensors.
const (
	Projection Role = iota // linear layer, FP8 in FP8 releases
	Expert                 // linear layer of a routed expert
	Plain                  // linear layer that is never FP8: router, lm_head, indexer weights, eh_proj
	Embedding              // table of input embeddings
	Norm                   // scale of a norm
	Bias                   // bias of a norm or the router's correction bias
)

// TensorSpec is a tensor that a configuration calls for.
type TensorSpec struct {
	Name     string
	Shape    []int
	Role     Role
	MTP      bool // belongs to a multi-token-prediction layer, which may be absent
	Optional bool // the model works without it
}

// Expected lists every tensor that c calls for, layer by layer, MTP layers
// last.
func Expected(c *Config) []TensorSpec {
	b := specs{c: c}
	b.add("model.embed_tokens.weight", Embedding, c.Vocab, c.Hidden)
	for i := range c.Layers {
		b.layer(i, c.MoE[i], c.Indexer != nil && c.Indexer.Full[i])
	}
	b.add("model.norm.weight", Norm, c.Hidden)
	if !c.TieEmbed {
		b.add("lm_head.weight", Plain, c.Vocab, c.Hidden)
	}
	b.mtp = true
	for i := c.Layers; i < c.Layers+c.MTPLayers; i++ {
		b.layer(i, c.Experts > 0, c.Indexer != nil)
		p := layerPrefix(i)
		b.add(p+"enorm.weight", Norm, c.Hidden)
		b.add(p+"hnorm.weight", Norm, c.Hidden)
		b.add(p+"eh_proj.weight", Plain, c.Hidden, 2*c.Hidden)
		b.add(p+"shared_head.norm.weight", Norm, c.Hidden)
		for _, copied := range []string{"embed_tokens.weight", "shared_head.head.weight"} {
			b.add(p+copied, Plain, c.Vocab, c.Hidden)
			b.list[len(b.list)-1].Optional = true
		}
	}
	return b.list
}

func layerPrefix(i int) string { return fmt.Sprintf("model.layers.%d.", i) }

type specs struct {
	c    *Config
	mtp  bool
	list []TensorSpec
}

func (b *specs) add(name string, role Role, shape ...int) {
	b.list = append(b.list, TensorSpec{Name: name, Shape: shape, Role: role, MTP: b.mtp})
}

func (b *specs) layer(i int, moe, indexed bool) {
	c, p := b.c, layerPrefix(i)
	d, qk := c.Hidden, c.Heads*c.QKDim()
	b.add(p+"input_layernorm.weight", Norm, d)
	b.add(p+"post_attention_layernorm.weight", Norm, d)

	a := p + "self_attn."
	if c.QueryRank == 0 {
		b.add(a+"q_proj.weight", Projection, qk, d)
	} else {
		b.add(a+"q_a_proj.weight", Projection, c.QueryRank, d)
		b.add(a+"q_a_layernorm.weight", Norm, c.QueryRank)
		b.add(a+"q_b_proj.weight", Projection, qk, c.QueryRank)
	}
	b.add(a+"kv_a_proj_with_mqa.weight", Projection, c.Latent+c.RopeDim, d)
	b.add(a+"kv_a_layernorm.weight", Norm, c.Latent)
	b.add(a+"kv_b_proj.weight", Projection, c.Heads*(c.Nope+c.Value), c.Latent)
	b.add(a+"o_proj.weight", Projection, d, c.Heads*c.Value)
	if indexed {
		x := c.Indexer
		b.add(a+"indexer.wq_b.weight", Projection, x.Heads*x.Dim, c.QueryRank)
		b.add(a+"indexer.wk.weight", Projection, x.Dim, d)
		b.add(a+"indexer.k_norm.weight", Norm, x.Dim)
		b.add(a+"indexer.k_norm.bias", Bias, x.Dim)
		b.add(a+"indexer.weights_proj.weight", Plain, x.Heads, d)
	}

	m := p + "mlp."
	if !moe {
		b.mlp(m, Projection, c.Inter)
		return
	}
	b.add(m+"gate.weight", Plain, c.Experts, d)
	if c.Router.Bias {
		b.add(m+"gate.e_score_correction_bias", Bias, c.Experts)
	}
	for j := range c.Experts {
		b.mlp(fmt.Sprintf("%sexperts.%d.", m, j), Expert, c.ExpertDim)
	}
	if c.Shared > 0 {
		b.mlp(m+"shared_experts.", Projection, c.Shared*c.ExpertDim)
	}
}

func (b *specs) mlp(prefix string, role Role, inner int) {
	b.add(prefix+"gate_proj.weight", role, inner, b.c.Hidden)
	b.add(prefix+"up_proj.weight", role, inner, b.c.Hidden)
	b.add(prefix+"down_proj.weight", role, b.c.Hidden, inner)
}

// Parameters are numbers of weights.
type Parameters struct {
	Total  int64 // of the model without MTP layers
	Active int64 // used for one token: of the routed experts only the chosen ones, of the embedding table one row
	MTP    int64 // of the MTP layers, without copies of the tables
}

// Parameters counts the weights that c calls for.
func (c *Config) Parameters() Parameters {
	var p Parameters
	for _, s := range Expected(c) {
		n := int64(1)
		for _, d := range s.Shape {
			n *= int64(d)
		}
		switch {
		case s.Optional:
		case s.MTP:
			p.MTP += n
		case s.Role == Expert:
			p.Total += n
			p.Active += n / int64(c.Experts) * int64(c.Router.Choose)
		case s.Role == Embedding:
			p.Total += n
			p.Active += int64(c.Hidden)
		default:
			p.Total += n
			p.Active += n
		}
	}
	return p
}

// Indexed lists the layers that have their own indexer, ascending; nil for
// models without sparse attention.
func (c *Config) Indexed() []int {
	if c.Indexer == nil {
		return nil
	}
	var layers []int
	for i, full := range c.Indexer.Full {
		if full {
			layers = append(layers, i)
		}
	}
	return layers
}

// TokenBytes returns the bytes of attention cache that one token takes in all
// layers: latent records and index keys.
func (c *Config) TokenBytes(format device.CacheFormat) (latent, index int64) {
	spec := device.CacheSpec{Format: format, Layers: c.Layers, Latent: c.Latent, Rope: c.RopeDim}
	latent = spec.TokenBytes()
	if c.Indexer != nil {
		spec.Indexed, spec.IndexDim = c.Indexed(), c.Indexer.Dim
	}
	return latent, spec.TokenBytes() - latent
}
