package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"latent/device"
	"latent/device/cpu/kern"
)

// TestBest compares best with a stable sort, on scores with many ties, zeros of
// both signs, infinities and NaN.
func TestBest(t *testing.T) {
	rng := newRand(t)
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	negZero := float32(math.Copysign(0, -1))
	special := []float32{0, negZero, 0, negZero, 1, 1, -1, inf, -inf, nan, -nan, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, math.MaxFloat32, -math.MaxFloat32}
	draws := map[string]func() float32{
		"normal":   func() float32 { return float32(rng.NormFloat64()) },
		"ties":     func() float32 { return float32(rng.IntN(5) - 2) },
		"special":  func() float32 { return special[rng.IntN(len(special))] },
		"equal":    func() float32 { return 3 },
		"NaN":      func() float32 { return nan },
		"infinite": func() float32 { return []float32{-inf, nan}[rng.IntN(2)] },
		"mixed": func() float32 {
			if rng.IntN(3) == 0 {
				return special[rng.IntN(len(special))]
			}
			return float32(rng.NormFloat64())
		},
	}
	for _, tier := range kern.Available() {
		k, err := kern.Select(tier)
		if err != nil {
			t.Fatal(err)
		}
		for name, draw := range draws {
			for range 40 {
				n := 1 + rng.IntN(300)
				scores := make([]float32, n)
				for i := range scores {
					scores[i] = draw()
				}
				topk := 1 + rng.IntN(n+5)
				list := make([]int32, n)
				list = list[:best(k, list, scores, topk)]
				if want := sorted(rng, scores, topk); !slices.Equal(list, want) {
					t.Fatalf("%s, %s: top %d of %v: %v, want %v", tier, name, topk, scores, list, want)
				}
			}
		}
	}
}

// sorted selects by sorting positions.
func sorted(rng *rand.Rand, scores []float32, topk int) []int32 {
	order := rng.Perm(len(scores))
	slices.SortFunc(order, func(a, b int) int {
		x, y := scores[a], scores[b]
		switch {
		case x > y, x == x && y != y:
			return -1
		case x < y, x != x && y == y:
			return 1
		}
		return a - b
	})
	var p []int32
	for _, i := range order[:min(topk, len(order))] {
		p = append(p, int32(i))
	}
	slices.Sort(p)
	return p
}

// TestMaskAny compares any with the listed positions.
func TestMaskAny(t *testing.T) {
	rng := newRand(t)
	d := newTestDevice(t, Options{Threads: 1})
	const rows, keys = 4, 300
	for range 200 {
		sel, err := d.NewSelection(device.SelectMask, rows, keys, 1)
		if err != nil {
			t.Fatal(err)
		}
		s := sel.(*selection)
		for range rng.IntN(4) {
			p := rng.IntN(keys)
			s.mask[rng.IntN(rows)*s.words+p/64] |= 1 << (p % 64)
		}
		r := rng.IntN(rows)
		n, from := 1+rng.IntN(rows-r), rng.IntN(keys)
		to := from + 1 + rng.IntN(keys-from)
		want := false
		for i := range n {
			for _, p := range s.Positions(r + i) {
				want = want || int(p) >= from && int(p) < to
			}
		}
		if got := s.any(r, n, from, to); got != want {
			t.Fatalf("any position of [%d, %d) in rows [%d, %d): %v, want %v", from, to, r, r+n, got, want)
		}
	}
}
