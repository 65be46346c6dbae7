package kern

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"latent/device"
)

// source makes a random weight matrix of a type, and the values it stands for.
func source(r *rand.Rand, typ device.DType, rows, cols int) (device.MatrixSource, []float32) {
	w := device.MatrixSource{Name: "w", Rows: rows, Cols: cols, Type: typ}
	blocks := (cols + ScaleBlock - 1) / ScaleBlock
	for range (rows + ScaleBlock - 1) / ScaleBlock * blocks {
		w.Scales = append(w.Scales, float32(math.Exp(-6*r.Float64())))
	}
	values := make([]float32, rows*cols)
	for i := range values {
		f := float32(r.NormFloat64())
		switch typ {
		case device.F32:
			w.Data = binary.LittleEndian.AppendUint32(w.Data, math.Float32bits(f))
			values[i] = f
		case device.BF16:
			h := device.BF16FromF32(f)
			w.Data = binary.LittleEndian.AppendUint16(w.Data, h)
			values[i] = device.F32FromBF16(h)
		case device.F16:
			h := uint16(r.UintN(0x7c00)) | uint16(r.UintN(2))<<15 // every finite value
			w.Data = binary.LittleEndian.AppendUint16(w.Data, h)
			values[i] = device.F32FromF16(h)
		case device.F8E4M3:
			b := uint8(r.UintN(0x7f)) | uint8(r.UintN(2))<<7 // every value but NaN
			w.Data = append(w.Data, b)
			values[i] = device.F32FromF8(b) * w.Scales[i/cols/ScaleBlock*blocks+i%cols/ScaleBlock]
		}
	}
	return w, values
}

// weights are the panels of one matrix in the three formats.
type weights struct {
	n, k  int
	f32   []float32
	bf16  []uint16
	f8    []uint8
	scale []float32
}

func pack(t testing.TB, w device.MatrixSource) weights {
	panels := (w.Rows + N - 1) / N
	p := weights{n: w.Rows, k: w.Cols,
		f32: make([]float32, panels*LenF32(w.Cols)), bf16: make([]uint16, panels*LenBF16(w.Cols)),
		f8: make([]uint8, panels*LenF8(w.Cols)), scale: make([]float32, panels*LenScales(w.Cols))}
	for j := range panels {
		from, to := j*N, min(w.Rows, j*N+N)
		PackF32(p.f32[j*LenF32(w.Cols):], 0, w, from, to)
		PackBF16(p.bf16[j*LenBF16(w.Cols):], 0, w, from, to)
		if err := PackF8(p.f8[j*LenF8(w.Cols):], p.scale[j*LenScales(w.Cols):], 0, w, from, to); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestPackKeepsValues(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, typ := range []device.DType{device.F32, device.BF16, device.F16, device.F8E4M3} {
		n, k := 50, 261 // the last panel is not full, k is odd and has a partial scale block
		w, values := source(r, typ, n, k)
		p := pack(t, w)
		for j := range 2 * N {
			for i := range k {
				var want float32
				if j < n {
					want = values[j*k+i]
				}
				at := func(panel int) int { return j/N*panel + i*N + j%N }
				if got := p.f32[at(LenF32(k))]; got != want {
					t.Fatalf("%v: f32 panel holds %v at output %d, k %d; want %v", typ, got, j, i, want)
				}
				h := p.bf16[j/N*LenBF16(k)+i/2*2*N+j%N*2+i%2]
				if h != device.BF16FromF32(want) {
					t.Fatalf("%v: bf16 panel holds %v at output %d, k %d; want %v", typ, device.F32FromBF16(h), j, i, want)
				}
				scale := p.scale[j/N*LenScales(k)+i/ScaleBlock*N+j%N]
				got := device.F32FromF8(p.f8[at(LenF8(k))]) * scale
				// Rounding errs by half of an eighth, or half of the smallest step.
				tol := max(abs(want)/16, scale*0x1p-10)
				if typ == device.F8E4M3 {
					tol = 0
				}
				if abs(got-want) > tol {
					t.Fatalf("%v: f8 panel holds %v at output %d, k %d; want %v ± %v", typ, got, j, i, want, tol)
				}
			}
		}
	}
}

func abs(x float32) float32 { return float32(math.Abs(float64(x))) }

func TestPackFromSeveralSources(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	a, av := source(r, device.F32, 20, 9)
	b, bv := source(r, device.BF16, 40, 9)
	panel := make([]float32, LenF32(9))
	PackF32(panel, 0, a, 8, 20)
	PackF32(panel, 12, b, 5, 20)
	for p := range 9 {
		for j := range N {
			var want float32
			switch {
			case j < 12:
				want = av[(8+j)*9+p]
			case j < 27:
				want = bv[(5+j-12)*9+p]
			}
			if panel[p*N+j] != want {
				t.Fatalf("output %d, k %d is %v, want %v", j, p, panel[p*N+j], want)
			}
		}
	}
}

func TestPackF8Refuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		byte  uint8
		scale float32
	}{{"NaN weight", 0x7f, 1}, {"negative NaN weight", 0xff, 1}, {"large scale", 1, 0x1p110},
		{"NaN scale", 1, float32(math.NaN())}, {"negative scale", 1, -1}} {
		w := device.MatrixSource{Name: "w", Rows: 1, Cols: 2, Type: device.F8E4M3, Data: []byte{1, c.byte}, Scales: []float32{c.scale}}
		if err := PackF8(make([]uint8, LenF8(2)), make([]float32, LenScales(2)), 0, w, 0, 1); err == nil {
			t.Errorf("%s: no error", c.name)
		}
	}
}

