package devicetest

import (
	"encoding/binary"
	"math"

	"latent/device"
)

// roundTo rounds x to the nearest multiple of its unit in the last place, ties
// to even, for a format with the given number of stored mantissa bits and
// smallest normal exponent. The range is not limited.
func roundTo(x float64, mantissa, minExp int) float64 {
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return x
	}
	_, e := math.Frexp(x) // |x| = f·2^e, f in [1/2, 1)
	step := math.Ldexp(1, max(e-1, minExp)-mantissa)
	return math.RoundToEven(x/step) * step
}

// roundBF16 rounds to bfloat16.
func roundBF16(x float64) float64 {
	r := roundTo(x, 7, -126)
	if math.Abs(r) >= math.Ldexp(1, 128) {
		return math.Inf(int(math.Copysign(1, x)))
	}
	return r
}

// roundE4M3 clamps to ±448 and rounds to e4m3.
func roundE4M3(x float64) float64 {
	return roundTo(min(max(x, -448), 448), 3, -6)
}

// roundType rounds x as storing it in a tensor of type t does.
func roundType(t device.DType, x float64) float64 {
	switch t {
	case device.F32:
		return float64(float32(x))
	case device.BF16:
		return roundBF16(x)
	case device.F16:
		return roundTo(x, 10, -14)
	}
	panic("devicetest: no rounding to " + t.String())
}

// specScale is the smallest power of two that is at least max(amax, 1e-4)/448.
func specScale(amax float64) float64 {
	f, e := math.Frexp(max(amax, 1e-4) / 448)
	if f == 0.5 {
		e--
	}
	return math.Ldexp(1, e)
}

// float32Slack bounds the error of a float32 computation relative to the size
// of the terms it adds up. Inputs whose rounding such an error could change are
// drawn again.
const float32Slack = 1e-6

// quantizeE4M3 rounds x as one FP8 block with a power-of-two scale. mag[i] is the
// size of the terms that x[i] was made of; sure is false when an error of
// float32Slack·mag could change the result.
func quantizeE4M3(x, mag []float64) (y []float64, sure bool) {
	var amax, slack float64
	for i := range x {
		amax = max(amax, math.Abs(x[i]))
		slack = max(slack, float32Slack*mag[i])
	}
	scale := specScale(amax)
	sure = specScale(amax-slack) == scale && specScale(amax+slack) == scale
	y = make([]float64, len(x))
	for i := range x {
		y[i] = roundE4M3(x[i]/scale) * scale
		d := float32Slack * mag[i]
		sure = sure && roundE4M3((x[i]-d)/scale)*scale == y[i] && roundE4M3((x[i]+d)/scale)*scale == y[i]
	}
	return y, sure
}

// quantizeBF16 rounds every element to bfloat16; sure as for quantizeE4M3.
func quantizeBF16(x, mag []float64) (y []float64, sure bool) {
	y, sure = make([]float64, len(x)), true
	for i := range x {
		y[i] = roundBF16(x[i])
		d := float32Slack * mag[i]
		sure = sure && roundBF16(x[i]-d) == y[i] && roundBF16(x[i]+d) == y[i]
	}
	return y, sure
}

// decodeFloat decodes a little-endian binary floating point number with the
// given widths, by the definition of the format. reserved says that the largest
// exponent means infinity and NaN, which no test data contains.
func decodeFloat(bits uint32, exponent, mantissa int) float64 {
	bias := 1<<(exponent-1) - 1
	e := int(bits >> mantissa & (1<<exponent - 1))
	m := float64(bits & (1<<mantissa - 1))
	v := math.Ldexp(m, 1-bias-mantissa)
	if e > 0 {
		v = math.Ldexp(m+math.Ldexp(1, mantissa), e-bias-mantissa)
	}
	if bits>>(exponent+mantissa)&1 != 0 {
		return -v
	}
	return v
}

// matrix is a weight in float64, row-major.
type matrix struct {
	rows, cols int
	w          []float64
}

func (m matrix) row(r int) []float64 { return m.w[r*m.cols : (r+1)*m.cols] }

// decode reads a stored matrix: w = data, times Scales[row/128][col/128] for FP8.
func decode(src device.MatrixSource) matrix {
	m := matrix{src.Rows, src.Cols, make([]float64, src.Rows*src.Cols)}
	var e4m3 [256]float64
	for code := range e4m3 {
		e4m3[code] = decodeFloat(uint32(code), 4, 3)
	}
	blocks := (src.Cols + 127) / 128
	for i := range m.w {
		switch src.Type {
		case device.F32:
			m.w[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(src.Data[4*i:])))
		case device.BF16:
			m.w[i] = decodeFloat(uint32(binary.LittleEndian.Uint16(src.Data[2*i:])), 8, 7)
		case device.F16:
			m.w[i] = decodeFloat(uint32(binary.LittleEndian.Uint16(src.Data[2*i:])), 5, 10)
		case device.F8E4M3:
			r, c := i/src.Cols, i%src.Cols
			m.w[i] = e4m3[src.Data[i]] * float64(src.Scales[r/128*blocks+c/128])
		default:
			panic("devicetest: no stored type " + src.Type.String())
		}
	}
	return m
}

// stack puts the rows of parts below one another.
func stack(parts ...matrix) matrix {
	m := matrix{cols: parts[0].cols}
	for _, p := range parts {
		m.rows += p.rows
		m.w = append(m.w, p.w...)
	}
	return m
}
