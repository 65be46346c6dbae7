package devicetest

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The references themselves, against values worked out by hand.

func TestSpecRounding(t *testing.T) {
	for _, v := range []struct{ x, want float64 }{
		{1.0625, 1}, {1.1875, 1.25}, {0x1p-10, 0}, {0x3p-10, 0x1p-8}, {447, 448}, {1000, 448}, {-1000, -448}, {0x1p-6, 0x1p-6}, {.013671875, .013671875},
	} {
		if got := roundE4M3(v.x); got != v.want {
			t.Errorf("e4m3 of %g is %g, want %g", v.x, got, v.want)
		}
	}
	for _, v := range []struct{ x, want float64 }{
		{1 + 0x1p-8, 1}, {1 + 0x3p-8, 1 + 0x1p-6}, {0x1p-134, 0}, {0x3p-134, 0x1p-132}, {0x1.ffp127, math.Inf(1)}, {-0x1.fep127, -0x1.fep127},
	} {
		if got := roundBF16(v.x); got != v.want {
			t.Errorf("bfloat16 of %g is %g, want %g", v.x, got, v.want)
		}
	}
	for _, v := range []struct {
		amax     float64
		exponent int
	}{{448, 0}, {447, 0}, {449, 1}, {224, -1}, {1.75, -8}, {1, -8}, {0.875, -9}, {0.5, -9}, {0, -22}} {
		if got := specScale(v.amax); got != math.Ldexp(1, v.exponent) {
			t.Errorf("scale for %g is %g, want 2^%d", v.amax, got, v.exponent)
		}
	}
}

func TestSpecHadamard(t *testing.T) {
	x := []float64{1, 2, 3, 4}
	if got, _ := hadamard(x, magnitudes(x)); !slices.Equal(got, []float64{5, -1, -2, 0}) {
		t.Errorf("Hadamard transform of %v is %v", x, got)
	}
	x = []float64{1, 2, 3}
	if got, _ := hadamard(x, magnitudes(x)); !slices.Equal(got, x) {
		t.Errorf("three elements were transformed to %v", got)
	}
}

func TestSpecTopK(t *testing.T) {
	negZero, nan, inf := math.Copysign(0, -1), math.NaN(), math.Inf(-1)
	for _, v := range []struct {
		scores []float64
		k      int
		want   []int32
	}{
		{[]float64{1, 0, negZero, 0, -1}, 3, []int32{0, 1, 2}},
		{[]float64{negZero, 0}, 1, []int32{0}},
		{[]float64{nan, inf, nan, 5}, 3, []int32{0, 1, 3}},
		{[]float64{2, 2, 2}, 5, []int32{0, 1, 2}},
	} {
		if got := specTopK(v.scores, v.k); !slices.Equal(got, v.want) {
			t.Errorf("top %d of %v are %v, want %v", v.k, v.scores, got, v.want)
		}
	}
}

// TestSpecForms: the expanded and the absorbed form are equal in exact
// arithmetic, and merged halves equal the whole.
func TestSpecForms(t *testing.T) {
	const R, dn, dr, dv, n = 6, 4, 2, 3, 9
	e := &env{rng: rand.New(rand.NewPCG(seed(t), 0))}
	draw := func(n int) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = e.rng.NormFloat64()
		}
		return v
	}
	kvb := matrix{2 * (dn + dv), R, draw(2 * (dn + dv) * R)}
	var records []record
	for range n {
		records = append(records, record{draw(R), draw(dr)})
	}
	for h := range 2 {
		q := draw(dn + dr)
		var keys []expanded
		for _, r := range records {
			keys = append(keys, specExpand(kvb, h, dn, dv, r))
		}
		mha := specAttention(q, keys, dv, 0.3)
		qa, _ := specAbsorb(kvb, h, dn, dv, q)
		z := specAttention(qa, latentKeys(records), R, 0.3)
		out, _ := specUnabsorb(kvb, h, dn, dv, z.out)
		a, b := specAttention(q, keys[:4], dv, 0.3), specAttention(q, keys[4:], dv, 0.3)
		merged, lse := specMerge(a.out, b.out, a.lse, b.lse)
		for i := range out {
			if math.Abs(out[i]-mha.out[i]) > 1e-12 || math.Abs(merged[i]-mha.out[i]) > 1e-12 {
				t.Errorf("head %d: expanded %v, absorbed %v, merged %v", h, mha.out, out, merged)
			}
		}
		if math.Abs(z.lse-mha.lse) > 1e-12 || math.Abs(lse-mha.lse) > 1e-12 {
			t.Errorf("head %d: log-sum-exp expanded %v, absorbed %v, merged %v", h, mha.lse, z.lse, lse)
		}
	}
}
