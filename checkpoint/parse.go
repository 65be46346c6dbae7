package checkpoint

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Bounds of sizes. They are far above every released model and keep products of
// two sizes within 2^50 and the list of tensors small, so that a hostile
// configuration cannot cause an overflow or an absurd allocation.
const (
	maxLayers    = 1 << 10
	maxExperts   = 1 << 12
	maxWidth     = 1 << 20
	maxHeads     = 1 << 12
	maxVocab     = 1 << 24
	maxPositions = 1 << 26
	maxRouted    = 1 << 17 // experts of all layers
	maxElements  = 1 << 36 // of one tensor
)

// family holds what a model_type implies where the file is silent. Values are
// those of the Hugging Face configuration classes; −1 means required.
type family struct {
	firstDense, groups, keepGroups int
	experts, shared                int
	maxPos                         int
	eps, scale, theta              float64
	softmax                        bool // V2's router; otherwise sigmoid with bias
	indexHeads                     int  // 0 for families without an indexer
	indexInterleaved               bool
}

func families() map[string]family {
	v3 := family{firstDense: 3, groups: 8, keepGroups: 4, experts: 256, shared: 1,
		maxPos: 4096, eps: 1e-6, scale: 2.5, theta: 1e4}
	v32 := v3
	v32.maxPos, v32.indexHeads = 163840, 64
	return map[string]family{
		"deepseek_v2": {firstDense: 0, groups: 1, keepGroups: 1, experts: 64, shared: 2,
			maxPos: 2048, eps: 1e-6, scale: 1, theta: 1e4, softmax: true},
		"deepseek_v3":  v3,
		"deepseek_v32": v32,
		"kimi_k2":      v3,
		"glm_moe_dsa": {firstDense: 3, groups: 1, keepGroups: 1, experts: 256, shared: 1,
			maxPos: 202752, eps: 1e-5, scale: 2.5, theta: math.NaN(), indexHeads: 32, indexInterleaved: true},
		"glm4_moe_lite": {firstDense: 1, groups: 1, keepGroups: 1, experts: 64, shared: 1,
			maxPos: 202752, eps: 1e-5, scale: 1.8, theta: math.NaN()},
	}
}

// SupportedModelTypes lists the values of model_type that [ParseConfig]
// accepts, sorted.
func SupportedModelTypes() []string {
	return slices.Sorted(maps.Keys(families()))
}

