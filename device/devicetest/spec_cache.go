package devicetest

import (
	"math"
	"math/bits"

	"latent/device"
)

// record is what the attention cache holds for one position: the normalised
// latent c [R] and the rotated rope key [dr], as rounded by the cache format.
type record struct{ c, rope []float64 }

// specLatent computes the record stored for u [R+dr] at position p: the first
// R elements normalised, the last dr rotated and not normalised. sure is false
// when float32 arithmetic could round differently.
func specLatent(f device.CacheFormat, u, weight []float64, eps float64, rot rotations, p int) (r record, sure bool) {
	n := len(weight)
	r.c = specRMSNorm(u[:n], weight, eps)
	r.rope = append([]float64(nil), u[n:]...)
	mag := magnitudes(r.rope)
	rot.rotate(r.rope, p)
	rot.spread(mag)
	switch f {
	case device.CacheF32:
		return r, true
	case device.CacheBF16:
		var sureC, sureK bool
		r.c, sureC = quantizeBF16(r.c, magnitudes(r.c))
		r.rope, sureK = quantizeBF16(r.rope, mag)
		return r, sureC && sureK
	}
	// FP8: the latent in blocks of min(128, R), the rope key in bfloat16.
	r.rope, sure = quantizeBF16(r.rope, mag)
	var c []float64
	for from := 0; from < n; from += 128 {
		block := r.c[from:min(from+128, n)]
		q, ok := quantizeE4M3(block, magnitudes(block))
		c, sure = append(c, q...), sure && ok
	}
	r.c = c
	return r, sure
}

// specIndexKey computes the index key stored for k [Di] at position p:
// LayerNorm, rotation of the first dr elements, and with an FP8 cache a
// Hadamard transform and rounding with one scale.
func specIndexKey(f device.CacheFormat, k, weight, bias []float64, eps float64, rot rotations, p int) (key []float64, sure bool) {
	key, mag := specLayerNorm(k, weight, bias, eps)
	rot.rotate(key[:rot.dr()], p)
	rot.spread(mag[:rot.dr()])
	switch f {
	case device.CacheF32:
		return key, true
	case device.CacheBF16:
		return quantizeBF16(key, mag)
	}
	return quantizeE4M3(hadamard(key, mag))
}

// hadamard multiplies x by H·n^−½, H[i][j] = (−1)^popcount(i&j), if n is a power
// of two, and returns it with the size of its terms. Other sizes are returned
// as they are.
func hadamard(x, mag []float64) (y, yMag []float64) {
	n := len(x)
	if n&(n-1) != 0 {
		return x, mag
	}
	y, yMag = make([]float64, n), make([]float64, n)
	for i := range n {
		var sum, squares float64
		for j := range n {
			if bits.OnesCount(uint(i&j))%2 == 0 {
				sum += x[j]
			} else {
				sum -= x[j]
			}
			squares += mag[j] * mag[j]
		}
		y[i], yMag[i] = sum/math.Sqrt(float64(n)), math.Sqrt(squares/float64(n))
	}
	return y, yMag
}

func magnitudes(x []float64) []float64 {
	m := make([]float64, len(x))
	for i := range x {
		m[i] = math.Abs(x[i])
	}
	return m
}
