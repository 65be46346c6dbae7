package devicetest

import "math"

// rotations is a table of rotations by position: cos and sin of dr/2 pairs.
type rotations struct {
	cos, sin    [][]float64
	interleaved bool
}

// dr is the number of elements rotated.
func (r rotations) dr() int { return 2 * len(r.cos[0]) }

// pair returns the two elements that rotation i of a rope part turns.
func (r rotations) pair(i int) (a, b int) {
	if r.interleaved {
		return 2 * i, 2*i + 1
	}
	return i, i + r.dr()/2
}

// rotate turns the dr elements of x by position p, in place: (a, b) becomes
// (a·cos − b·sin, b·cos + a·sin).
func (r rotations) rotate(x []float64, p int) {
	for i := range r.dr() / 2 {
		a, b := r.pair(i)
		c, s := r.cos[p][i], r.sin[p][i]
		x[a], x[b] = x[a]*c-x[b]*s, x[b]*c+x[a]*s
	}
}

// spread makes both elements of a pair as large as the pair: the size of the
// terms of a rotated pair, given that of its elements.
func (r rotations) spread(mag []float64) {
	for i := range r.dr() / 2 {
		a, b := r.pair(i)
		m := math.Hypot(mag[a], mag[b])
		mag[a], mag[b] = m, m
	}
}