// The panel kernels compute the chain of the dequantised panel, as Gemm does.
func TestPanelsEqualGemm(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for trial := range 60 {
			m, n, k := 1+r.IntN(9), 1+r.IntN(200), r.IntN(300)
			if trial%10 == 0 {
				k = 1100 + r.IntN(400) // more than one panelDepth
			}
			typ := []device.DType{device.F32, device.BF16, device.F8E4M3}[trial%3]
			src, values := source(r, typ, n, k)
			w := pack(t, src)
			k0 := 0
			if k > 0 {
				k0 = r.IntN(k)
			}
			switch typ {
			case device.BF16:
				k0 -= k0 % 2
			case device.F8E4M3:
				k0 -= k0 % ScaleBlock
			}
			ldx, ldy := k+r.IntN(3), n+r.IntN(3)
			what := fmt.Sprintf("%v m %d n %d k [%d, %d)", typ, m, n, k0, k)
			x, _ := normal(t, r, "x", (m-1)*ldx+k)
			y, check := normal(t, r, "y", (m-1)*ldy+n)
			want := append([]float32(nil), y...)
			for j := range n {
				kn.GemmN(m, 1, k-k0, x[k0:], ldx, 1, values[j*k+k0:], 1, want[j:], ldy)
			}
			switch typ {
			case device.F32:
				kn.PanelF32(m, n, k0, k, x, ldx, w.f32, LenF32(k), y, ldy)
			case device.BF16:
				kn.PanelBF16(m, n, k0, k, x, ldx, w.bf16, LenBF16(k), y, ldy)
			case device.F8E4M3:
				kn.PanelF8(m, n, k0, k, x, ldx, w.f8, LenF8(k), w.scale, LenScales(k), y, ldy)
			}
			check()
			equalBits(t, what, y, want)
		}
	})
}

func TestUnpack(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for range 20 {
			k := 1 + r.IntN(400)
			for _, typ := range []device.DType{device.BF16, device.F8E4M3} {
				src, values := source(r, typ, N, k)
				w := pack(t, src)
				k0, unit := r.IntN(k), 2
				if typ == device.F8E4M3 {
					unit = ScaleBlock
				}
				k0 -= k0 % unit
				k1 := k0 + r.IntN(k-k0+1)
				got, check := guard(t, "dst", (k1-k0)*N, poison)
				if typ == device.BF16 {
					kn.UnpackBF16(got, w.bf16, k0, k1)
				} else {
					kn.UnpackF8(got, w.f8, w.scale, k0, k1)
				}
				check()
				want := make([]float32, len(got))
				for i := range want {
					want[i] = values[i%N*k+k0+i/N]
				}
				equalBits(t, fmt.Sprintf("%v k [%d, %d)", typ, k0, k1), got, want)
			}
		}
	})
}

// pairChain adds the products of pairs of bf16 as VDPBF16PS is documented to:
// the odd element first, each a multiply-add in float32, denormals as zeros.
func pairChain(a, b uint32, c float32) float32 {
	hi := func(v uint32) float32 { return flush(math.Float32frombits(v &^ 0xffff)) }
	lo := func(v uint32) float32 { return flush(math.Float32frombits(v << 16)) }
	c = flush(fma32(hi(a), hi(b), flush(c)))
	return flush(fma32(lo(a), lo(b), c))
}

func flush(x float32) float32 {
	if abs(x) < 0x1p-126 {
		return 0
	}
	return x
}