// ParseConfig reads a config.json. Each of overrides is a JSON object that is
// laid over the file first, objects key by key (--json-model-override-args). A
// wrapper with a text_config is read as its text model. Errors other than
// malformed JSON are a [*ConfigError].
func ParseConfig(data []byte, overrides ...[]byte) (*Config, error) {
	m, err := decodeObject(data)
	if err != nil {
		return nil, err
	}
	for _, o := range overrides {
		over, err := decodeObject(o)
		if err != nil {
			return nil, fmt.Errorf("override: %w", err)
		}
		merge(m, over)
	}
	o := object{m: m, err: &err}
	if text, ok := o.child("text_config"); ok {
		// What wrappers keep beside the text model applies to it.
		for _, k := range []string{"eos_token_id", "bos_token_id", "dtype", "torch_dtype",
			"tie_word_embeddings", "quantization_config"} {
			if _, own := text.lookup(k); own == "" {
				text.m[k] = o.m[k]
			}
		}
		o = text
	}
	c := parse(o)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func parse(o object) *Config {
	c := &Config{ModelType: o.str("", "model_type")}
	f, ok := families()[c.ModelType]
	if !ok {
		v, found := o.lookup("model_type")
		if found == "" {
			o.fail("model_type", o.absence("model_type"), oneOf(SupportedModelTypes()))
		} else {
			o.fail("model_type", show(v), oneOf(SupportedModelTypes()))
		}
		return nil
	}
	c.Vocab = o.integer(-1, 1, maxVocab, "vocab_size")
	c.Hidden = o.integer(-1, 1, maxWidth, "hidden_size")
	c.Layers = o.integer(-1, 1, maxLayers, "num_hidden_layers")
	c.MTPLayers = o.integer(0, 0, 16, "num_nextn_predict_layers", "num_mtp_layers")
	c.MaxPos = o.integer(f.maxPos, 1, maxPositions, "max_position_embeddings")
	c.Eps = float32(o.number(f.eps, "a number in (0, 1)", func(x float64) bool { return x > 1e-30 && x < 1 }, "rms_norm_eps"))
	c.TieEmbed = o.boolean(false, "tie_word_embeddings")
	o.str("silu", "hidden_act", "silu")
	for _, k := range []string{"attention_bias", "mlp_bias"} {
		if o.boolean(false, k) {
			o.fail(k, "true", "false: bias terms are not supported")
		}
	}

	c.Heads = o.integer(-1, 1, maxHeads, "num_attention_heads")
	if !o.has("q_lora_rank") {
		o.fail("q_lora_rank", "nothing", fmt.Sprintf("an integer from 1 to %d, or null for a single query projection", maxWidth))
	}
	c.QueryRank = o.integer(0, 1, maxWidth, "q_lora_rank")
	c.Latent = o.integer(-1, 1, maxWidth, "kv_lora_rank")
	c.Nope = o.integer(-1, 1, maxWidth, "qk_nope_head_dim")
	c.RopeDim = o.integer(-1, 2, 1<<12, "qk_rope_head_dim")
	c.Value = o.integer(-1, 1, maxWidth, "v_head_dim")
	if c.RopeDim%2 != 0 {
		o.fail("qk_rope_head_dim", fmt.Sprint(c.RopeDim), "an even number")
	}
	if n := o.integer(0, 1, 2*maxWidth, "qk_head_dim"); n != 0 && n != c.QKDim() {
		o.fail("qk_head_dim", fmt.Sprint(n), fmt.Sprintf("qk_nope_head_dim + qk_rope_head_dim = %d", c.QKDim()))
	}
	c.Rope = parseRope(o, f)

	parseMoE(o, f, c)
	parseLayerTypes(o, f, c)
	if f.indexHeads > 0 {
		parseIndexer(o, f, c)
	}
	parseQuantization(o, c)

	c.DType = o.str("", "torch_dtype")
	if c.DType == "" {
		c.DType = o.str("", "dtype")
	}
	c.EOS = o.ids("eos_token_id")
	c.BOS = -1
	if ids := o.ids("bos_token_id"); len(ids) > 0 {
		c.BOS = ids[0]
	}
	if *o.err == nil {
		checkSizes(o, c)
	}
	return c
}

func positive(x float64) bool { return x > 1e-30 && x < 1e30 }

// parseRope reads rope_parameters (HF v5) over rope_theta and rope_scaling.
func parseRope(o object, f family) RopeConfig {
	v5, hasV5 := o.child("rope_parameters")
	old, hasOld := o.child("rope_scaling")
	const thetaWant = "a number greater than 1"
	isTheta := func(x float64) bool { return x > 1 && x < 1e30 }

	r := RopeConfig{Interleaved: o.boolean(true, "rope_interleave")}
	if _, ok := v5.lookup("rope_theta"); ok != "" {
		r.Theta = v5.number(f.theta, thetaWant, isTheta, "rope_theta")
	} else {
		r.Theta = o.number(f.theta, thetaWant, isTheta, "rope_theta")
	}
	one := func(x float64) bool { return x == 1 }
	o.number(1, "1: only whole rope heads are supported", one, "partial_rotary_factor")

	s := old
	if hasV5 {
		v5.number(1, "1: only whole rope heads are supported", one, "partial_rotary_factor")
		if _, key := v5.lookup("rope_type", "type"); key != "" || !hasOld {
			s = v5
		}
	} else if !hasOld {
		return r
	}
	kind := ""
	if _, key := s.lookup("rope_type", "type"); key != "" {
		kind = s.str("", key, "default", "yarn")
	} else if _, scaled := s.lookup("factor"); scaled != "" {
		s.fail("rope_type", "nothing", oneOf([]string{"default", "yarn"}))
	} else {
		for _, k := range slices.Sorted(maps.Keys(s.m)) {
			if _, nested := s.m[k].(map[string]any); nested {
				s.fail(k, "an object", "one set of rope parameters: sets by layer type are not supported")
			}
		}
	}
	if kind == "yarn" {
		r.YaRN = parseYaRN(s)
	}
	return r
}

// parseYaRN returns nil when the factor asks for no scaling.
func parseYaRN(s object) *YaRN {
	const want = "a positive number"
	y := &YaRN{
		Factor:       s.number(math.NaN(), want, positive, "factor"),
		BetaFast:     s.number(32, want, positive, "beta_fast"),
		BetaSlow:     s.number(1, want, positive, "beta_slow"),
		MScale:       s.number(0, "a number from 0 to 100", func(x float64) bool { return x >= 0 && x <= 100 }, "mscale"),
		MScaleAllDim: s.number(0, "a number from 0 to 100", func(x float64) bool { return x >= 0 && x <= 100 }, "mscale_all_dim"),
	}
	whole := func(x float64) bool { return x >= 1 && x <= maxPositions && x == math.Trunc(x) }
	y.Original = int(s.number(math.NaN(), fmt.Sprintf("an integer from 1 to %d", maxPositions), whole,
		"original_max_position_embeddings"))
	if *s.err != nil || y.Factor <= 1 {
		return nil
	}
	if !s.boolean(true, "truncate") {
		s.fail("truncate", "false", "true: only YaRN with rounded correction dimensions is supported")
	}
	_, a := s.lookup("mscale")
	_, b := s.lookup("mscale_all_dim")
	y.HasMScale = a != "" && b != ""
	y.AttentionFactor = s.number(0, want, positive, "attention_factor")
	if ratio := y.mscale(y.MScale) / y.mscale(y.MScaleAllDim); y.HasMScale && y.AttentionFactor != 0 &&
		math.Abs(y.AttentionFactor-ratio) > 1e-6*ratio {
		s.fail("attention_factor", fmt.Sprint(y.AttentionFactor), fmt.Sprintf("%v, as mscale and mscale_all_dim give", ratio))
	}
	return y
}

// parseMoE reads which layers have routed experts, the experts' sizes and the
// router.
func parseMoE(o object, f family, c *Config) {
	first := o.integer(f.firstDense, 0, math.MaxInt32, "first_k_dense_replace")
	freq := o.integer(1, 1, maxLayers, "moe_layer_freq")
	kinds := o.words(c.Layers, "mlp_layer_types", "dense", "sparse")
	if *o.err != nil {
		return
	}
	// An explicit null for the number of experts means a model without any.
	null := o.has("n_routed_experts")
	if _, key := o.lookup("n_routed_experts", "num_local_experts", "num_experts"); key != "" {
		null = false
	}
	c.MoE = make([]bool, c.Layers)
	routed := false
	for i := range c.MoE {
		if kinds != nil {
			c.MoE[i] = kinds[i] == "sparse"
		} else {
			c.MoE[i] = !null && i >= first && i%freq == 0
		}
		routed = routed || c.MoE[i]
	}
	dense := !routed
	for _, m := range c.MoE {
		dense = dense || !m
	}
	if dense {
		c.Inter = o.integer(-1, 1, maxWidth, "intermediate_size")
	}
	if !routed && (null || c.MTPLayers == 0) {
		c.Router.Groups, c.Router.KeepGroups = 1, 1
		return
	}
	if null {
		o.fail("n_routed_experts", "null", "a number of experts, since mlp_layer_types has sparse layers")
	}
	c.Experts = o.integer(f.experts, 1, maxExperts, "n_routed_experts", "num_local_experts", "num_experts")
	c.Shared = o.integer(f.shared, 0, 64, "n_shared_experts")
	if o.has("n_shared_experts") && o.m["n_shared_experts"] == nil {
		c.Shared = 0
	}
	c.ExpertDim = o.integer(-1, 1, maxWidth, "moe_intermediate_size")
	if *o.err == nil {
		parseRouter(o, f, c)
	}
}

func parseRouter(o object, f family, c *Config) {
	r := &c.Router
	r.Choose = o.integer(-1, 1, c.Experts, "num_experts_per_tok")
	r.Scale = float32(o.number(f.scale, "a positive number", positive, "routed_scaling_factor"))
	r.Groups = o.integer(f.groups, 1, c.Experts, "n_group")
	keep := min(f.keepGroups, r.Groups)
	if o.has("n_group") && o.m["n_group"] == nil {
		r.Groups, keep = 1, 1
	}
	if f.softmax {
		o.str("softmax", "scoring_func", "softmax")
		r.Softmax = true
		r.GroupMax = o.str("greedy", "topk_method", "greedy", "group_limited_greedy") == "group_limited_greedy"
		if !r.GroupMax {
			r.Groups, keep = 1, 1
		}
		if o.boolean(false, "norm_topk_prob") {
			o.fail("norm_topk_prob", "true", "false: "+c.ModelType+" never renormalises")
		}
	} else {
		o.str("sigmoid", "scoring_func", "sigmoid")
		o.str("noaux_tc", "topk_method", "noaux_tc")
		r.Bias = true
		r.Normalize = o.boolean(true, "norm_topk_prob")
	}
	if *o.err != nil { // then numbers read above may be 0
		return
	}
	if c.Experts%r.Groups != 0 {
		o.fail("n_group", fmt.Sprint(r.Groups), fmt.Sprintf("a divisor of n_routed_experts = %d", c.Experts))
		return
	}
	if r.Groups == 1 {
		r.KeepGroups = 1
		return
	}
	size := c.Experts / r.Groups
	if !f.softmax && size < 2 {
		o.fail("n_group", fmt.Sprint(r.Groups),
			fmt.Sprintf("at most %d, so that each group has the two experts its score is the sum of", c.Experts/2))
	}
	r.KeepGroups = o.integer(keep, 1, r.Groups, "topk_group")
	if r.Choose > r.KeepGroups*size {
		o.fail("num_experts_per_tok", fmt.Sprint(r.Choose),
			fmt.Sprintf("at most %d, the experts in topk_group = %d groups", r.KeepGroups*size, r.KeepGroups))
	}
}

// parseLayerTypes refuses layers whose attention is of another kind.
func parseLayerTypes(o object, f family, c *Config) {
	if f.indexHeads > 0 {
		o.words(c.Layers, "layer_types", "deepseek_sparse_attention")
	} else {
		o.words(c.Layers, "layer_types", "full_attention")
	}
}

func parseIndexer(o object, f family, c *Config) {
	x := &IndexerConfig{
		Heads:       o.integer(f.indexHeads, 1, maxHeads, "index_n_heads"),
		Dim:         o.integer(128, 1, 1<<12, "index_head_dim"),
		TopK:        o.integer(2048, 1, maxPositions, "index_topk"),
		Interleaved: o.boolean(f.indexInterleaved, "indexer_rope_interleave"),
	}
	c.Indexer = x
	if c.QueryRank == 0 {
		o.fail("q_lora_rank", "null", "an integer: the indexer reads the compressed query")
	}
	if x.Dim < c.RopeDim {
		o.fail("index_head_dim", fmt.Sprint(x.Dim), fmt.Sprintf("at least qk_rope_head_dim = %d", c.RopeDim))
	}
	x.Full = make([]bool, c.Layers)
	key := "indexer_types"
	if kinds := o.words(c.Layers, key, "full", "shared"); kinds != nil {
		for i, k := range kinds {
			x.Full[i] = k == "full"
		}
	} else if pattern := indexPattern(o, c.Layers); pattern != nil {
		key = "index_topk_pattern"
		for i, p := range pattern {
			x.Full[i] = p == "F" || p == "full"
		}
	} else {
		key = "index_skip_topk_offset"
		freq := o.integer(1, 1, maxLayers, "index_topk_freq")
		offset := 0
		if freq > 1 {
			offset = o.integer(-1, 0, maxLayers, key)
		}
		for i := range x.Full {
			x.Full[i] = max(i-offset+1, 0)%max(freq, 1) == 0
		}
	}
	if *o.err == nil && !x.Full[0] {
		o.fail(key, "a shared indexer in layer 0", "layer 0 to have its own indexer")
	}
}

// indexPattern reads index_topk_pattern, a string such as "FSSF" or a list.
func indexPattern(o object, layers int) []string {
	const key = "index_topk_pattern"
	v, _ := o.lookup(key)
	s, ok := v.(string)
	if !ok {
		return o.words(layers, key, "F", "S", "full", "shared")
	}
	if len(s) != layers || strings.Trim(s, "FS") != "" {
		o.fail(key, show(v), fmt.Sprintf("%d letters F or S, one for each layer", layers))
		return nil
	}
	return strings.Split(s, "")
}

func parseQuantization(o object, c *Config) {
	q, ok := o.child("quantization_config")
	if !ok {
		return
	}
	const packed = "quant_method \"fp8\" with 128x128 blocks, or no quantisation"
	c.Quantization = q.str("", "quant_method")
	if format, _ := q.lookup("format"); format == "pack-quantized" {
		q.fail("format", show(format), packed+": int4 experts are not supported")
	}
	if v, _ := q.lookup("quant_method"); c.Quantization != "fp8" {
		q.fail("quant_method", show(v), packed)
		return
	}
	block, key := q.lookup("weight_block_size")
	if s := show(block); key == "" || s != "[128,128]" {
		q.fail("weight_block_size", s, "[128,128]")
	}
	q.str("e4m3", "fmt", "e4m3")
	q.str("dynamic", "activation_scheme", "dynamic")
	c.BlockFP8 = true
	c.ScaleUE8M0 = q.str("", "scale_fmt", "ue8m0") == "ue8m0"
}

// checkSizes bounds what single limits leave open: the elements of one tensor
// and the number of tensors.
func checkSizes(o object, c *Config) {
	type product struct {
		keys string
		a, b int
	}
	heads := func(n int) int { return c.Heads * n }
	products := []product{
		{"vocab_size x hidden_size", c.Vocab, c.Hidden},
		{"num_attention_heads x (qk_nope_head_dim + qk_rope_head_dim) x q_lora_rank", heads(c.QKDim()), max(c.QueryRank, 1)},
		{"num_attention_heads x (qk_nope_head_dim + qk_rope_head_dim) x hidden_size", heads(c.QKDim()), c.Hidden},
		{"num_attention_heads x (qk_nope_head_dim + v_head_dim) x kv_lora_rank", heads(c.Nope + c.Value), c.Latent},
		{"num_attention_heads x v_head_dim x hidden_size", heads(c.Value), c.Hidden},
		{"(kv_lora_rank + qk_rope_head_dim) x hidden_size", c.Latent + c.RopeDim, c.Hidden},
		{"q_lora_rank x hidden_size", max(c.QueryRank, 1), c.Hidden},
		{"intermediate_size x hidden_size", max(c.Inter, 1), c.Hidden},
		{"n_shared_experts x moe_intermediate_size x hidden_size", max(1, c.Shared) * max(c.ExpertDim, 1), c.Hidden},
	}
	if x := c.Indexer; x != nil {
		products = append(products, product{"index_n_heads x index_head_dim x q_lora_rank", x.Heads * x.Dim, c.QueryRank})
	}
	for _, p := range products {
		if n := int64(p.a) * int64(p.b); n > maxElements {
			o.fail(p.keys, fmt.Sprint(n), fmt.Sprintf("at most %d elements in a tensor", int64(maxElements)))
		}
	}
	if n := (c.Layers + c.MTPLayers) * c.Experts; n > maxRouted {
		o.fail("num_hidden_layers x n_routed_experts", fmt.Sprint(n), fmt.Sprintf("at most %d", maxRouted))
	}
}
