package kern

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"latent/device"
)

// lengths are those around every loop bound of the kernels, and random ones.
func lengths(r *rand.Rand) []int {
	var n []int
	for i := range 82 {
		n = append(n, i)
	}
	return append(n, 127, 128, 129, 576, 1000+r.IntN(1000), 4096+r.IntN(100))
}

// near fails unless got is within tol of want.
func near(t *testing.T, what string, got float32, want, tol float64) {
	t.Helper()
	if !(math.Abs(float64(got)-want) <= tol) {
		t.Fatalf("%s is %v, want %v ± %v", what, got, want, tol)
	}
}

func TestReductions(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for _, n := range lengths(r) {
			x, _ := normal(t, r, "x", n)
			y, _ := normal(t, r, "y", n)
			var dot, dotSize, squares, amax float64
			largest := math.Inf(-1)
			for i := range x {
				v := float64(x[i])
				dot += v * float64(y[i])
				dotSize += math.Abs(v * float64(y[i]))
				squares += v * v
				amax = max(amax, math.Abs(v))
				largest = max(largest, v)
			}
			eps := float64(n+1) * 0x1p-24
			near(t, fmt.Sprintf("Dot of %d", n), kn.Dot(x, y), dot, eps*dotSize)
			near(t, fmt.Sprintf("SumSquares of %d", n), kn.SumSquares(x), squares, eps*squares)
			if got := kn.Max(x); float64(got) != largest {
				t.Fatalf("Max of %d is %v, want %v", n, got, largest)
			}
			if got := kn.AbsMax(x); float64(got) != amax {
				t.Fatalf("AbsMax of %d is %v, want %v", n, got, amax)
			}
			for i := range x { // only negative elements: lanes past the end must not count
				x[i] = -1 - float32(i)
			}
			if got := kn.Max(x); n > 0 && got != -1 {
				t.Fatalf("Max of %d negative elements is %v, want -1", n, got)
			}
		}
	})
}

// Sums depend on the length only: the same numbers at another address, with
// other neighbours, give the same bits.
func TestSumsIgnoreAlignment(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		n := 1 + r.IntN(700)
		x, _ := normal(t, r, "x", n)
		y, _ := normal(t, r, "y", n)
		work := make([]float32, 0, n+17)
		var want []float32
		for shift := range 17 {
			place := func(v []float32) []float32 {
				copy(work[shift:shift+n], v)
				return work[shift : shift+n]
			}
			got := []float32{
				kn.Dot(place(x), y), kn.SumSquares(place(x)), kn.Exp(place(x), 0.5, 2),
			}
			if shift == 0 {
				want = got
			}
			equalBits(t, fmt.Sprintf("%d elements at offset %d: Dot, SumSquares, Exp", n, shift), got, want)
		}
	})
}

func TestUpdates(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for _, n := range lengths(r) {
			x, _ := normal(t, r, "x", n)
			w, _ := normal(t, r, "w", n)
			start, _ := normal(t, r, "y", n)
			a := float32(r.NormFloat64())
			for _, c := range []struct {
				name string
				run  func(y []float32)
				want func(i int) float32
			}{
				{"Axpy", func(y []float32) { kn.Axpy(y, a, x) }, func(i int) float32 { return chain(kn, a, x[i], start[i]) }},
				{"Add", func(y []float32) { kn.Add(y, x) }, func(i int) float32 { return start[i] + x[i] }},
				{"Scale", func(y []float32) { kn.Scale(y, a) }, func(i int) float32 { return start[i] * a }},
				{"ScaleMul", func(y []float32) { kn.ScaleMul(y, a, x, w) }, func(i int) float32 { v := a * x[i]; return v * w[i] }},
				{"ScaleMul in place", func(y []float32) { kn.ScaleMul(y, a, y, w) }, func(i int) float32 { v := a * start[i]; return v * w[i] }},
				{"ReluWeighted", func(y []float32) { kn.ReluWeighted(y, x, a) }, func(i int) float32 { return chain(kn, a, max(x[i], 0), start[i]) }},
			} {
				y, check := guard(t, c.name, n, poison)
				copy(y, start)
				c.run(y)
				check()
				want := make([]float32, n)
				for i := range want {
					want[i] = c.want(i)
				}
				equalBits(t, fmt.Sprintf("%s of %d", c.name, n), y, want)
			}
		}
	})
}

