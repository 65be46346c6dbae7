package devicetest

import "math"

// apply computes y = W·x. mag[o] is the size of the terms of y[o]: the root of
// the sum of their squares.
func (m matrix) apply(x []float64) (y, mag []float64) {
	y, mag = make([]float64, m.rows), make([]float64, m.rows)
	for o := range y {
		var sum, squares float64
		for i, w := range m.row(o) {
			sum += w * x[i]
			squares += w * x[i] * w * x[i]
		}
		y[o], mag[o] = sum, math.Sqrt(squares)
	}
	return y, mag
}

// specRMSNorm computes w_i·v_i / sqrt(mean(v²) + eps).
func specRMSNorm(v, w []float64, eps float64) []float64 {
	var squares float64
	for _, x := range v {
		squares += x * x
	}
	y := make([]float64, len(v))
	for i, x := range v {
		y[i] = w[i] * x / math.Sqrt(squares/float64(len(v))+eps)
	}
	return y
}

// specLayerNorm computes (v − mean)/sqrt(var + eps)·w + b with the population
// variance, and the size of the terms of each element.
func specLayerNorm(v, w, b []float64, eps float64) (y, mag []float64) {
	var mean, variance float64
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		variance += (x - mean) * (x - mean) / float64(len(v))
	}
	y, mag = make([]float64, len(v)), make([]float64, len(v))
	for i, x := range v {
		r := w[i] / math.Sqrt(variance+eps)
		y[i] = (x-mean)*r + b[i]
		mag[i] = (math.Abs(x)+math.Abs(mean))*math.Abs(r) + math.Abs(b[i])
	}
	return y, mag
}

func silu(x float64) float64 { return x / (1 + math.Exp(-x)) }

// expert is a gated MLP in float64.
type expert struct{ gate, up, down matrix }

// apply computes Down·(silu(Gate·x)·(Up·x)) and the size of its terms.
func (e expert) apply(x []float64) (y, mag []float64) {
	g, gMag := e.gate.apply(x)
	u, uMag := e.up.apply(x)
	h, hMag := make([]float64, len(g)), make([]float64, len(g))
	for i := range g {
		h[i] = silu(g[i]) * u[i]
		hMag[i] = gMag[i]*math.Abs(u[i]) + math.Abs(silu(g[i]))*uMag[i]
	}
	y, _ = e.down.apply(h)
	_, mag = e.down.apply(hMag)
	return y, mag
}