func TestGemmBF16(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		if kn.GemmBF16 == nil {
			t.Skipf("tier %s has no VDPBF16PS", kn.Tier)
		}
		exact, total := 0, 0
		for range 40 {
			m, n, k := 1+r.IntN(40), 1+r.IntN(150), 1+r.IntN(300)
			pairs := (k + 1) / 2
			src, values := source(r, device.BF16, n, k)
			w := pack(t, src)
			x, _ := normal(t, r, "x", m*k)
			a, checkA := guard(t, "a", m*pairs, uint32(0x7fff7fff))
			for i := range m {
				kn.PairsBF16(a[i*pairs:(i+1)*pairs], x[i*k:(i+1)*k])
			}
			checkA()
			ldc := n + r.IntN(3)
			start, _ := normal(t, r, "c", (m-1)*ldc+n)
			c, check := guard(t, "c", len(start), poison)
			copy(c, start)
			kn.GemmBF16(m, n, pairs, a, pairs, 1, w.bf16, LenBF16(k), c, ldc)
			check()
			for i := range m {
				for j := range n {
					twin, sum, size := start[i*ldc+j], float64(start[i*ldc+j]), 1.0
					panel := w.bf16[j/N*LenBF16(k):]
					for p := range pairs {
						at := p*2*N + j%N*2
						twin = pairChain(a[i*pairs+p], uint32(panel[at])|uint32(panel[at+1])<<16, twin)
					}
					for p := range k {
						v := float64(device.F32FromBF16(device.BF16FromF32(x[i*k+p]))) * float64(values[j*k+p])
						sum, size = sum+v, size+math.Abs(v)
					}
					got := c[i*ldc+j]
					if got == twin {
						exact++
					}
					total++
					if tol := size * float64(k+4) * 0x1p-24; math.Abs(float64(got)-sum) > tol || math.Abs(float64(got-twin)) > tol {
						t.Fatalf("m %d n %d k %d: element (%d, %d) is %v; twin %v, float64 %v ± %v", m, n, k, i, j, got, twin, sum, tol)
					}
				}
			}
			// Single rows, packed rows and k in two calls have the same bits.
			again := append([]float32(nil), start...)
			cut := r.IntN(pairs + 1)
			packed := make([]uint32, m*pairs)
			for i := range m {
				for p := range pairs {
					packed[p*m+i] = a[i*pairs+p]
				}
			}
			kn.GemmBF16(m, n, cut, packed, 1, m, w.bf16, LenBF16(k), again, ldc)
			for i := range m {
				kn.GemmBF16(1, n, pairs-cut, a[i*pairs+cut:], pairs, 1, w.bf16[cut*2*N:], LenBF16(k), again[i*ldc:], ldc)
			}
			equalBits(t, fmt.Sprintf("rows alone, pairs cut at %d", cut), again, c)
		}
		t.Logf("%d of %d elements equal the twin bit for bit", exact, total)
	})
}

func BenchmarkPanel(b *testing.B) {
	// 64 MiB of f32: more than the cache, as the weights of a model are.
	const n, k = 8192, 2048
	r := rand.New(rand.NewPCG(9, 10))
	for _, m := range []int{1, 4} {
		for _, format := range []string{"f32", "bf16", "f8"} {
			base := 0.0
			names := Available()
			for i := range names {
				kn, err := Select(names[len(names)-1-i])
				if err != nil {
					b.Fatal(err)
				}
				b.Run(fmt.Sprintf("%s/m=%d/%s", format, m, kn.Tier), func(b *testing.B) {
					x, y := make([]float32, m*k), make([]float32, m*n)
					var bytes int
					var f func()
					switch format {
					case "f32":
						w := make([]float32, n*k)
						bytes = 4 * len(w)
						f = func() { kn.PanelF32(m, n, 0, k, x, k, w, LenF32(k), y, n) }
					case "bf16":
						w := make([]uint16, n*k)
						bytes = 2 * len(w)
						f = func() { kn.PanelBF16(m, n, 0, k, x, k, w, LenBF16(k), y, n) }
					case "f8":
						w, s := make([]uint8, n*k), make([]float32, n/N*LenScales(k))
						for i := range w { // like weights: a few subnormals
							w[i] = device.F8FromF32(float32(100 * r.NormFloat64()))
						}
						bytes = len(w) + 4*len(s)
						f = func() { kn.PanelF8(m, n, 0, k, x, k, w, LenF8(k), s, LenScales(k), y, n) }
					}
					for b.Loop() {
						f()
					}
					report(b, "GB/s", float64(bytes), &base)
				})
			}
		}
	}
}

// BenchmarkPack reports megabytes of source per second.
func BenchmarkPack(b *testing.B) {
	const k = 2048
	r := rand.New(rand.NewPCG(5, 6))
	p := weights{f32: make([]float32, LenF32(k)), bf16: make([]uint16, LenBF16(k)),
		f8: make([]uint8, LenF8(k)), scale: make([]float32, LenScales(k))}
	for _, c := range []struct {
		typ device.DType
		run func(w device.MatrixSource) error
	}{
		{device.F32, func(w device.MatrixSource) error { PackF32(p.f32, 0, w, 0, N); return nil }},
		{device.BF16, func(w device.MatrixSource) error { PackBF16(p.bf16, 0, w, 0, N); return nil }},
		{device.F8E4M3, func(w device.MatrixSource) error { return PackF8(p.f8, p.scale, 0, w, 0, N) }},
	} {
		b.Run(c.typ.String(), func(b *testing.B) {
			w, _ := source(r, c.typ, N, k)
			b.SetBytes(int64(len(w.Data)))
			for b.Loop() {
				if err := c.run(w); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