// ulps is the distance of got from want in units of the last place of want.
func ulps(got float32, want float64) float64 {
	e := math.Floor(math.Log2(math.Abs(want)))
	return math.Abs(float64(got)-want) / math.Ldexp(1, int(e)-23)
}

func TestExp(t *testing.T) {
	inf := float32(math.Inf(1))
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		worst := 0.0
		for _, n := range lengths(r) {
			x, check := guard(t, "x", n, poison)
			for i := range x {
				x[i] = float32(-95 + 183*r.Float64()) // zero, every power of two, almost infinity
				if n%3 == 0 {
					x[i] = -abs(x[i]) // as in a softmax: the sum is finite
				}
				if r.IntN(10) == 0 {
					x[i] = -inf
				}
			}
			scale, shift := float32(1), float32(0)
			if n%2 == 1 {
				scale, shift = float32(r.Float64()), float32(10*r.NormFloat64())
			}
			in := append([]float32(nil), x...)
			sum := kn.Exp(x, scale, shift)
			check()
			var want float64
			for i, v := range in {
				arg := fma32(scale, v, -shift)
				e := math.Exp(float64(arg))
				switch {
				case arg < -87.33655 || math.IsInf(float64(v), -1):
					if x[i] != 0 {
						t.Fatalf("exp(%v) is %v, want 0", arg, x[i])
					}
				case arg > -87.3365 && arg < 88.72:
					worst = max(worst, ulps(x[i], e))
				}
				want += float64(x[i])
			}
			if want < 0x1p127 {
				near(t, fmt.Sprintf("the sum of %d exponentials", n), sum, want, want*float64(n+1)*0x1p-24)
			}
		}
		if worst > 2 {
			t.Errorf("exp errs by %.2f units in the last place", worst)
		}
		special := []float32{0, -inf, inf, 89, 1000, float32(math.NaN()), -1000}
		kn.Exp(special, 1, 0)
		if s := special; s[0] != 1 || s[1] != 0 || s[2] != inf || s[3] != inf || s[4] != inf || s[5] == s[5] || s[6] != 0 {
			t.Errorf("exp(0, -Inf, +Inf, 89, 1000, NaN, -1000) = %v", special)
		}
	})
}

// The columns of a matrix, some of them or parts of them −Inf, in a matrix of
// their own and next to others.
func TestSoftmaxColumns(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		inf := float32(math.Inf(1))
		for range 100 {
			rows, n, scale := r.IntN(140), 1+r.IntN(N), float32(0.01+r.Float64())
			ld := n + r.IntN(5)
			x, check := normal(t, r, "x", max(0, (rows-1)*ld+n))
			kn.Scale(x, 30)
			for i := range x {
				if r.IntN(5) == 0 {
					x[i] = -inf
				}
			}
			empty := r.IntN(n)
			for i := range rows {
				x[i*ld+empty] = -inf
			}
			in := append([]float32(nil), x...)
			top, checkTop := guard(t, "top", n, poison)
			sum, checkSum := guard(t, "sum", n, poison)
			kn.SoftmaxColumns(x, ld, rows, n, scale, top, sum)
			check()
			checkTop()
			checkSum()
			for j := range n {
				largest, total := -inf, float32(0)
				for i := range rows {
					largest = max(largest, in[i*ld+j])
					total += x[i*ld+j]
				}
				if top[j] != largest || sum[j] != total {
					t.Fatalf("%dx%d, column %d: largest %v, sum %v; want %v, %v", rows, n, j, top[j], sum[j], largest, total)
				}
				alone, one := make([]float32, rows), make([]float32, 2)
				for i := range rows {
					v := in[i*ld+j]
					alone[i] = v
					want := 0.0
					if v > -inf {
						want = math.Exp(float64(scale) * (float64(v) - float64(largest)))
					}
					near(t, fmt.Sprintf("exp(%v·(%v − %v))", scale, v, largest), x[i*ld+j], want, 2e-5*want+1e-36)
				}
				kn.SoftmaxColumns(alone, 1, rows, 1, scale, one[:1], one[1:])
				for i, v := range alone {
					if !same(v, x[i*ld+j]) {
						t.Fatalf("row %d of column %d alone is %v, among %d columns %v", i, j, v, n, x[i*ld+j])
					}
				}
				if !same(one[1], sum[j]) {
					t.Fatalf("the sum of column %d alone is %v, among %d columns %v", j, one[1], n, sum[j])
				}
			}
		}
	})
}

