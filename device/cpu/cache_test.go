package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"latent/device"
)

// newTestDevice returns a device that is closed with the test.
func newTestDevice(t testing.TB, opts Options) *Device {
	t.Helper()
	d, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// newRand returns random numbers and logs their seed.
func newRand(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// tensor makes an F32 tensor.
func tensor(t testing.TB, d *Device, rows, cols int, values func(i int) float32) device.Tensor {
	t.Helper()
	m, err := d.Alloc(4 * int64(rows) * int64(cols))
	if err != nil {
		t.Fatal(err)
	}
	x := device.Tensor{Type: device.F32, Rows: rows, Cols: cols, Mem: m}
	f := floats("test", "x", x)
	for i := range f {
		f[i] = values(i)
	}
	return x
}

func normal(rng *rand.Rand) func(int) float32 {
	return func(int) float32 { return float32(rng.NormFloat64()) }
}

// identity returns a rope table that rotates nothing.
func identity(t testing.TB, d *Device, positions, dr int) device.Rope {
	return device.Rope{
		Cos: tensor(t, d, positions, dr/2, func(int) float32 { return 1 }),
		Sin: tensor(t, d, positions, dr/2, func(int) float32 { return 0 }),
	}
}

// TestLatentRecordF8 checks the 656 bytes of an fp8 record against
// the reference layout: codes, power-of-two scales, bf16 rope key.
func TestLatentRecordF8(t *testing.T) {
	rng := newRand(t)
	d := newTestDevice(t, Options{Threads: 1})
	const r, dr = 512, 64
	ca, err := d.NewCache(device.CacheSpec{Format: device.CacheF8, Pages: 2, Layers: 2, Latent: r, Rope: dr})
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(2 * 64 * 2 * 656); ca.Bytes() != want {
		t.Errorf("the cache takes %d bytes, want %d", ca.Bytes(), want)
	}
	step := &device.Step{Tokens: []int32{0}, Positions: []int32{3}, Slots: []int32{70}, Seqs: []device.Seq{{Rows: 1, Prefix: 3, Pages: []int32{1}}}}
	d.Begin(step)
	// The row has norm 1, so normalising multiplies by √512, up to eps; the
	// weight takes that back and gives blocks largest values of 448, 1.75, 0.875
	// and 0.
	x := tensor(t, d, 1, r+dr, normal(rng))
	row := floats("test", "x", x)
	var squares float64
	for i := range r {
		row[i] = float32(1 / math.Sqrt(r) * (1 - 2*float64(rng.IntN(2))))
		squares += float64(row[i]) * float64(row[i])
	}
	want := make([]float64, r)
	factors := []float64{448, 1.75, 0.875, 0}
	w := tensor(t, d, 1, r, func(i int) float32 {
		f := factors[i/128]
		if i%128 != 17 {
			f *= rng.Float64() * 0.9
		}
		return float32(f)
	})
	wf := floats("test", "w", w)
	for i := range want {
		want[i] = float64(wf[i]) * float64(row[i]) / math.Sqrt(squares/r)
	}
	d.StoreLatent(ca, 1, x, w, 0, identity(t, d, 8, dr))
	c := ca.(*cache)
	rec := c.latent[1][70*656:][:656]
	for b, exp := range []int{0, -8, -9, -22} {
		scale := math.Float32frombits(binary.LittleEndian.Uint32(rec[512+4*b:]))
		if scale != float32(math.Ldexp(1, exp)) {
			t.Errorf("block %d: scale %v, want 2^%d", b, scale, exp)
		}
		for i := b * 128; i < (b+1)*128; i++ {
			got := float64(device.F32FromF8(rec[i])) * float64(scale)
			// Half a unit of the last of four bits, and the slack of float32.
			if diff := math.Abs(got - want[i]); diff > math.Abs(want[i])/16*1.001+float64(scale)*math.Ldexp(1, -10) {
				t.Fatalf("element %d is %v, want %v", i, got, want[i])
			}
		}
	}
	for i := range dr {
		if got, want := binary.LittleEndian.Uint16(rec[528+2*i:]), device.BF16FromF32(row[r+i]); got != want {
			t.Errorf("rope element %d is %#04x, want %#04x", i, got, want)
		}
	}
}

// TestHadamard checks a vector worked by hand and the definition.
func TestHadamard(t *testing.T) {
	x := []float32{1, 2, 3, 4}
	hadamard(x)
	if fmt.Sprint(x) != "[5 -1 -2 0]" {
		t.Errorf("H·[1 2 3 4]/2 = %v, want [5 -1 -2 0]", x)
	}
	rng := newRand(t)
	for _, n := range []int{1, 2, 64, 128} {
		x, want := make([]float32, n), make([]float64, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		for i := range want {
			for j, v := range x {
				sign := 1.0
				for b := i & j; b != 0; b &= b - 1 {
					sign = -sign
				}
				want[i] += sign * float64(v) / math.Sqrt(float64(n))
			}
		}
		hadamard(x)
		for i := range x {
			if math.Abs(float64(x[i])-want[i]) > 1e-5 {
				t.Fatalf("n=%d: element %d is %v, want %v", n, i, x[i], want[i])
			}
		}
	}
	odd := []float32{1, 2, 3}
	hadamard(odd)
	if fmt.Sprint(odd) != "[1 2 3]" {
		t.Errorf("a vector of 3 became %v", odd)
	}
}
