package pathway

import (
	"math"

	"pgregory.net/rapid"
)

// v32 is DeepSeek-V3.2 on one GPU that holds all heads, with an FP8 cache.
func v32() Geometry {
	return Geometry{Heads: 128, Nope: 128, Rope: 64, Value: 128, Latent: 512, QueryRank: 1536,
		IndexHeads: 64, IndexDim: 128, TopK: 2048, RecordSize: 656, IndexedShare: 1}
}

// v3 is v32 without an indexer.
func v3() Geometry {
	g := v32()
	g.QueryRank, g.IndexHeads, g.IndexDim, g.TopK, g.IndexedShare = 0, 0, 0, 0, 0
	return g
}

// h200 is the FLOP-based estimate for one H200: 800 TFLOP/s and 4.46 TB/s as
// measured for bfloat16 GEMM and reads.
func h200(g Geometry) Calibration { return Estimate(g, 800e12, 4.46e12) }

func config(g Geometry) Config {
	return Config{Geometry: g, Calibration: h200(g), WorkspaceBytes: 8192 * 65536, KVBytesPerKey: 65536}
}

func planner(t rapid.TB, c Config) *Planner {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// drawConfig draws a small model on a machine whose unit costs have nothing to
// do with FLOPs, so that every pathway wins somewhere.
func drawConfig(t *rapid.T) Config {
	g := v32()
	g.TopK = rapid.SampledFrom([]int{0, 1, 5, 16, 64, 200}).Draw(t, "topk")
	g.IndexedShare = rapid.SampledFrom([]float64{0.25, 0.5, 1}).Draw(t, "share")
	if g.TopK == 0 {
		g = v3()
	}
	c := Calibration{Version: calibrationVersion, Source: SourceMeasured, Key: Key{Geometry: g}}
	unit := func(low, high float64) float64 {
		if rapid.IntRange(0, 9).Draw(t, "zero") == 0 {
			return 0
		}
		return math.Exp(rapid.Float64Range(math.Log(low), math.Log(high)).Draw(t, "unit"))
	}
	for p := range numParts {
		switch p {
		case OverheadMHA, OverheadMHAMasked, OverheadMLA, OverheadMLASparse:
			c.Units[p] = unit(1, 1000)
		case ExpandKey, ReadKV, RowMHA, RowMLA, RowMLASparse, AbsorbRow, ScoreRow, TopKRow, IndexRow, MergeRow, ReadRecord:
			c.Units[p] = unit(0.01, 30)
		default:
			c.Units[p] = unit(0.001, 1)
		}
	}
	return Config{
		Geometry:       g,
		Calibration:    c,
		WorkspaceBytes: 100 * int64(rapid.IntRange(64, 700).Draw(t, "workspace")),
		KVBytesPerKey:  100,
	}
}

func drawExtents(t *rapid.T, longest int) []Extent {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Extent {
		e := Extent{
			Prefix: rapid.IntRange(0, longest).Draw(t, "prefix"),
			Phase:  Phase(rapid.IntRange(0, 2).Draw(t, "phase")),
		}
		switch e.Phase {
		case Prefill:
			e.New = rapid.IntRange(0, longest).Draw(t, "new")
		case Decode:
			e.New = 1
		case Verify:
			e.New = rapid.IntRange(2, 4).Draw(t, "new")
		}
		return e
	}), 0, 6).Draw(t, "extents")
}

// exactFor is the table of exact pathways, for one row.
func exactFor(g Geometry, q Pathway, context int) bool {
	if q == MHA || q == MLA {
		return g.TopK == 0 || context <= g.TopK
	}
	return g.TopK > 0
}

func closeTo(a, b float64) bool { return math.Abs(a-b) <= 1e-9*(1+math.Abs(a)+math.Abs(b)) }
