package cpu

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"latent/device"
	"latent/device/cpu/kern"
)

// source makes a random weight of a stored type.
func source(rng *rand.Rand, typ device.DType, rows, cols int, scale func() float32) device.MatrixSource {
	w := device.MatrixSource{Name: "w." + typ.String(), Rows: rows, Cols: cols, Type: typ}
	for range rows * cols {
		v := float32(rng.NormFloat64())
		switch typ {
		case device.F32:
			w.Data = binary.LittleEndian.AppendUint32(w.Data, math.Float32bits(v))
		case device.BF16:
			w.Data = binary.LittleEndian.AppendUint16(w.Data, device.BF16FromF32(v))
		case device.F8E4M3:
			w.Data = append(w.Data, device.F8FromF32(v*100))
		}
	}
	if typ == device.F8E4M3 {
		for range blocks(rows) * blocks(cols) {
			w.Scales = append(w.Scales, scale())
		}
	}
	return w
}

// TestLoadRefusesDamage checks that unusable numbers name their matrix.
func TestLoadRefusesDamage(t *testing.T) {
	rng := newRand(t)
	d := newTestDevice(t, Options{Threads: 2})
	one := func() float32 { return 1 }
	bad := map[string]device.MatrixSource{}
	w := source(rng, device.F8E4M3, 40, 200, one)
	w.Data[39*200+150] = 0xff
	bad["row 39, column 150 is NaN"] = w
	w = source(rng, device.F8E4M3, 130, 130, one)
	w.Scales[3] = float32(math.Inf(1))
	bad["scale of block 3 is +Inf"] = w
	w = source(rng, device.F8E4M3, 130, 130, one)
	w.Scales = w.Scales[:3]
	bad["3 scales"] = w
	w = source(rng, device.BF16, 10, 10, one)
	w.Data = w.Data[:100]
	bad["100 bytes"] = w
	w = source(rng, device.F32, 10, 10, one)
	w.Type = device.I32
	bad["int32 is no type of a weight"] = w
	for what, w := range bad {
		_, err := d.LoadMatrix(device.F32, source(rng, device.F32, 3, w.Cols, one), w)
		if err == nil || !strings.Contains(err.Error(), w.Name) || !strings.Contains(err.Error(), what) {
			t.Errorf("LoadMatrix of a matrix where %s: %v", what, err)
		}
		_, err = d.LoadKVB(device.F32, 2, w.Rows/2-1, 1, w)
		if err == nil || !strings.Contains(err.Error(), w.Name) || !strings.Contains(err.Error(), what) {
			t.Errorf("LoadKVB of a matrix where %s: %v", what, err)
		}
	}
}

func TestFindNaN(t *testing.T) {
	rng := newRand(t)
	for n := range 40 {
		codes := make([]byte, n)
		for i := range codes {
			for codes[i] = 0x7f; codes[i]&0x7f == 0x7f; {
				codes[i] = byte(rng.Uint32())
			}
		}
		if i := findNaN(codes); i != -1 {
			t.Errorf("%x: NaN at %d", codes, i)
		}
		for i := range codes {
			old := codes[i]
			codes[i] |= 0x7f
			if got := findNaN(codes); got != i {
				t.Errorf("%x: NaN at %d, want %d", codes, got, i)
			}
			codes[i] = old
		}
	}
}