func TestSpread(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for range 60 {
			n, ldd := r.IntN(200), N+r.IntN(50)
			src32, _ := normal(t, r, "src", n)
			src16, src8 := make([]uint16, n), make([]uint8, n)
			for i := range n {
				src16[i], src8[i] = uint16(r.Uint32()), uint8(r.Uint32())
			}
			scale := float32(r.NormFloat64())
			for _, c := range []struct {
				name string
				run  func(dst []float32)
				want func(i int) float32
			}{
				{"float32", func(d []float32) { kn.SpreadF32(d, ldd, src32) }, func(i int) float32 { return src32[i] }},
				{"bf16", func(d []float32) { kn.SpreadBF16(d, ldd, src16) }, func(i int) float32 { return device.F32FromBF16(src16[i]) }},
				{"e4m3", func(d []float32) { kn.SpreadF8(d, ldd, src8, scale) }, func(i int) float32 { return device.F32FromF8(src8[i]) * scale }},
			} {
				size := 0
				if n > 0 {
					size = (n-1)/N*ldd + (n-1)%N + 1
				}
				got, check := guard(t, c.name, size, poison)
				c.run(got)
				check()
				for i, v := range got {
					want, at := poison, i/ldd*N+i%ldd
					if i%ldd < N && at < n {
						want = c.want(at)
					}
					if !sameValue(v, want) {
						t.Fatalf("%s: %d elements %d apart: element %d is %v, want %v", c.name, n, ldd, i, v, want)
					}
				}
			}
		}
	})
}

func TestSiluMul(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for _, n := range lengths(r) {
			g, _ := normal(t, r, "g", n)
			u, _ := normal(t, r, "u", n)
			kn.Scale(g, 20)
			got, check := guard(t, "dst", n, poison)
			kn.SiluMul(got, g, u)
			check()
			for i := range got {
				want := float64(g[i]) / (1 + math.Exp(-float64(g[i]))) * float64(u[i])
				near(t, fmt.Sprintf("silu(%v)·%v", g[i], u[i]), got[i], want, math.Abs(want)*0x1p-21+1e-36)
			}
			kn.SiluMul(g, g, u)
			equalBits(t, "in place", g, got)
		}
		far := []float32{-200, 200, -1000, 1000}
		kn.SiluMul(far, far, []float32{1, 1, 1, 1})
		if far[0] != 0 || far[1] != 200 || far[2] != 0 || far[3] != 1000 {
			t.Errorf("silu(-200, 200, -1000, 1000) = %v", far)
		}
	})
}

func TestMask(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for _, n := range lengths(r) {
			from := r.IntN(200)
			bits := make([]uint64, (from+n+63)/64)
			for i := range bits {
				bits[i] = []uint64{r.Uint64(), 0, math.MaxUint64}[r.IntN(3)]
			}
			x, check := normal(t, r, "x", n)
			want := append([]float32(nil), x...)
			for i := range want {
				if j := from + i; bits[j/64]&(1<<(j%64)) == 0 {
					want[i] = float32(math.Inf(-1))
				}
			}
			kn.Mask(x, bits, from)
			check()
			equalBits(t, fmt.Sprintf("Mask of %d from bit %d", n, from), x, want)
		}
	})
}

