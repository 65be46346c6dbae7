package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"latent/device"
)

// rowsTest makes tensors for tests of operations by row.
type rowsTest struct {
	testing.TB
	dev *Device
	rng *rand.Rand
}

func newRowsTest(t testing.TB) *rowsTest {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return &rowsTest{t, newTestDevice(t), rand.New(rand.NewPCG(seed, 0))}
}

func (t *rowsTest) alloc(typ device.DType, rows, cols int) device.Tensor {
	t.Helper()
	v := device.Tensor{Type: typ, Rows: rows, Cols: cols}
	mem, err := t.dev.Alloc(v.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mem.Free)
	v.Mem = mem
	return v
}

// put makes a tensor with the values, which it rounds in place.
func (t *rowsTest) put(typ device.DType, cols int, values []float32) device.Tensor {
	t.Helper()
	var data []byte
	for i, x := range values {
		if typ == device.BF16 {
			h := device.BF16FromF32(x)
			values[i] = device.F32FromBF16(h)
			data = binary.LittleEndian.AppendUint16(data, h)
		} else {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
		}
	}
	v := t.alloc(typ, len(values)/cols, cols)
	t.dev.Upload(v, data)
	return v
}

func (t *rowsTest) get(v device.Tensor) []float32 {
	t.Helper()
	data := make([]byte, v.Bytes())
	if err := t.dev.Download(data, v); err != nil {
		t.Fatal(err)
	}
	values := make([]float32, v.Rows*v.Cols)
	for i := range values {
		switch v.Type {
		case device.BF16:
			values[i] = device.F32FromBF16(binary.LittleEndian.Uint16(data[2*i:]))
		case device.F32:
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		case device.I32:
			values[i] = float32(int32(binary.LittleEndian.Uint32(data[4*i:])))
		}
	}
	return values
}

func (t *rowsTest) normal(n int, sigma float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(t.rng.NormFloat64() * sigma)
	}
	return v
}

// near wants every value within a rounding to bfloat16, and a little, of want.
func (t *rowsTest) near(what string, got []float32, want []float64) {
	t.Helper()
	for i, w := range want {
		if !(math.Abs(float64(got[i])-w) <= math.Abs(w)*0x1.02p-8+1e-20) {
			t.Errorf("%s: element %d is %g, want %g", what, i, got[i], w)
			return
		}
	}
}

// TestRMSNormSizes takes widths of models and widths at the limits of the
// kernels: registers of one warp, of a block, and what exceeds them.
func TestRMSNormSizes(t *testing.T) {
	rt := newRowsTest(t)
	for _, cols := range []int{8, 512, 520, 1536, 4096, 6144, 7168, 16384, 16392, 24576, 7001} {
		for _, rows := range []int{1, 2, 7, 33} {
			x, w := rt.normal(rows*cols, 3), rt.normal(cols, 1)
			src, weight := rt.put(device.BF16, cols, x), rt.put(device.F32, cols, w)
			rt.dev.RMSNorm(src, src, weight, 1e-6)
			want := make([]float64, len(x))
			for r := range rows {
				sum := 0.0
				for _, v := range x[r*cols:][:cols] {
					sum += float64(v) * float64(v)
				}
				for i := range cols {
					want[r*cols+i] = float64(x[r*cols+i]) * float64(w[i]) / math.Sqrt(sum/float64(cols)+1e-6)
				}
			}
			rt.near(fmt.Sprintf("RMSNorm [%d, %d]", rows, cols), rt.get(src), want)
		}
	}
}

func TestSwiGLUSizes(t *testing.T) {
	rt := newRowsTest(t)
	for _, cols := range []int{8, 1000, 1408, 2048, 18432, 2049} {
		const rows = 5
		x := rt.normal(rows*2*cols, 2)
		src, dst := rt.put(device.BF16, 2*cols, x), rt.alloc(device.BF16, rows, cols)
		rt.dev.SwiGLU(dst, src)
		var want []float64
		for r := range rows {
			for i := range cols {
				g, u := float64(x[2*r*cols+i]), float64(x[(2*r+1)*cols+i])
				want = append(want, g/(1+math.Exp(-g))*u)
			}
		}
		rt.near(fmt.Sprintf("SwiGLU [%d, %d]", rows, cols), rt.get(dst), want)
	}
}

// TestRoutePlain routes without groups over up to 512 experts, with equal and NaN
// logits among them.
func TestRoutePlain(t *testing.T) {
	rt := newRowsTest(t)
	nan := float32(math.NaN())
	for _, experts := range []int{1, 31, 32, 33, 160, 256, 512} {
		for _, choose := range []int{1, min(8, experts), min(40, experts)} {
			const rows = 9
			x := rt.normal(rows*experts, 1)
			for i := range x {
				switch rt.rng.IntN(8) {
				case 0:
					x[i] = 0.5
				case 1:
					x[i] = nan
				}
			}
			logits := rt.put(device.F32, experts, x)
			ids, weights := rt.alloc(device.I32, rows, choose), rt.alloc(device.F32, rows, choose)
			rt.dev.Route(ids, weights, logits, device.Tensor{}, device.Router{Groups: 1, KeepGroups: 1, Choose: choose, Scale: 1})
			gotIDs, got := rt.get(ids), rt.get(weights)
			for r := range rows {
				row := x[r*experts:][:experts]
				order := make([]int, experts)
				for i := range order {
					order[i] = i
				}
				slices.SortStableFunc(order, func(a, b int) int {
					switch u, v := row[a], row[b]; {
					case u > v || u == u && v != v:
						return -1
					case u < v || u != u && v == v:
						return 1
					}
					return 0
				})
				for j := range choose {
					want := float32(1 / (1 + math.Exp(-float64(row[order[j]]))))
					g := got[r*choose+j]
					same := math.Abs(float64(g-want)) <= 1e-7 || g != g && want != want
					if int(gotIDs[r*choose+j]) != order[j] || !same {
						t.Fatalf("%d of %d experts: row %d choice %d is expert %g with %g, want %d with %g",
							choose, experts, r, j, gotIDs[r*choose+j], g, order[j], want)
					}
				}
			}
		}
	}
}

// TestRefusals: what this backend does not have is an error where a model is
// loaded.
func TestRefusals(t *testing.T) {
	d := newTestDevice(t)
	if c, err := d.NewCache(device.CacheSpec{Format: device.CacheF32, Pages: 1, Layers: 1, Latent: 8}); err == nil {
		c.Free()
		t.Error("a float32 cache was made")
	}
}
