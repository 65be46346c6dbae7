package device

// Info describes a device.
type Info struct {
	Kind    string // "cpu" or "cuda"
	Name    string // as the machine calls it, e.g. "AMD EPYC 9454"
	Tier    string // instruction set in use: "avx512-bf16", "avx512", "avx2", "generic", "sm_90a"
	Version string // of the backend's kernels; part of a calibration's key
	Workers int    // CPU threads or GPU multiprocessors
	Memory  int64  // bytes of memory on the device, 0 if unknown
	// BatchInvariant tells that the result of a row is the same bit for bit
	// whatever other rows and sequences an operation works on.
	BatchInvariant bool
}

// Device is a compute backend. See the package documentation for conventions.
type Device interface {
	Info() Info
	Close() error

	// Activation returns the type of activation tensors for a given arithmetic
	// type (F32 or BF16). A backend may keep activations wider than asked.
	Activation(arithmetic DType) DType

	// Alloc returns uninitialised memory.
	Alloc(bytes int64) (Memory, error)
	// Upload copies src to dst; len(src) must be dst.Bytes().
	Upload(dst Tensor, src []byte)
	// Download copies src to dst and waits for it; len(dst) must be src.Bytes().
	Download(dst []byte, src Tensor) error
	// Sync waits for all operations and returns the first error since the last
	// call.
	Sync() error

	// LoadMatrix lays out the rows of parts, stacked in order, as one matrix.
	// All parts have the same Cols. Narrow stored types stay narrow; arithmetic
	// (F32 or BF16) says how products may round their inputs: with F32 nothing
	// is rounded below float32.
	LoadMatrix(arithmetic DType, parts ...MatrixSource) (Matrix, error)
	// LoadKVB lays out kv_b_proj [H·(dn+dv), R].
	LoadKVB(arithmetic DType, heads, nope, value int, w MatrixSource) (KVB, error)
	// LoadExperts lays out the routed experts of one layer.
	LoadExperts(arithmetic DType, experts []ExpertSource) (Experts, error)
	// NewCache makes an attention cache, its contents undefined.
	NewCache(spec CacheSpec) (Cache, error)
	// NewSelection makes a selection for rows rows over contexts of up to keys
	// positions, topk of them selected.
	NewSelection(form SelectionForm, rows, keys, topk int) (Selection, error)

	// Begin makes step the geometry that later operations refer to. The step
	// must not change until the next Begin.
	Begin(step *Step)

	// Embed writes row Tokens[r] of table [vocabulary, d] to dst [T, d].
	Embed(dst, table Tensor)
	// Gather copies row rows[i] of src to row i of dst.
	Gather(dst, src Tensor, rows []int32)
	// RMSNorm writes src·weight/sqrt(mean(src²)+eps) to dst, row by row, with
	// weight F32 [1, cols]. dst may be src.
	RMSNorm(dst, src, weight Tensor, eps float32)
	// Linear writes src·wᵀ to dst [T, out]; with add it adds to dst.
	Linear(dst, src Tensor, w Matrix, add bool)
	// SwiGLU writes silu(g)·u to dst [T, I], where a row of src [T, 2·I] is g
	// followed by u.
	SwiGLU(dst, src Tensor)
	// Route chooses experts for each row of logits F32 [T, E].
	// bias F32 [1, E] is added to the scores for choosing only; its Mem is nil
	// when there is none. It writes the chosen experts to ids I32 [T, Ke], best
	// choice first, ties to the lower expert, and their weights to
	// weights F32 [T, Ke]: scores without bias, divided by their sum + 1e-20 if
	// Normalize, times Scale.
	Route(ids, weights, logits, bias Tensor, router Router)
	// MoE adds Σ_j weights[t,j]·MLP_ids[t,j](src[t]) to dst [T, d], where
	// MLP_e(x) = Down_e·(silu(Gate_e·x)·(Up_e·x)). The sum is taken in order of j.
	MoE(dst, src, ids, weights Tensor, experts Experts)

	// RopeQuery rotates, in place, the last dr of each head's dn+dr elements
	// of q [T, H·(dn+dr)] by the rows' positions; heads and dr follow from
	// the arguments, dr = 2·rope.Cos.Cols.
	RopeQuery(q Tensor, heads int, rope Rope)
	// StoreLatent normalises the first R elements of each row of u [T, R+dr]
	// (RMSNorm with weight F32 [1, R] and eps), rotates the last dr, and stores
	// both at the rows' slots in layer of the cache, in the cache's format.
	StoreLatent(cache Cache, layer int, u, weight Tensor, eps float32, rope Rope)
	// StoreIndexKey applies LayerNorm (weight and bias F32 [1, Di], eps) to each
	// row of k [T, Di], rotates the first dr elements, and stores the result at
	// the rows' slots in layer of the cache, in the cache's format.
	StoreIndexKey(cache Cache, layer int, k, weight, bias Tensor, eps float32, rope Rope)
	// IndexQuery prepares indexer queries in place: for the rows of runs, in
	// order and without gaps, it rotates the first dr elements of each of the
	// heads of q [n, Hi·Di] by the rows' positions and multiplies
	// weights F32 [n, Hi] by scale. With a CacheF8 cache it also applies the
	// Hadamard transform and rounds each head to e4m3 with one scale. How q and
	// weights hold the result is known to IndexScores of the same device only.
	IndexQuery(cache Cache, q, weights Tensor, scale float32, rope Rope, runs []Run)
	// IndexScores writes, for each row i of runs counted in order, the score of
	// every visible key of the row to scores F32 [n, columns]: column s holds
	// Σ_h weights[i,h]·max(0, q[i,h]·k_s) for position s in
	// [0, min(run.KeyTo, pos+1)). KeyFrom is 0. Other columns are undefined.
	// q and weights come from IndexQuery.
	IndexScores(scores, q, weights Tensor, cache Cache, layer int, runs []Run)
	// SelectTopK selects, for each row i of runs counted in order, the
	// min(K, visible) keys with the largest scores and writes them to row
	// run.Sel+(row of the run) of sel. Higher scores first, equal scores by
	// lower position; −0 equals +0 and NaN ranks below everything.
	SelectTopK(sel Selection, scores Tensor, topk int, runs []Run)

	// KVBytes returns the bytes of memory ExpandKV needs for keys key positions.
	KVBytes(kvb KVB, rope, keys int) int64
	// ExpandKV computes per-head keys (W_K·c, with the shared rope key) and values (W_V·c)
	// of the cached positions in ranges into kv, which has at least
	// KVBytes bytes for the keys that the ranges span.
	ExpandKV(kv Memory, cache Cache, layer int, kvb KVB, ranges []KeyRange)
	// MHA computes softmax(scale·q·kᵀ)·v per head over the visible keys of each
	// row, for q [T, H·(dn+dr)] with rotated rope parts and keys from ExpandKV.
	// Rows of the runs are written to out [T, H·dv] and their natural-log
	// log-sum-exp of scaled scores to lse F32 [T, H]; other rows stay. A row
	// without visible keys gets zeros and −∞. Runs with Sel ≥ 0 attend only to
	// keys selected by sel (a SelectMask), whose rows are indexed by Sel.
	MHA(out, lse, q Tensor, kv Memory, kvb KVB, sel Selection, scale float32, runs []Run)

	// Absorb writes, for the rows of runs in order and without gaps, per head
	// W_Kᵀ·q_nope followed by q_rope to dst [n, H·(R+dr)].
	Absorb(dst, q Tensor, kvb KVB, runs []Run)
	// MLA computes attention in latent space: z = softmax(scale·q̃·rᵀ)·c per
	// head, where r = (c, k_rope) are cached records. qa [n, H·(R+dr)] and
	// z [n, H·R] hold the rows of runs in order and without gaps; lse F32
	// [n, H] likewise. Runs with Sel ≥ 0 gather only the keys selected by sel
	// (SelectIndices).
	MLA(z, lse, qa Tensor, cache Cache, layer int, sel Selection, scale float32, runs []Run)
	// Unabsorb writes per head W_V·z to the rows of runs in out [T, H·dv], for
	// z [n, H·R] as MLA leaves it.
	Unabsorb(out, z Tensor, kvb KVB, runs []Run)
	// MergeLSE merges two partial attentions over disjoint keys, for the rows of
	// runs: out, lse become the attention over the union of their keys and those
	// of part, partLSE. All are [T, ·]; heads = lse.Cols. An empty part (−∞)
	// changes nothing.
	MergeLSE(out, lse, part, partLSE Tensor, runs []Run)
}
