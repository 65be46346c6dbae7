package devicetest

import (
	"math"
	"slices"

	"latent/device"
)

// specIndexQuery prepares one head q [Di] of an indexer query at position p:
// rotation of the first dr elements and, with an FP8 cache, a Hadamard
// transform and rounding with one scale. mag is the size of the terms of each
// element; sure is false when float32 arithmetic could round differently.
func specIndexQuery(f device.CacheFormat, q []float64, rot rotations, p int) (y, mag []float64, sure bool) {
	y, mag = slices.Clone(q), magnitudes(q)
	rot.rotate(y[:rot.dr()], p)
	rot.spread(mag[:rot.dr()])
	if f != device.CacheF8 {
		return y, mag, true
	}
	y, mag = hadamard(y, mag)
	y, sure = quantizeE4M3(y, mag)
	return y, mag, sure
}

// specIndexScore computes Σ_h w_h·max(0, q_h·k) for q [Hi·Di] and the size of
// its terms.
func specIndexScore(q, w, k []float64) (score, mag float64) {
	di := len(k)
	for h := range w {
		var dot, squares float64
		for i, x := range q[h*di : (h+1)*di] {
			dot += x * k[i]
			squares += x * k[i] * x * k[i]
		}
		score += w[h] * max(0, dot)
		mag += math.Abs(w[h]) * math.Sqrt(squares)
	}
	return score, mag
}

// specTopK returns the min(k, len(scores)) positions with the largest scores,
// ascending. Equal scores go to the lower position, −0 equals +0, and NaN ranks
// below everything.
func specTopK(scores []float64, k int) []int32 {
	order := make([]int32, len(scores))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		x, y := scores[a], scores[b]
		switch {
		case x > y || !math.IsNaN(x) && math.IsNaN(y):
			return -1
		case x < y || math.IsNaN(x) && !math.IsNaN(y):
			return 1
		}
		return 0
	})
	order = order[:min(k, len(order))]
	slices.Sort(order)
	return order
}
