package device

import (
	"math"
	"math/rand/v2"
	"testing"
)

// nearest rounds x to a multiple of its unit in the last place, ties to even,
// in float64: mantissa stored bits, smallest normal exponent minExp.
func nearest(x float64, mantissa, minExp int) float64 {
	if x == 0 || math.IsInf(x, 0) {
		return x
	}
	_, e := math.Frexp(x)
	unit := math.Ldexp(1, max(e-1, minExp)-mantissa)
	return math.RoundToEven(x/unit) * unit
}

// randomFloat draws from all bit patterns, or close to a rounding boundary of
// a format with the given number of mantissa bits.
func randomFloat(rng *rand.Rand, mantissa int) float32 {
	b := rng.Uint32()
	if rng.IntN(2) == 0 {
		low := uint32(1)<<(23-mantissa) - 1
		b = b&^low | (low+1)/2 + uint32(rng.IntN(3)) - 1
	}
	return math.Float32frombits(b)
}

func newRand(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestBF16(t *testing.T) {
	// All values: what they mean, and that they survive a round trip.
	for i := range 1 << 16 {
		h := uint16(i)
		f := F32FromBF16(h)
		exp, frac := i>>7&0xff, float64(i&0x7f)
		want := math.Ldexp(128+frac, exp-127-7)
		switch {
		case exp == 0:
			want = math.Ldexp(frac, -126-7)
		case exp == 255 && frac == 0:
			want = math.Inf(1)
		case exp == 255:
			if !math.IsNaN(float64(f)) {
				t.Fatalf("%#04x is %g, want NaN", h, f)
			}
			if back := BF16FromF32(f); back != h|0x40 {
				t.Fatalf("NaN %#04x became %#04x", h, back)
			}
			continue
		}
		if want = math.Copysign(want, float64(1-2*(i>>15))); float64(f) != want || math.Signbit(float64(f)) != (i>>15 == 1) {
			t.Fatalf("%#04x is %g, want %g", h, f, want)
		}
		if back := BF16FromF32(f); back != h {
			t.Fatalf("%#04x (%g) became %#04x", h, f, back)
		}
	}
	rng := newRand(t)
	for range 1_000_000 {
		f := randomFloat(rng, 7)
		got := float64(F32FromBF16(BF16FromF32(f)))
		if f != f {
			if got == got {
				t.Fatalf("NaN %#x became %g", math.Float32bits(f), got)
			}
			continue
		}
		want := nearest(float64(f), 7, -126)
		if math.Abs(want) >= 0x1p128 {
			want = math.Inf(int(math.Copysign(1, want)))
		}
		if got != want || math.Signbit(got) != math.Signbit(float64(f)) {
			t.Fatalf("%g became %g, want %g", f, got, want)
		}
	}
	// A NaN whose payload is in the low bits only must not become infinite.
	if got := BF16FromF32(math.Float32frombits(0xff800001)); got != 0xffc0 {
		t.Errorf("NaN became %#04x, want 0xffc0", got)
	}
}

func TestF16(t *testing.T) {
	for i := range 1 << 16 {
		f := float64(F32FromF16(uint16(i)))
		exp, frac := i>>10&31, float64(i&0x3ff)
		want := math.Ldexp(1024+frac, exp-15-10)
		switch {
		case exp == 0:
			want = math.Ldexp(frac, -14-10)
		case exp == 31 && frac == 0:
			want = math.Inf(1)
		case exp == 31:
			if f == f {
				t.Fatalf("%#04x is %g, want NaN", i, f)
			}
			continue
		}
		if want = math.Copysign(want, float64(1-2*(i>>15))); f != want || math.Signbit(f) != (i>>15 == 1) {
			t.Fatalf("%#04x is %g, want %g", i, f, want)
		}
	}
}

func TestF8(t *testing.T) {
	// All codes.
	for i := range 256 {
		f := F32FromF8(uint8(i))
		exp, frac := i>>3&15, float64(i&7)
		want := math.Ldexp(8+frac, exp-7-3)
		switch {
		case i&0x7f == 0x7f:
			if f == f || F8FromF32(f) != 0x7f {
				t.Fatalf("%#02x is %g, becomes %#02x; want NaN, 0x7f", i, f, F8FromF32(f))
			}
			continue
		case exp == 0:
			want = math.Ldexp(frac, -6-3)
		}
		if want = math.Copysign(want, float64(1-2*(i>>7))); float64(f) != want || math.Signbit(float64(f)) != (i>>7 == 1) {
			t.Fatalf("%#02x is %g, want %g", i, f, want)
		}
		if back := F8FromF32(f); back != uint8(i) {
			t.Fatalf("%#02x (%g) became %#02x", i, f, back)
		}
	}
	rng := newRand(t)
	for range 1_000_000 {
		f := randomFloat(rng, 3)
		if rng.IntN(2) == 0 { // most bit patterns are far too large or too small
			f = float32(rng.NormFloat64() * math.Exp2(rng.Float64()*24-12))
			if rng.IntN(2) == 0 {
				f = math.Float32frombits(math.Float32bits(f)&^(1<<20-1) | 1<<19) // halfway
			}
		}
		if f != f {
			if got := F8FromF32(f); got != 0x7f {
				t.Fatalf("NaN became %#02x", got)
			}
			continue
		}
		want := nearest(min(max(float64(f), -448), 448), 3, -6)
		got := float64(F32FromF8(F8FromF32(f)))
		if got != want || math.Signbit(got) != math.Signbit(float64(f)) {
			t.Fatalf("%g became %g, want %g", f, got, want)
		}
	}
	for _, v := range []struct {
		f    float32
		code uint8
	}{
		{1, 0x38}, {1.125, 0x39}, {1.25, 0x3a}, {.013671875, 0x07}, {1.0625, 0x38}, {1.1875, 0x3a},
		{0x1p-10, 0x00}, {3 * 0x1p-10, 0x02}, {447, 0x7e}, {448, 0x7e}, {1e30, 0x7e}, {-1e30, 0xfe},
		{float32(math.Inf(1)), 0x7e}, {float32(math.Inf(-1)), 0xfe},
		{0, 0x00}, {float32(math.Copysign(0, -1)), 0x80}, {0x1p-6, 0x08}, {0x1p-9, 0x01},
	} {
		if got := F8FromF32(v.f); got != v.code {
			t.Errorf("%g became %#02x, want %#02x", v.f, got, v.code)
		}
	}
}

func TestQuantScale(t *testing.T) {
	for _, v := range []struct {
		amax float32
		exp  int
	}{
		{448, 0}, {447, 0}, {449, 1}, {224, -1}, {1.75, -8}, {1, -8}, {0.875, -9}, {0.5, -9}, {0, -22}, {1e-4, -22}, {1e-5, -22},
	} {
		if got, want := QuantScale(v.amax), float32(math.Ldexp(1, v.exp)); got != want {
			t.Errorf("QuantScale(%g) = %g, want %g", v.amax, got, want)
		}
	}
	rng := newRand(t)
	for range 1_000_000 {
		amax := float32(math.Exp2(rng.Float64()*60 - 20))
		m := max(float64(amax), 1e-4) / 448
		_, e := math.Frexp(m)
		if math.Abs(m-math.Ldexp(1, e-1)) < 1e-6*m || math.Abs(m-math.Ldexp(1, e)) < 1e-6*m {
			continue // next to a power of two float32 may go either way; the vectors above settle those
		}
		if got, want := float64(QuantScale(amax)), math.Ldexp(1, e); got != want {
			t.Fatalf("QuantScale(%g) = %g, want %g", amax, got, want)
		}
	}
}
