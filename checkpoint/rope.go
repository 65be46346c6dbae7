package checkpoint

import "math"

// QKDim returns the size of a query or key head, dn + dr.
func (c *Config) QKDim() int { return c.Nope + c.RopeDim }

// mscale is YaRN's attention temperature 0.1·m·ln(s) + 1.
func (y *YaRN) mscale(m float64) float64 {
	if y.Factor <= 1 {
		return 1
	}
	return 0.1*m*math.Log(y.Factor) + 1
}

// SoftmaxScale returns the factor of attention scores, (dn+dr)^−½, times
// mscale(mscale_all_dim)² under YaRN.
func (c *Config) SoftmaxScale() float32 {
	s := 1 / math.Sqrt(float64(c.QKDim()))
	if y := c.Rope.YaRN; y != nil && y.MScaleAllDim != 0 {
		m := y.mscale(y.MScaleAllDim)
		s *= m * m
	}
	return float32(s)
}

// RopeFactor returns the factor of cos and sin: 1 without YaRN and for every
// released model with it, where mscale equals mscale_all_dim.
func (c *Config) RopeFactor() float32 {
	y := c.Rope.YaRN
	switch {
	case y == nil:
		return 1
	case y.HasMScale:
		return float32(y.mscale(y.MScale) / y.mscale(y.MScaleAllDim))
	case y.AttentionFactor != 0:
		return float32(y.AttentionFactor)
	}
	return float32(y.mscale(1))
}

// RopeFrequencies returns the dr/2 pair frequencies f_i in radians a position,
// rounded to float32 as the reference implementations do. Under YaRN (Peng et
// al. 2023) low frequencies are divided by the factor, high ones kept, with a
// linear ramp over the pairs between.
func (c *Config) RopeFrequencies() []float32 {
	f := make([]float32, c.RopeDim/2)
	low, high := c.yarnRange()
	for i := range f {
		v := math.Pow(c.Rope.Theta, -2*float64(i)/float64(c.RopeDim))
		if y := c.Rope.YaRN; y != nil {
			ramp := min(max((float64(i)-low)/(high-low), 0), 1)
			v *= 1 - ramp + ramp/y.Factor
		}
		f[i] = float32(v)
	}
	return f
}

// yarnRange returns the pairs between which the ramp runs.
func (c *Config) yarnRange() (low, high float64) {
	y := c.Rope.YaRN
	if y == nil {
		return 0, 1
	}
	dr := float64(c.RopeDim)
	// dim is the pair that makes r turns over the original context.
	dim := func(r float64) float64 {
		return dr * math.Log(float64(y.Original)/(2*math.Pi*r)) / (2 * math.Log(c.Rope.Theta))
	}
	low = max(math.Floor(dim(y.BetaFast)), 0)
	high = min(math.Ceil(dim(y.BetaSlow)), dr-1)
	if low == high {
		high += 0.001
	}
	return low, high
}

// RopeTable returns cos and sin, times [Config.RopeFactor], for the positions
// 0..positions−1, each [positions, dr/2]. The angle is the float32 product
// p·f_i, which is what the reference implementations rotate by; at large
// positions it is visibly not the exact one.
func (c *Config) RopeTable(positions int) (cos, sin []float32) {
	f := c.RopeFrequencies()
	factor := float64(c.RopeFactor())
	cos = make([]float32, positions*len(f))
	sin = make([]float32, positions*len(f))
	for p := range positions {
		for i, w := range f {
			angle := float32(p) * w
			s, co := math.Sincos(float64(angle))
			cos[p*len(f)+i] = float32(co * factor)
			sin[p*len(f)+i] = float32(s * factor)
		}
	}
	return cos, sin
}