// bits32 are float32 of all kinds: any bits, and the neighbours of the ties and
// limits of narrow formats.
func bits32(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		b := r.Uint32()
		switch r.IntN(4) {
		case 0: // ties of bf16 and e4m3 and what is next to them
			b = b&0xfff80000 | 0x00080000*uint32(r.IntN(2)) | 0x8000*uint32(r.IntN(2)) + uint32(r.IntN(3)) - 1
		case 1: // the range of e4m3
			b = math.Float32bits(float32(math.Ldexp(1+r.Float64(), r.IntN(22)-12))) | b&0x80000000
		case 2:
			b = math.Float32bits([]float32{0, 448, 464, 447.9, 0x1p-6, 0x1p-10, 0x1.8p-9, float32(math.Inf(1)), float32(math.NaN())}[r.IntN(9)]) | b&0x80000000
		}
		x[i] = math.Float32frombits(b)
	}
	return x
}

func TestNarrowing(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for _, n := range append(lengths(r), 100000) {
			x := bits32(r, n)
			h, check := guard(t, "bf16", n, uint16(0xdead))
			kn.BF16FromF32(h, x)
			check()
			p, check := guard(t, "pairs", (n+1)/2, uint32(0xdeadbeef))
			kn.PairsBF16(p, x)
			check()
			for i, v := range x {
				want := device.BF16FromF32(v)
				if h[i] != want {
					t.Fatalf("bf16 of %x is %04x, want %04x", math.Float32bits(v), h[i], want)
				}
				if got := uint16(p[i/2] >> (i % 2 * 16)); got != want {
					t.Fatalf("element %d of pairs is %04x, want %04x", i, got, want)
				}
			}
			if n%2 == 1 && p[n/2]>>16 != 0 {
				t.Fatalf("the last of %d pairs is %08x, want a zero in the high half", n, p[n/2])
			}
			scale := float32(math.Ldexp(1, r.IntN(5)-2))
			f, check := guard(t, "f8", n, uint8(0xad))
			kn.F8FromF32(f, x, scale)
			check()
			for i, v := range x {
				if want := device.F8FromF32(v * scale); f[i] != want {
					t.Fatalf("e4m3 of %v (%x) times %v is %02x, want %02x", v, math.Float32bits(v), scale, f[i], want)
				}
			}
		}
	})
}

// sameValue compares bits, and takes all NaN for equal.
func sameValue(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

func TestWidening(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for _, n := range append(lengths(r), 1<<16) {
			src16, src8 := make([]uint16, n), make([]uint8, n)
			for i := range n {
				src16[i], src8[i] = uint16(r.Uint32()), uint8(r.Uint32())
				if n == 1<<16 { // every value
					src16[i], src8[i] = uint16(i), uint8(i)
				}
			}
			scale := float32(r.NormFloat64())
			for _, c := range []struct {
				name string
				run  func(dst []float32)
				want func(i int) float32
			}{
				{"bf16", func(d []float32) { kn.F32FromBF16(d, src16) }, func(i int) float32 { return device.F32FromBF16(src16[i]) }},
				{"f16", func(d []float32) { kn.F32FromF16(d, src16) }, func(i int) float32 { return device.F32FromF16(src16[i]) }},
				{"e4m3", func(d []float32) { kn.F32FromF8(d, src8, scale) }, func(i int) float32 { return device.F32FromF8(src8[i]) * scale }},
			} {
				got, check := guard(t, c.name, n, poison)
				c.run(got)
				check()
				for i, v := range got {
					if want := c.want(i); !sameValue(v, want) {
						t.Fatalf("%s: element %d of %d is %v, want %v", c.name, i, n, v, want)
					}
				}
			}
		}
	})
}

