package cuda

import (
	"math"
	"testing"

	"latent/device"
	"latent/sample"
)

// TestSample compares with package sample, which gets the same logits, in
// float32 parameters, and the same random numbers.
func TestSample(t *testing.T) {
	rt := newRowsTest(t)
	pick := func(v ...float32) float32 { return v[rt.rng.IntN(len(v))] }
	rows, wrong := 0, 0
	for _, vocabulary := range []int{1, 7, 256, 1000, 32011, 129280, 129280, 500000} {
		columns := vocabulary + 5*rt.rng.IntN(3)
		const n = 48
		x := rt.normal(n*columns, 1)
		draws := make([]device.Draw, n)
		want := make([]int32, n)
		for r := range n {
			row := x[r*columns:][:columns]
			spread, levels := pick(0.1, 1, 3, 10), rt.rng.IntN(4) == 0
			for i := range row {
				row[i] *= spread
				if levels {
					row[i] = float32(math.Round(float64(row[i])))
				}
			}
			for i := vocabulary; i < columns; i++ {
				row[i] = float32(math.NaN())
			}
			for range rt.rng.IntN(3) {
				row[rt.rng.IntN(vocabulary)] = float32(math.Inf(-1))
			}
			row[rt.rng.IntN(vocabulary)] = pick(0, 5, 20)
			d := device.Draw{
				Temperature: float64(pick(0, 0.1, 0.7, 1, 1, 2)), TopP: float64(pick(0.01, 0.5, 0.9, 0.95, 1, 1)), MinP: float64(pick(0, 0, 0.05, 0.5, 1)),
				TopK: int32(pick(0, 0, 1, 2, 20, 50, 1000)), Vocabulary: int32(vocabulary),
			}
			p := sample.Defaults()
			p.Temperature, p.TopP, p.MinP, p.TopK = d.Temperature, d.TopP, d.MinP, int(d.TopK)
			p.Seed, p.Vocabulary = rt.rng.Uint64(), vocabulary
			s := sample.New(p, nil)
			d.Uniform, _ = s.Uniform()
			draws[r] = d
			res, err := s.Next(row)
			want[r] = res.ID
			if err != nil {
				want[r] = -1
			}
		}
		ids := rt.alloc(device.I32, n, 1)
		rt.dev.Sample(ids, rt.put(device.F32, columns, x), draws)
		for r, got := range rt.get(ids) {
			rows++
			if int32(got) == want[r] {
				continue
			}
			if wrong++; wrong <= 10 {
				t.Errorf("vocabulary %d, %+v: token %g, want %d", vocabulary, draws[r], got, want[r])
			}
		}
	}
	t.Logf("%d of %d rows differ", wrong, rows)
}

// TestSampleErrors: rows without a token give -1, and padding does not count.
func TestSampleErrors(t *testing.T) {
	rt := newRowsTest(t)
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, v := range []struct {
		name string
		row  []float32
		want float32
	}{
		{"nothing finite", []float32{-inf, -inf, -inf, 0}, -1},
		{"NaN", []float32{0, nan, 1, 0}, -1},
		{"infinite", []float32{0, inf, 1, 0}, -1},
		{"NaN in the padding", []float32{0, 2, 1, nan}, 1},
		{"larger padding", []float32{3, 3, 1, 9}, 0},
		{"zeros of both signs", []float32{-1, float32(math.Copysign(0, -1)), 0, 0}, 1},
		{"very small", []float32{-3e38, -2e38, -inf, 0}, 1},
	} {
		for _, temperature := range []float32{0, 0.5} {
			if v.name == "zeros of both signs" || v.name == "larger padding" {
				temperature = 0
			}
			ids := rt.alloc(device.I32, 1, 1)
			draw := device.Draw{Temperature: float64(temperature), TopP: 0.3, Vocabulary: 3, Uniform: 0.1}
			rt.dev.Sample(ids, rt.put(device.F32, 4, v.row), []device.Draw{draw})
			if got := rt.get(ids)[0]; got != v.want {
				t.Errorf("%s at temperature %g: token %g, want %g", v.name, temperature, got, v.want)
			}
		}
	}
}
