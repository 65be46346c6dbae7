package checkpoint

// Config is a model configuration, read from either spelling of config.json
// and completed with the family's defaults. It describes one graph: the
// transformer with multi-head latent attention of the DeepSeek-V2, V3, V3.2 and
// GLM-5 families.
type Config struct {
	ModelType string // as in the file, e.g. "deepseek_v32"

	Vocab     int // vocab_size
	Hidden    int // hidden_size, d
	Layers    int // num_hidden_layers, without MTP layers
	MTPLayers int // num_nextn_predict_layers; their tensors may be absent
	MaxPos    int // max_position_embeddings
	Eps       float32
	TieEmbed  bool

	Heads     int // H
	QueryRank int // q_lora_rank, Rq; 0 when the query has one projection
	Latent    int // kv_lora_rank, R
	Nope      int // qk_nope_head_dim, dn
	RopeDim   int // qk_rope_head_dim, dr
	Value     int // v_head_dim, dv
	Rope      RopeConfig

	Inter     int    // intermediate_size of dense layers
	MoE       []bool // per layer: routed experts (true) or one dense MLP
	Experts   int    // n_routed_experts, E
	Shared    int    // n_shared_experts
	ExpertDim int    // moe_intermediate_size, Ie
	Router    RouterConfig

	Indexer *IndexerConfig // nil for models without sparse attention

	DType        string // torch_dtype / dtype: "bfloat16", "float32", …; "" if absent
	BlockFP8     bool   // quantization_config with 128x128 e4m3 blocks
	EOS          []int  // stop tokens of config.json
	BOS          int    // -1 if absent
	Quantization string // quant_method, "" if none
	ScaleUE8M0   bool   // scale_fmt "ue8m0": activation scales are powers of two
}

// RopeConfig describes rotary position embedding.
type RopeConfig struct {
	Theta       float64
	Interleaved bool  // MLA's pairs; the indexer has its own flag
	YaRN        *YaRN // nil for plain RoPE
}

// YaRN holds the numbers of YaRN position scaling.
type YaRN struct {
	Factor             float64
	Original           int // original_max_position_embeddings
	BetaFast, BetaSlow float64
	MScale             float64 // mscale
	MScaleAllDim       float64 // mscale_all_dim
	HasMScale          bool    // both mscale keys were present
	AttentionFactor    float64 // explicit attention_factor, 0 if absent
}

// RouterConfig describes the choice of experts.
type RouterConfig struct {
	Softmax    bool // scores by softmax instead of sigmoid
	Bias       bool // e_score_correction_bias takes part in the choice
	Groups     int  // n_group
	KeepGroups int  // topk_group
	GroupMax   bool // a group's score is its maximum (V2), not its two largest
	Choose     int  // num_experts_per_tok, Ke
	Normalize  bool // norm_topk_prob
	Scale      float32
}

// IndexerConfig describes the lightning indexer of DeepSeek sparse attention.
type IndexerConfig struct {
	Heads       int // index_n_heads, Hi
	Dim         int // index_head_dim, Di
	TopK        int // index_topk, K
	Interleaved bool
	Full        []bool // per layer: has its own indexer (true) or shares the nearest earlier one
}
