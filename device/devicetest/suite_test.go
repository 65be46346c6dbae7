package devicetest

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"

	"latent/device"
)

var seedFlag = flag.Uint64("seed", 0, "seed of an earlier run to repeat")

func seed(t *testing.T) uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	s := rand.Uint64()
	t.Logf("seed %d", s)
	return s
}

// TestNaive: the simplest device passes.
func TestNaive(t *testing.T) {
	t.Parallel()
	Run(t, Options{Seed: seed(t), BatchInvariant: true}, func(testing.TB) device.Device { return &naive{} })
}

// TestNaiveOpaque: its prepared queries pass when seen through their scores.
func TestNaiveOpaque(t *testing.T) {
	t.Parallel()
	base := seed(t)
	for _, c := range Checks(Options{OpaqueIndexQuery: true}) {
		if strings.HasPrefix(c.Name, "IndexQuery/") {
			if err := c.Run(&naive{}, base); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	}
}

// TestMutants: the same device with one mistake fails the check named.
func TestMutants(t *testing.T) {
	t.Parallel()
	base := seed(t)
	for _, m := range mutants {
		name := strings.ReplaceAll(m.bug, " ", "-")
		if m.opaque {
			name += "-opaque"
		}
		t.Run(name, func(t *testing.T) {
			for s := base; s < base+3; s++ { // a mistake may need a rare input
				if err := runMutant(m, s); err != nil {
					t.Log(strings.SplitN(err.Error(), "\n", 2)[0])
					return
				}
			}
			t.Errorf("seeds %d..%d: check %s passes a device with this mistake", base, base+2, m.check)
		})
	}
}

// runMutant returns what check m.check finds, in float32 arithmetic.
func runMutant(m mutant, seed uint64) error {
	dev := device.Device(&naive{bug: m.bug})
	if m.wrap != nil {
		dev = m.wrap(naive{})
	}
	opts := Options{Arithmetic: DefaultArithmetic()[:1], BatchInvariant: true, OpaqueIndexQuery: m.opaque}
	for _, c := range Checks(opts) {
		if c.Name == m.check || strings.HasPrefix(m.check, c.Name+"/") {
			return c.Run(dev, seed)
		}
	}
	panic("no check " + m.check)
}

// mutant is a device with one mistake and the check that finds it. The mistake
// is one that the naive device makes on request, or a method replaced.
type mutant struct {
	bug, check string
	wrap       func(naive) device.Device
	opaque     bool // queries are looked at through their scores
}

var mutants = []mutant{
	// Weights and dense operations.
	{bug: "scale divided instead of multiplied", check: "Linear/float32"},
	{bug: "edge blocks of columns not counted", check: "Linear/float32"},
	{bug: "blocks counted from the stacked row", check: "Linear/float32"},
	{bug: "last row block of 576 rows takes the one before", check: "Linear/float32"},
	{bug: "float32 weights rounded to bfloat16", check: "Linear/float32"},
	{bug: "add ignored", check: "Linear/float32"},
	{bug: "eps always 1e-6", check: "RMSNorm/float32"},
	{bug: "eps always 1e-5", check: "RMSNorm/float32"},
	{bug: "eps outside the root", check: "RMSNorm/float32"},
	{bug: "norm weight plus one", check: "RMSNorm/float32"},
	{bug: "gate and up swapped", check: "SwiGLU/float32"},
	{bug: "exponential overflows", check: "SwiGLU/float32"},
	{bug: "gate and up swapped", check: "MoE/float32"},
	{bug: "expert weights ignored", check: "MoE/float32"},
	{bug: "experts overwrite", check: "MoE/float32"},
	{bug: "scale divided instead of multiplied", check: "MoE/float32"},

	// Router.
	{bug: "softmax for sigmoid", check: "Route/float32"},
	{bug: "sigmoid for softmax", check: "Route/float32"},
	{bug: "bias ignored", check: "Route/float32"},
	{bug: "bias used in weights", check: "Route/float32"},
	{bug: "bias used in weights", check: "RouteVectors/float32"},
	{bug: "groups not limited", check: "Route/float32"},
	{bug: "group maximum for sum and sum for maximum", check: "Route/float32"},
	{bug: "group maximum for sum and sum for maximum", check: "RouteVectors/float32"},
	{bug: "dropped groups 0 instead of -Inf", check: "RouteVectors/float32"},
	{bug: "ties to the higher expert", check: "Route/float32"},
	{bug: "ties to the higher group", check: "RouteVectors/float32"},
	{bug: "renormalisation the other way", check: "Route/float32"},
	{bug: "routed scale dropped", check: "Route/float32"},
	{bug: "experts in ascending order", check: "Route/float32"},

	// Positions and the cache.
	{bug: "half-split and interleaved exchanged", check: "RopeQuery/float32"},
	{bug: "half-split and interleaved exchanged", check: "RopeVectors/float32"},
	{bug: "rotation the other way", check: "RopeVectors/float32"},
	{bug: "rope part first in the head", check: "RopeQuery/float32"},
	{bug: "positions from the row", check: "RopeQuery/float32"},
	{bug: "half-split and interleaved exchanged", check: "StoreLatent/float32/float32"},
	{bug: "eps always 1e-6", check: "StoreLatent/float32/bfloat16"},
	{bug: "rope key normalised", check: "StoreLatent/float32/float32"},
	{bug: "one FP8 block for the whole latent", check: "StoreLatent/float32/fp8_e4m3"},
	{bug: "rope key in FP8", check: "StoreLatent/float32/fp8_e4m3"},
	{bug: "scale not a power of two", check: "StoreLatent/float32/fp8_e4m3"},
	{bug: "no floor of the scale", check: "StoreLatent/float32/fp8_e4m3"},
	{bug: "floor of the scale 1e-4", check: "StoreLatent/float32/fp8_e4m3"},
	{bug: "page table ignored", check: "StoreLatent/float32/float32"},
	{bug: "one layer for all", check: "Cache/float32/float32"},

	// Indexer.
	{bug: "RMSNorm for LayerNorm", check: "IndexScores/float32/float32"},
	{bug: "LayerNorm without bias", check: "IndexScores/float32/float32"},
	{bug: "sample variance", check: "IndexScores/float32/float32"},
	{bug: "rope part last in the indexer head", check: "IndexQuery/float32/float32"},
	{bug: "half-split and interleaved exchanged", check: "IndexQuery/float32/bfloat16"},
	{bug: "half-split and interleaved exchanged", check: "IndexScores/float32/fp8_e4m3"},
	{bug: "index keys in the slot of the row", check: "IndexScores/float32/float32"},
	{bug: "indexer queries all at the run's position", check: "IndexQuery/float32/float32"},
	{bug: "Hadamard on queries only", check: "IndexScores/float32/fp8_e4m3"},
	{bug: "Hadamard on keys only", check: "IndexScores/float32/fp8_e4m3"},
	{bug: "index queries not rounded", check: "IndexQuery/float32/fp8_e4m3"},
	{bug: "scale by a logarithm", check: "IndexQuery/float32/fp8_e4m3"},
	{bug: "no floor of the scale", check: "IndexQuery/float32/fp8_e4m3"},
	{bug: "scale not a power of two", check: "IndexScores/float32/fp8_e4m3"},
	{bug: "no ReLU", check: "IndexScores/float32/float32"},
	{bug: "absolute value for ReLU", check: "IndexScores/float32/float32"},
	{bug: "ReLU after the weights", check: "IndexScores/float32/float32"},
	{bug: "softplus on the index weights", check: "IndexQuery/float32/float32"},
	{bug: "page table ignored", check: "IndexScores/float32/float32"},
	{check: "IndexQuery/float32/float32", bug: "index weights not scaled", wrap: func(n naive) device.Device { return &indexWeightsNotScaled{n} }},

	// Indexer queries seen through their scores.
	{bug: "rope part last in the indexer head", check: "IndexQuery/float32/float32", opaque: true},
	{bug: "half-split and interleaved exchanged", check: "IndexQuery/float32/bfloat16", opaque: true},
	{bug: "indexer queries all at the run's position", check: "IndexQuery/float32/fp8_e4m3", opaque: true},
	{bug: "Hadamard on keys only", check: "IndexQuery/float32/fp8_e4m3", opaque: true},
	{bug: "index queries not rounded", check: "IndexQuery/float32/fp8_e4m3", opaque: true},
	{bug: "scale by a logarithm", check: "IndexQuery/float32/fp8_e4m3", opaque: true},
	{bug: "no floor of the scale", check: "IndexQuery/float32/fp8_e4m3", opaque: true},
	{bug: "softplus on the index weights", check: "IndexQuery/float32/float32", opaque: true},
	{check: "IndexQuery/float32/fp8_e4m3", bug: "index weights not scaled", opaque: true, wrap: func(n naive) device.Device { return &indexWeightsNotScaled{n} }},

	// Selection.
	{bug: "top-k of K-1", check: "SelectTopK/float32"},
	{bug: "top-k of K+1", check: "SelectTopK/float32"},
	{bug: "top-k before the causal mask", check: "SelectTopK/float32"},
	{bug: "most recent K", check: "SelectTopK/float32"},
	{bug: "current token forced in", check: "SelectTopK/float32"},
	{bug: "ties to the later key", check: "SelectTopK/float32"},
	{bug: "-0 below +0", check: "SelectTopK/float32"},
	{bug: "NaN above everything", check: "SelectTopK/float32"},
	{bug: "other rows of the selection lost", check: "SelectTopK/float32"},
	{bug: "selection rows without Sel", check: "SelectTopK/float32"},

	// Attention.
	{bug: "kv_b halves swapped", check: "MHA/float32/float32"},
	{bug: "q halves swapped", check: "MHA/float32/float32"},
	{bug: "ranges expanded one after another from 0", check: "MHA/float32/float32"},
	{bug: "softmax scale dropped", check: "MHA/float32/float32"},
	{bug: "maximum not subtracted", check: "MHA/float32/float32"},
	{bug: "log-sum-exp to base 2", check: "MHA/float32/float32"},
	{bug: "log-sum-exp without the maximum", check: "MHA/float32/float32"},
	{bug: "empty rows are NaN", check: "MHA/float32/float32"},
	{bug: "empty rows have log-sum-exp 0", check: "MHA/float32/float32"},
	{bug: "not causal", check: "MHA/float32/float32"},
	{bug: "own key not seen", check: "MHA/float32/float32"},
	{bug: "KeyTo ignored", check: "MHA/float32/float32"},
	{bug: "selection ignored", check: "MHA/float32/float32"},
	{bug: "selection of the run's first row", check: "MHA/float32/float32"},
	{bug: "all rows written", check: "MHA/float32/float32"},
	{bug: "page table ignored", check: "MHA/float32/float32"},
	{check: "MHA/float32/float32", bug: "query tensor used as scratch", wrap: func(n naive) device.Device { return &scratchQuery{n} }},
	{bug: "softmax scale dropped", check: "MLA/float32/float32"},
	{bug: "log-sum-exp to base 2", check: "MLA/float32/float32"},
	{bug: "KeyFrom ignored", check: "MLA/float32/float32"},
	{bug: "KeyTo ignored", check: "MLA/float32/float32"},
	{bug: "not causal", check: "MLA/float32/float32"},
	{bug: "selection ignored", check: "MLA/float32/float32"},
	{bug: "selection of the run's first row", check: "MLA/float32/float32"},
	{bug: "page table ignored", check: "MLA/float32/float32"},
	{bug: "one layer for all", check: "MLA/float32/float32"},
	{bug: "kv_b halves swapped", check: "Absorb/float32"},
	{bug: "absorbs the compact row", check: "Absorb/float32"},
	{bug: "kv_b halves swapped", check: "Unabsorb/float32"},
	{bug: "unabsorbs to the compact row", check: "Unabsorb/float32"},
	{bug: "kv_b halves swapped", check: "Pathways/float32/float32"},
	{bug: "selection ignored", check: "Pathways/float32/float32"},
	{bug: "top-k of K-1", check: "Pathways/float32/float32"},
	{bug: "merge by equal shares", check: "MergeLSE/float32"},
	{bug: "merge to base 2", check: "MergeLSE/float32"},
	{bug: "merge of two empty parts is NaN", check: "MergeLSE/float32"},
	{bug: "merged log-sum-exp not updated", check: "MergeLSE/float32"},
	{bug: "log-sum-exp to base 2", check: "KeyChunks/float32/float32"},
	{bug: "merge by equal shares", check: "KeyChunks/float32/float32"},

	// Memory and batches.
	{check: "RMSNorm/float32", bug: "one row too many", wrap: func(n naive) device.Device { return &oneRowTooMany{n} }},
	{check: "Memory/float32", bug: "offset ignored", wrap: func(n naive) device.Device { return &offsetIgnored{n} }},
	{check: "Memory/float32", bug: "upload keeps the host's slice", wrap: func(n naive) device.Device { return &lateUpload{naive: n} }},
	{check: "Embed/float32", bug: "embedding by position", wrap: func(n naive) device.Device { return &embedByRow{n} }},
	{check: "Gather/float32", bug: "gather of consecutive rows", wrap: func(n naive) device.Device { return &gatherFirst{n} }},
	{check: "BatchInvariant/Linear/float32", bug: "products depend on the batch", wrap: func(n naive) device.Device { return &batchNoise{n} }},
	{check: "BatchInvariant/Rows/float32", bug: "norms depend on the batch", wrap: func(n naive) device.Device { return &batchNoise{n} }},
	{check: "BatchInvariant/MoE/float32", bug: "experts depend on the batch", wrap: func(n naive) device.Device { return &batchNoise{n} }},
	{check: "BatchInvariant/Attention/float32/float32", bug: "attention depends on the batch", wrap: func(n naive) device.Device { return &batchNoise{n} }},
	{check: "BatchInvariant/Cache/float32/float32", bug: "the cache depends on the batch", wrap: func(n naive) device.Device { return &batchNoise{n} }},
	{check: "Stopwatch/float32", bug: "stopwatch never reset", wrap: func(n naive) device.Device { return &neverReset{n} }},
	{check: "Stopwatch/float32", bug: "laps since the first mark", wrap: func(n naive) device.Device { return &sinceFirst{n} }},
	{check: "Linear/float32", bug: "panics", wrap: func(n naive) device.Device { return &panics{n} }},
	{check: "SwiGLU/float32", bug: "remembered failure", wrap: func(n naive) device.Device { return &failing{n} }},
}
