// Package device is the interface between the model and a compute backend.
//
// A [Device] owns memory, weights and a paged attention cache, and offers the
// operations a transformer with multi-head latent attention (MLA) and DeepSeek
// sparse attention (DSA) is written in: norms, linear layers, RoPE and cache
// writes, K/V expansion, attention in expanded and absorbed form, log-sum-exp
// merging, indexer scoring, top-k selection, routing and grouped expert GEMM.
// The model is written once over this interface; package devicetest checks a
// backend against float64 references for every operation.
//
// What this package is not: it plans nothing (package pathway), schedules
// nothing (package engine) and knows no checkpoint format. It imports only the
// standard library.
//
// # Conventions
//
// Matrices are row-major. A weight "[out, in]" is applied as y = W·x. Symbols
// in the documentation of operations:
//
//	T   rows (tokens) of the step         H   attention heads
//	d   hidden size                       R   latent size (kv_lora_rank)
//	dn  qk_nope_head_dim                  dr  qk_rope_head_dim
//	dv  v_head_dim                        E   routed experts, Ke chosen ones
//	Hi  indexer heads                     Di  indexer head size
//	K   index_topk
//
// Operations are ordered as they are called. They may run asynchronously; the
// host may reuse its own slices when a call returns. A wrong shape or type is a
// bug of the caller and panics. A failure of the device is remembered and
// reported by [Device.Sync]; operations after it do nothing.
//
// A Device is used by one goroutine at a time.
package device
