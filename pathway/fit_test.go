package pathway

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// measure makes samples on a grid of sizes from known unit costs and per-
// operation constants, each time off by up to noise, relatively.
func measure(u *Units, constants *[OperationCount]float64, noise float64, rng *rand.Rand) []Sample {
	var samples []Sample
	add := func(o Operation, rows, keys, pairs, us float64) {
		us = (us + constants[o]) * (1 + noise*(2*rng.Float64()-1))
		samples = append(samples, Sample{o, rows, keys, pairs, us})
	}
	for _, rows := range []float64{1, 16, 128, 1024} {
		add(OpAbsorb, rows, 0, 0, u[AbsorbRow]*rows)
		add(OpMerge, rows, 0, 0, u[MergeRow]*rows)
		for _, keys := range []float64{64, 512, 4096} {
			pairs := rows * keys
			add(OpExpand, 0, keys*rows/16, 0, u[ExpandKey]*keys*rows/16)
			add(OpMHA, rows, keys, pairs, u[PairMHA]*pairs+u[RowMHA]*rows+u[ReadKV]*keys)
			add(OpMHAMasked, rows, keys, pairs, u[PairMHAMasked]*pairs+u[RowMHA]*rows+u[ReadKV]*keys)
			add(OpMLA, rows, keys, pairs, u[PairMLA]*pairs+u[RowMLA]*rows+u[ReadRecord]*keys)
			add(OpMLASparse, rows, 0, rows*min(keys, 2048), u[PairMLASparse]*rows*min(keys, 2048)+u[RowMLASparse]*rows)
			add(OpScore, rows, keys, pairs, u[ScoreRow]*rows+u[ScorePair]*pairs)
			add(OpSelectIndices, rows, keys, pairs, u[TopKRow]*rows+u[TopKKey]*pairs+u[IndexRow]*rows)
			add(OpSelectMask, rows, keys, pairs, u[TopKRow]*rows+u[TopKKey]*pairs+u[MaskKey]*pairs)
		}
	}
	return samples
}

func TestFitRecoversUnits(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 20 {
		var u Units
		for p := ExpandKey; p < numParts; p++ {
			u[p] = math.Exp(rng.Float64()*4 - 6) // pairs
			switch p {
			case ExpandKey, ReadKV, ReadRecord, RowMHA, RowMLA, RowMLASparse, AbsorbRow, ScoreRow, TopKRow, IndexRow, MergeRow:
				u[p] *= 100
			}
			if round%4 == 3 && rng.IntN(3) == 0 {
				u[p] = 0
			}
		}
		var constants [OperationCount]float64
		for o := range constants {
			constants[o] = 1 + 5*rng.Float64()
		}
		k := constants
		u[OverheadMHA] = k[OpExpand] + k[OpMHA]
		u[OverheadMHAMasked] = k[OpExpand] + k[OpMHAMasked] + k[OpScore] + k[OpSelectMask]
		u[OverheadMLA] = k[OpAbsorb] + k[OpMLA]
		u[OverheadMLASparse] = k[OpAbsorb] + k[OpMLASparse] + k[OpScore] + k[OpSelectIndices]

		c, err := Fit(Key{Geometry: v32()}, measure(&u, &constants, 0, rng))
		if err != nil {
			t.Fatal(err)
		}
		for p := range numParts {
			if math.Abs(c.Units[p]-u[p]) > 1e-6*(u[p]+1e-3) {
				t.Errorf("seed %d round %d: %v is %v, want %v", seed, round, p, c.Units[p], u[p])
			}
		}
		for _, r := range c.Residuals {
			if r.Worst > 1e-6 || r.RMS > r.Worst || r.Samples < 4 {
				t.Errorf("seed %d round %d: residual %+v of exact samples", seed, round, r)
			}
		}

		// With noise the fit is no worse than the truth, and says so.
		noise := 0.05
		noisy := measure(&u, &constants, noise, rng)
		if c, err = Fit(Key{Geometry: v32()}, noisy); err != nil {
			t.Fatal(err)
		}
		for _, r := range c.Residuals {
			if r.RMS > noise || r.RMS == 0 {
				t.Errorf("seed %d round %d: residual %+v with noise %v", seed, round, r, noise)
			}
		}
		for p, v := range c.Units {
			if v < 0 {
				t.Errorf("seed %d round %d: %v is %v", seed, round, Part(p), v)
			}
		}
		if c.Source != SourceMeasured || len(c.Residuals) != OperationCount {
			t.Errorf("source %q, %d residuals", c.Source, len(c.Residuals))
		}
	}
}

// TestFitIsNonNegative: times that fall with size give a slope of zero and the
// best constant, not a negative cost.
func TestFitIsNonNegative(t *testing.T) {
	rows := [][]float64{{1. / 4, 10. / 4}, {1. / 3, 20. / 3}, {1. / 2, 30. / 2}} // 4, 3, 2 at sizes 10, 20, 30
	x := nonNegative(rows)
	// Minimises Σ(a/t − 1)²: a = Σ(1/t) / Σ(1/t²).
	want := (1./4 + 1./3 + 1./2) / (1./16 + 1./9 + 1./4)
	if math.Abs(x[0]-want) > 1e-12 || x[1] != 0 {
		t.Errorf("got %v, want [%v 0]", x, want)
	}
}

func TestFitWithoutIndexer(t *testing.T) {
	u := h200(v3()).Units
	constants := [OperationCount]float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
	all := measure(&u, &constants, 0, rand.New(rand.NewPCG(1, 1)))
	var dense []Sample
	for _, s := range all {
		switch s.Operation {
		case OpExpand, OpMHA, OpMLA, OpAbsorb, OpMerge:
			dense = append(dense, s)
		}
	}
	c, err := Fit(Key{Geometry: v3()}, dense)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(c.Units[PairMHA]/u[PairMHA]-1) > 1e-6 || c.Units[OverheadMHAMasked] != 0 {
		t.Errorf("units %v", c.Units)
	}
	if _, err := Fit(Key{Geometry: v32()}, dense); err == nil || !strings.Contains(err.Error(), "operation mha-masked has 0 samples") {
		t.Errorf("samples without an indexer, a model with one: %v", err)
	}
}

func TestFitErrors(t *testing.T) {
	u := h200(v32()).Units
	var constants [OperationCount]float64
	for _, test := range []struct {
		name   string
		change func(*Sample)
		want   string
	}{
		{"time", func(s *Sample) { s.Microseconds = 0 }, "took 0 microseconds"},
		{"infinite", func(s *Sample) { s.Microseconds = math.Inf(1) }, "took +Inf"},
		{"nan", func(s *Sample) { s.Pairs = math.NaN() }, "size NaN"},
		{"size", func(s *Sample) { s.Rows = -1 }, "size -1"},
		{"operation", func(s *Sample) { s.Operation = numOperations }, "known operation"},
		{"one size", func(s *Sample) {
			if s.Operation == OpAbsorb {
				s.Rows = 7
			}
		}, "absorb was timed at one size only"},
		{"absurd", func(s *Sample) { s.Microseconds *= 1e30 }, "want 0 to 1e+09"},
	} {
		samples := measure(&u, &constants, 0, rand.New(rand.NewPCG(1, 1)))
		for i := range samples {
			test.change(&samples[i])
		}
		if _, err := Fit(Key{Geometry: v32()}, samples); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
}
