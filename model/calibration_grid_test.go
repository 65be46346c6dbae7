package model

import (
	"math"
	"testing"

	"latent/device"
	"latent/pathway"
)

// TestGridTellsCostsApart fits costs to times that follow from known ones at the
// sizes of each grid: they come back, with and without an indexer.
func TestGridTellsCostsApart(t *testing.T) {
	for _, kind := range []string{"cpu", "cuda"} {
		for _, topk := range []int{2048, 0} {
			grid := calibrationGridFor(device.Info{Kind: kind})
			g := pathway.Geometry{Heads: 128, Nope: 128, Rope: 64, Value: 128, Latent: 512, QueryRank: 1536, RecordSize: 1152}
			if topk > 0 {
				g.IndexHeads, g.IndexDim, g.TopK, g.IndexedShare = 64, 128, topk, 1
			}
			want := pathway.Estimate(g, 680e12, 4.2e12).Units
			want[pathway.ReadKV], want[pathway.RowMHA], want[pathway.RowMLA], want[pathway.TopKRow] = 0.01, 0.02, 0.03, 0.05
			if topk > 0 {
				want[pathway.RowMLASparse] = 0.04
			} else {
				want[pathway.TopKRow] = 0
			}
			const constant = 5.0 // of every operation
			var samples []pathway.Sample
			for _, k := range grid.upTo(unlimited) {
				s := pathway.Sample{Rows: float64(k.tokens()), Keys: float64(k.keys()), Pairs: float64(k.pairs(unlimited))}
				add := func(op pathway.Operation, us float64) {
					s.Operation, s.Microseconds = op, constant+us
					samples = append(samples, s)
				}
				shared := want[pathway.RowMHA]*s.Rows + want[pathway.ReadKV]*s.Keys
				add(pathway.OpExpand, want[pathway.ExpandKey]*s.Keys)
				add(pathway.OpMHA, shared+want[pathway.PairMHA]*s.Pairs)
				add(pathway.OpMerge, want[pathway.MergeRow]*s.Rows)
				add(pathway.OpAbsorb, want[pathway.AbsorbRow]*s.Rows)
				add(pathway.OpMLA, want[pathway.RowMLA]*s.Rows+want[pathway.PairMLA]*s.Pairs+want[pathway.ReadRecord]*s.Keys)
				if topk == 0 {
					continue
				}
				add(pathway.OpMHAMasked, shared+want[pathway.PairMHAMasked]*s.Pairs)
				add(pathway.OpScore, want[pathway.ScoreRow]*s.Rows+want[pathway.ScorePair]*s.Pairs)
				top := want[pathway.TopKRow]*s.Rows + want[pathway.TopKKey]*s.Pairs
				add(pathway.OpSelectMask, top+want[pathway.MaskKey]*s.Pairs)
				add(pathway.OpSelectIndices, top+want[pathway.IndexRow]*s.Rows)
				s.Pairs = float64(k.pairs(topk))
				add(pathway.OpMLASparse, want[pathway.RowMLASparse]*s.Rows+want[pathway.PairMLASparse]*s.Pairs)
			}
			got, err := pathway.Fit(pathway.Key{Geometry: g}, samples)
			if err != nil {
				t.Fatalf("%s, top-k %d: %v", kind, topk, err)
			}
			for p := range want {
				if pathway.Part(p) <= pathway.OverheadMLASparse {
					continue // sums of constants
				}
				if math.Abs(got.Units[p]-want[p]) > 1e-6*want[p]+1e-12 {
					t.Errorf("%s, top-k %d: %v is %.6g, want %.6g", kind, topk, pathway.Part(p), got.Units[p], want[p])
				}
			}
		}
	}
}