func TestTranspose(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for trial := range 60 {
			rows, cols := r.IntN(40), r.IntN(40)
			if trial == 0 {
				rows, cols = 64, 576
			}
			lds, ldd := cols+r.IntN(5), rows+r.IntN(5)
			src, _ := normal(t, r, "src", rows*lds)
			dst, check := guard(t, "dst", cols*ldd, poison)
			kn.Transpose(dst, ldd, src, lds, rows, cols)
			check()
			for j := range cols {
				for i := range ldd {
					want := poison
					if i < rows {
						want = src[i*lds+j]
					}
					if !same(dst[j*ldd+i], want) {
						t.Fatalf("%dx%d, lds %d, ldd %d: dst[%d, %d] is %v, want %v", rows, cols, lds, ldd, j, i, dst[j*ldd+i], want)
					}
				}
			}
		}
	})
}

func TestGreater(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for _, n := range lengths(r) {
			for _, threshold := range []float32{-0.5, 0, 1.5, float32(math.Inf(-1)), 100} {
				x, _ := normal(t, r, "x", n)
				for i := range x {
					switch r.IntN(8) {
					case 0:
						x[i] = threshold
					case 1:
						x[i] = float32(math.NaN())
					case 2:
						x[i] = float32(math.Copysign(0, -1))
					}
				}
				base := int32(r.IntN(1000))
				var want []int32
				for i, v := range x {
					if v > threshold {
						want = append(want, base+int32(i))
					}
				}
				if got := kn.CountGreater(x, threshold); got != len(want) {
					t.Fatalf("%d of %d elements above %v, want %d", got, n, threshold, len(want))
				}
				dst, check := guard(t, "dst", len(want), int32(-7))
				if got := kn.IndexGreater(dst, x, threshold, base); got != len(want) || !slices.Equal(dst, want) {
					t.Fatalf("IndexGreater(%d elements, %v) = %d, %v; want %v", n, threshold, got, dst, want)
				}
				check()
			}
		}
	})
}

func BenchmarkVector(b *testing.B) {
	const n = 4096
	x, y, u := make([]float32, n), make([]float32, n), make([]float32, n)
	r := rand.New(rand.NewPCG(7, 8))
	for i := range x {
		x[i], y[i] = float32(r.NormFloat64()), float32(r.NormFloat64())
	}
	h, q, idx := make([]uint16, n), make([]uint8, n), make([]int32, n)
	var sink float32
	for _, c := range []struct {
		name string
		run  func(k *Kernels)
	}{
		{"Dot", func(k *Kernels) { sink = k.Dot(x, y) }},
		{"Axpy", func(k *Kernels) { k.Axpy(u, 0.5, x) }},
		{"Max", func(k *Kernels) { sink = k.Max(x) }},
		{"Exp", func(k *Kernels) { copy(u, x); sink = k.Exp(u, 1, 3) }},
		{"SiluMul", func(k *Kernels) { k.SiluMul(u, x, y) }},
		{"ReluWeighted", func(k *Kernels) { k.ReluWeighted(u, x, 0.5) }},
		{"BF16FromF32", func(k *Kernels) { k.BF16FromF32(h, x) }},
		{"F8FromF32", func(k *Kernels) { k.F8FromF32(q, x, 1) }},
		{"F32FromF8", func(k *Kernels) { k.F32FromF8(u, q, 1) }},
		{"Transpose64", func(k *Kernels) { k.Transpose(u, 64, x, 64, 64, 64) }},
		{"IndexGreater", func(k *Kernels) { k.IndexGreater(idx, x, 1.5, 0) }},
	} {
		base := 0.0
		names := Available()
		for i := range names {
			kn, err := Select(names[len(names)-1-i])
			if err != nil {
				b.Fatal(err)
			}
			b.Run(c.name+"/"+kn.Tier, func(b *testing.B) {
				for b.Loop() {
					c.run(kn)
				}
				report(b, "elements/ns", n, &base)
			})
		}
	}
	_ = sink
}
