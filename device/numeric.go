package device

import "math"

// QuantScale returns the power-of-two scale for a block whose largest magnitude
// is amax: 2^⌈log2(max(amax, 1e-4)/448)⌉, computed from the bits of a float32
// (ue8m0 activation scales of DeepSeek-V3.1 and V3.2).
func QuantScale(amax float32) float32 {
	m := max(amax, 1e-4) * math.Float32frombits(0x3B124925) // float32(1/448)
	bits := math.Float32bits(m)
	exp := bits &^ (1<<23 - 1)
	if bits&(1<<23-1) != 0 {
		exp += 1 << 23
	}
	return math.Float32frombits(exp)
}

// BF16FromF32 rounds to the nearest bfloat16, ties to even. NaN stays a quiet
// NaN.
func BF16FromF32(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// F32FromBF16 is exact.
func F32FromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32FromF8 decodes e4m3 ("fn": no infinities, 0x7F and 0xFF are NaN).
func F32FromF8(b uint8) float32 { return f8Table[b] }

var f8Table = func() (t [256]float32) {
	for i := range t {
		e, m := i>>3&15, float64(i&7)
		v := math.Ldexp(8+m, e-10)
		if e == 0 {
			v = math.Ldexp(m, -9)
		}
		if i&0x7f == 0x7f {
			v = math.NaN()
		}
		t[i] = float32(math.Copysign(v, 1-2*float64(i>>7)))
	}
	return t
}()

// F8FromF32 clamps to ±448 and rounds to the nearest e4m3, ties to even. NaN
// gives NaN (0x7F).
func F8FromF32(f float32) uint8 {
	b := math.Float32bits(f)
	sign := uint8(b >> 24 & 0x80)
	b &= 0x7fffffff
	if b > 0x7f800000 {
		return 0x7f
	}
	if b >= 0x43e00000 { // 448
		return sign | 0x7e
	}
	if b < 0x3c800000 { // below 2^-6: subnormal, step 2^-9
		return sign | uint8(math.RoundToEven(float64(math.Float32frombits(b))*512))
	}
	b += 0x7ffff + b>>20&1 // round to 3 mantissa bits; may carry into the exponent
	e := b>>23 - 120
	return sign | uint8(e<<3|b>>20&7)
}

// F32FromF16 is exact.
func F32FromF16(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	e, m := uint32(h>>10&31), uint32(h&0x3ff)
	switch e {
	case 0:
		f := float32(m) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(f) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | m<<13)
	}
	return math.Float32frombits(sign | (e+112)<<23 | m<<13)
}