// TestPairs runs products in bf16 arithmetic with a plain stand-in for
// VDPBF16PS, which few machines have, against float64.
func TestPairs(t *testing.T) {
	rng := newRand(t)
	d := newTestDevice(t, Options{Threads: 2})
	k := *d.k
	k.GemmBF16 = func(m, n, pairs int, a []uint32, ars, aks int, w []uint16, ldw int, c []float32, ldc int) {
		for i := range m {
			for j := range n {
				for p := range pairs {
					x, v := a[i*ars+p*aks], w[j/kern.N*ldw+(p*kern.N+j%kern.N)*2:]
					c[i*ldc+j] += device.F32FromBF16(uint16(x))*device.F32FromBF16(v[0]) +
						device.F32FromBF16(uint16(x>>16))*device.F32FromBF16(v[1])
				}
			}
		}
	}
	d.k = &k
	for _, rows := range []int{1, 3, 50} {
		const in, out = 101, 75
		w := source(rng, device.BF16, out, in, nil)
		m, err := d.LoadMatrix(device.BF16, w)
		if err != nil {
			t.Fatal(err)
		}
		if f := m.(*matrix).form; f != formPair {
			t.Fatalf("form %d, want pairs", f)
		}
		src, dst := tensor(t, d, rows, in, normal(rng)), tensor(t, d, rows, out, normal(rng))
		d.Linear(dst, src, m, false)
		x, y := floats("test", "src", src), floats("test", "dst", dst)
		for r := range rows {
			for o := range out {
				var want, size float64
				for i := range in {
					p := float64(device.F32FromBF16(device.BF16FromF32(x[r*in+i]))) * float64(element(w, o, i))
					want, size = want+p, size+p*p
				}
				if got := float64(y[r*out+o]); math.Abs(got-want) > 1e-5*math.Sqrt(size) {
					t.Fatalf("%d rows: (%d, %d) is %v, want %v", rows, r, o, got, want)
				}
			}
		}
	}
}

// TestForms checks what each combination of stored types is packed as, and that
// products in float32 arithmetic lose nothing of the stored values.
func TestForms(t *testing.T) {
	rng := newRand(t)
	d := newTestDevice(t, Options{Threads: 2, Tier: "generic"})
	pow := func() float32 { return float32(math.Ldexp(1, rng.IntN(8)-4)) }
	any := func() float32 { return rng.Float32() }
	large := func() float32 { return 200 + rng.Float32() }
	const rows, cols = 40, 300
	f32, bf16 := source(rng, device.F32, rows, cols, nil), source(rng, device.BF16, rows, cols, nil)
	f8, f8pow, f8large := source(rng, device.F8E4M3, rows, cols, any), source(rng, device.F8E4M3, rows, cols, pow), source(rng, device.F8E4M3, rows, cols, large)
	for _, c := range []struct {
		arithmetic device.DType
		parts      []device.MatrixSource
		want       form
	}{
		{device.F32, []device.MatrixSource{f32}, formF32},
		{device.F32, []device.MatrixSource{bf16}, formBF16},
		{device.F32, []device.MatrixSource{bf16, f32}, formF32},
		{device.F32, []device.MatrixSource{f8}, formF8},
		{device.F32, []device.MatrixSource{f8, f8pow}, formF8},
		{device.F32, []device.MatrixSource{f8pow, bf16}, formBF16},
		{device.F32, []device.MatrixSource{f8, bf16}, formF32},
		{device.F32, []device.MatrixSource{f8large}, formF32},
		{device.BF16, []device.MatrixSource{f32}, formBF16},
		{device.BF16, []device.MatrixSource{f8, bf16}, formBF16},
		{device.BF16, []device.MatrixSource{f8}, formF8},
	} {
		m, err := d.LoadMatrix(c.arithmetic, c.parts...)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.(*matrix).form; got != c.want {
			t.Errorf("%v of %s, …: form %d, want %d", c.arithmetic, c.parts[0].Name, got, c.want)
		}
		if c.arithmetic == device.BF16 {
			continue
		}
		// A unit vector reads a column of the weight exactly.
		n := m.Rows()
		src, dst := tensor(t, d, 1, cols, func(int) float32 { return 0 }), tensor(t, d, 1, n, func(int) float32 { return 9 })
		k := rng.IntN(cols)
		floats("test", "src", src)[k] = 1
		d.Linear(dst, src, m, false)
		for i, got := range floats("test", "dst", dst) {
			if want := element(c.parts[i/rows], i%rows, k); got != want {
				t.Fatalf("%s, …: element (%d, %d) is %v, want %v", c.parts[0].Name, i, k, got, want)
			}
		}
	}
}

// element decodes one element of a weight.
func element(w device.MatrixSource, r, c int) float32 {
	i := r*w.Cols + c
	switch w.Type {
	case device.F32:
		return math.Float32frombits(binary.LittleEndian.Uint32(w.Data[4*i:]))
	case device.BF16:
		return device.F32FromBF16(binary.LittleEndian.Uint16(w.Data[2*i:]))
	}
	return device.F32FromF8(w.Data[i]) * w.Scales[r/128*blocks(w.Cols)+c/128]
}
