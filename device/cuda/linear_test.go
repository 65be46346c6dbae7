package cuda

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"latent/device"
)

// encodeBF16 returns values as stored, and what they are after rounding.
func encodeBF16(v []float64) (data []byte, rounded []float64) {
	for _, x := range v {
		h := device.BF16FromF32(float32(x))
		data = binary.LittleEndian.AppendUint16(data, h)
		rounded = append(rounded, float64(device.F32FromBF16(h)))
	}
	return data, rounded
}

func normals(rng *rand.Rand, n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = rng.NormFloat64()
	}
	return v
}

// newTensor allocates a tensor, filled with data if there is any.
func newTensor(t testing.TB, d *Device, typ device.DType, rows, cols int, data []byte) device.Tensor {
	t.Helper()
	x := device.Tensor{Type: typ, Rows: rows, Cols: cols}
	mem, err := d.Alloc(x.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	x.Mem = mem
	t.Cleanup(mem.Free)
	if data != nil {
		d.Upload(x, data)
	}
	return x
}

// readTensor returns a tensor's values.
func readTensor(t testing.TB, d *Device, x device.Tensor) []float64 {
	t.Helper()
	b := make([]byte, x.Bytes())
	if err := d.Download(b, x); err != nil {
		t.Fatal(err)
	}
	v := make([]float64, x.Rows*x.Cols)
	for i := range v {
		if x.Type == device.F32 {
			v[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
		} else {
			v[i] = float64(device.F32FromBF16(binary.LittleEndian.Uint16(b[2*i:])))
		}
	}
	return v
}

// randomWeight draws a weight; FP8 ones have codes of all magnitudes, subnormal
// ones among them, and scales that are no powers of two.
func randomWeight(rng *rand.Rand, typ device.DType, rows, cols int) device.MatrixSource {
	w := device.MatrixSource{Name: "w", Rows: rows, Cols: cols, Type: typ}
	for range rows * cols {
		switch v := float32(rng.NormFloat64()); typ {
		case device.F8E4M3:
			w.Data = append(w.Data, byte(rng.IntN(127)|rng.IntN(2)<<7))
		case device.F32:
			w.Data = binary.LittleEndian.AppendUint32(w.Data, math.Float32bits(v))
		default:
			w.Data = binary.LittleEndian.AppendUint16(w.Data, device.BF16FromF32(v))
		}
	}
	if typ == device.F8E4M3 {
		for range divUp(rows, 128) * divUp(cols, 128) {
			w.Scales = append(w.Scales, float32(math.Exp2(rng.Float64()*8-10)))
		}
	}
	return w
}

// mismatch collects the places where a result is wrong, and where they lie.
type mismatch struct {
	checked, wrong int
	worst          float64 // |got - want| / allowed
	first          string
	byRow          map[int]int
	squares, total float64
}

func (m *mismatch) see(row, col int, got, want, allowed float64) {
	m.checked++
	m.squares += (got - want) * (got - want)
	m.total += want * want
	if r := math.Abs(got-want) / allowed; !(r <= 1) {
		if m.byRow == nil {
			m.byRow = map[int]int{}
			m.first = fmt.Sprintf("row %d, column %d: got %g, want %g within %g", row, col, got, want, allowed)
		}
		m.byRow[row]++
		m.wrong++
		m.worst = max(m.worst, r)
	}
}

func (m *mismatch) report(t *testing.T, what string) {
	t.Helper()
	if m.wrong > 0 {
		t.Errorf("%s: %d of %d values wrong (worst %.1f times what is allowed, relative error %.2e); first %s; by row %v",
			what, m.wrong, m.checked, m.worst, math.Sqrt(m.squares/m.total), m.first, m.byRow)
		return
	}
	t.Logf("%s: relative error %.2e", what, math.Sqrt(m.squares/m.total))
}

// TestLinearF8 compares FP8 products with float64 ones at places drawn at
// random: all numbers of rows that take another way, sums, both outputs, stacked
// parts. The device rounds its input to e4m3, and so does the reference.
func TestLinearF8(t *testing.T) {
	d := newTestDevice(t)
	if !d.products.blockScales {
		t.Skip("this cuBLASLt has no block scales")
	}
	rng := rand.New(rand.NewPCG(11, 12))
	for _, x := range []struct {
		parts []int // outputs
		cols  int
	}{
		{[]int{24}, 128}, {[]int{128}, 7168}, {[]int{576}, 7168}, {[]int{1536}, 7168}, {[]int{2112}, 1536}, {[]int{128, 256, 48}, 384},
		{[]int{144}, 640}, {[]int{7168}, 2048}, {[]int{24576}, 1536},
	} {
		var sources []device.MatrixSource
		outputs := 0
		for _, rows := range x.parts {
			sources = append(sources, randomWeight(rng, device.F8E4M3, rows, x.cols))
			outputs += rows
		}
		w, err := d.LoadMatrix(device.BF16, sources...)
		if err != nil {
			t.Fatal(err)
		}
		if w.(*matrix).limbs != 0 {
			t.Errorf("outputs %v of %d columns: FP8 codes were not kept", x.parts, x.cols)
		}
		for _, rows := range []int{1, 3, 8, 9, 16, 17, 32, 33, 64, 65, 68, 131, 256} {
			for _, typ := range []device.DType{device.BF16, device.F32} {
				add := rng.IntN(2) == 1
				checkLinearF8(t, d, rng, w.(*matrix), sources, rows, typ, add)
			}
		}
	}
}

func checkLinearF8(t *testing.T, d *Device, rng *rand.Rand, w *matrix, sources []device.MatrixSource, rows int, typ device.DType, add bool) {
	data, in := encodeBF16(normals(rng, rows*w.in))
	src := newTensor(t, d, device.BF16, rows, w.in, data)
	all := newTensor(t, d, typ, rows+1, w.out, nil) // with a row that must stay
	d.exec.Fill(ptr(all), 0x41, all.Bytes())
	before := readTensor(t, d, all)[0]
	d.Linear(all.Slice(0, rows), src, w, add)
	got := readTensor(t, d, all)

	var m mismatch
	for range 300 {
		r, o := rng.IntN(rows), rng.IntN(w.out)
		x := roundBlocks(in[r*w.in : (r+1)*w.in])
		part, row := 0, o
		for row >= sources[part].Rows {
			row -= sources[part].Rows
			part++
		}
		want, magnitude := dotRow(&sources[part], row, x), 0.0
		for b := range w.in / 128 {
			s := float64(sources[part].Scales[row/128*(w.in/128)+b])
			for c := range 128 {
				v := x[128*b+c] * s * float64(device.F32FromF8(sources[part].Data[row*w.in+128*b+c]))
				magnitude += v * v
			}
		}
		// Tensor cores add FP8 products with 13 fractional bits or so.
		allowed := math.Sqrt(magnitude) / 300
		if typ == device.BF16 {
			allowed += math.Abs(want) / 256
		}
		if add {
			want += before
			if typ == device.BF16 { // cuBLASLt may round before it adds
				allowed += math.Abs(want) / 256
			}
		}
		m.see(r, o, got[r*w.out+o], want, allowed)
	}
	for o := range w.out {
		m.see(rows, o, got[rows*w.out+o], before, 1e-30)
	}
	m.report(t, fmt.Sprintf("%d rows of [%d, %d] to %v, add %v", rows, w.out, w.in, typ, add))
}

// TestLinearExact multiplies weights that may not be rounded to bf16.
func TestLinearExact(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(15, 16))
	for _, rows := range []int{1, 7, 200} {
		w := randomWeight(rng, device.F32, 256, 1024)
		m, err := d.LoadMatrix(device.F32, w)
		if err != nil {
			t.Fatal(err)
		}
		data, in := encodeBF16(normals(rng, rows*1024))
		src, dst := newTensor(t, d, device.BF16, rows, 1024, data), newTensor(t, d, device.F32, rows, 256, nil)
		d.Linear(dst, src, m, false)
		got := readTensor(t, d, dst)
		var wrong mismatch
		for range 500 {
			r, o := rng.IntN(rows), rng.IntN(256)
			want := 0.0
			for c := range 1024 {
				want += in[r*1024+c] * float64(math.Float32frombits(binary.LittleEndian.Uint32(w.Data[4*(o*1024+c):])))
			}
			wrong.see(r, o, got[r*256+o], want, 32*1e-5) // terms of about 1, of which there are 32²
		}
		wrong.report(t, fmt.Sprintf("%d rows", rows))
	}
}

// TestLoadMatrixDamaged wants messages for weights that cannot be right.
func TestLoadMatrixDamaged(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(17, 18))
	for _, cols := range []int{100, 256} { // converted, and kept as it is
		w := randomWeight(rng, device.F8E4M3, 128, cols)
		w.Data[3*cols+5] = 0xff
		_, err := d.LoadMatrix(device.BF16, w)
		if want := "cuda: load w: the weight at row 3, column 5 is NaN; is the checkpoint damaged?"; err == nil || err.Error() != want {
			t.Errorf("a NaN among the codes: %v", err)
		}
	}
	w := randomWeight(rng, device.F8E4M3, 128, 256)
	w.Scales[1] = float32(math.NaN())
	if _, err := d.LoadMatrix(device.BF16, w); err == nil {
		t.Error("a scale that is NaN loads")
	}
}

// TestFitsF8 says which FP8 weights keep their codes.
func TestFitsF8(t *testing.T) {
	part := func(typ device.DType, rows, cols int) device.MatrixSource {
		return device.MatrixSource{Type: typ, Rows: rows, Cols: cols}
	}
	for _, x := range []struct {
		want  bool
		parts []device.MatrixSource
	}{
		{true, []device.MatrixSource{part(device.F8E4M3, 576, 7168)}},
		{true, []device.MatrixSource{part(device.F8E4M3, 2048, 7168), part(device.F8E4M3, 2048, 7168)}},
		{true, []device.MatrixSource{part(device.F8E4M3, 1536, 128), part(device.F8E4M3, 576, 128)}},
		{false, []device.MatrixSource{part(device.F8E4M3, 576, 128), part(device.F8E4M3, 1536, 128)}}, // blocks straddle
		{false, []device.MatrixSource{part(device.F8E4M3, 128, 192)}},
		{false, []device.MatrixSource{part(device.F8E4M3, 132, 128)}},
		{false, []device.MatrixSource{part(device.F8E4M3, 128, 128), part(device.BF16, 128, 128)}},
	} {
		if got := fitsF8(x.parts); got != x.want {
			t.Errorf("%v: %v", x.parts, got)
		}
	}
}

// TestPlansForgotten runs more shapes than are remembered.
func TestPlansForgotten(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(29, 30))
	w, err := d.LoadMatrix(device.BF16, randomWeight(rng, device.BF16, 8, 8))
	if err != nil {
		t.Fatal(err)
	}
	const rows = maxPlans + 100
	data, _ := encodeBF16(normals(rng, rows*8))
	src, dst := newTensor(t, d, device.BF16, rows, 8, data), newTensor(t, d, device.F32, rows, 8, nil)
	d.Linear(dst.Slice(0, 1), src.Slice(0, 1), w, false)
	first := readTensor(t, d, dst.Slice(0, 1))
	for n := 1; n <= rows; n++ {
		d.Linear(dst.Slice(0, n), src.Slice(0, n), w, false)
	}
	d.Linear(dst.Slice(0, 1), src.Slice(0, 1), w, false)
	if got := readTensor(t, d, dst.Slice(0, 1)); !slices.Equal(got, first) {
		t.Errorf("a product whose plan was forgotten gives %v, at first %v", got, first)
	}
	if err := d.exec.Do(func() error {
		if n := d.products.recent.Len(); n != maxPlans || len(d.products.plans) != n {
			return fmt.Errorf("%d plans in the list and %d in the map, want %d", n, len(d.products.plans), maxPlans)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// gpuTime returns the microseconds that one of calls repetitions takes on the
// device, in a captured graph, after everything has run once.
func gpuTime(t testing.TB, d *Device, calls int, f func(i int)) float64 {
	t.Helper()
	for i := range calls {
		f(i)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	g, err := d.exec.Capture(func() error {
		for i := range calls {
			f(i)
		}
		return d.err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Free()
	w := d.NewStopwatch()
	var laps []time.Duration
	for range 4 {
		w.Reset()
		w.Mark()
		g.Launch()
		w.Mark()
		laps = w.Laps(laps)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	laps = laps[1:]
	slices.Sort(laps)
	return laps[len(laps)/2].Seconds() * 1e6 / float64(calls)
}

// peak rates of an H200, measured (KERNELS: C16, C8, HBM read-mostly).
const (
	peakBF16  = 800e12
	peakF8    = 1590e12
	peakBytes = 4.46e12
)

// BenchmarkLinear times layers of DeepSeek-V3.2. Weights rotate, so that they
// come from memory. anchor is the best other library's time for the FP8 product
// alone; the time here includes rounding the input. Run it with -benchtime=1x.
func BenchmarkLinear(b *testing.B) {
	d := newTestDevice(b)
	rng := rand.New(rand.NewPCG(19, 20))
	pool, wide := newExpertPool(rng, device.F8E4M3, 1<<20), newExpertPool(rng, device.BF16, 1<<20)
	pool.data, wide.data = bytes.Repeat(pool.data, 300), bytes.Repeat(wide.data, 140)
	for _, x := range []struct {
		name          string
		outputs, cols int
		anchors       map[int]float64 // µs by rows
	}{
		{"q_b", 24576, 1536, map[int]float64{4096: 232, 128: 18}},
		{"o", 7168, 16384, map[int]float64{4096: 648, 128: 54.3}},
		{"q_a+kv_a", 2112, 7168, map[int]float64{4096: 95.3}},
		{"q_a", 1536, 7168, nil},
		{"kv_a", 576, 7168, nil},
		{"index key", 128, 7168, nil},
		{"gate+up", 4096, 7168, map[int]float64{4096: 167, 64: 14.3}},
		{"down", 7168, 2048, map[int]float64{4096: 92.2}},
		{"dense gate+up", 36864, 7168, map[int]float64{4096: 1515}},
		{"dense down", 7168, 18432, map[int]float64{4096: 787}},
	} {
		for _, typ := range []device.DType{device.F8E4M3, device.BF16} {
			size := x.outputs * x.cols * typ.Size()
			copies := max(1, min(16, divUp(160<<20, size)))
			if typ == device.BF16 && size > 270<<20 {
				continue
			}
			weights := make([]device.Matrix, copies)
			for i := range weights {
				from := pool
				if typ == device.BF16 {
					from = wide
				}
				var err error
				if weights[i], err = d.LoadMatrix(device.BF16, from.matrix(x.outputs, x.cols)); err != nil {
					b.Fatal(err)
				}
			}
			for _, rows := range []int{1, 8, 16, 32, 64, 128, 512, 2048, 4094, 4096} {
				if typ == device.BF16 && rows != 1 && rows != 4096 {
					continue
				}
				b.Run(fmt.Sprintf("%s/%v/%d", x.name, typ, rows), func(b *testing.B) {
					benchmarkLinear(b, d, rng, weights, rows, x.anchors[rows])
				})
			}
			for _, w := range weights {
				w.(*matrix).mem.Free()
			}
		}
	}
}

func benchmarkLinear(b *testing.B, d *Device, rng *rand.Rand, weights []device.Matrix, rows int, anchor float64) {
	w := weights[0].(*matrix)
	data, _ := encodeBF16(normals(rng, min(rows, 16)*w.in))
	few := newTensor(b, d, device.BF16, min(rows, 16), w.in, data)
	src := repeatRows(b, d, few, rows)
	defer src.Mem.Free()
	dst := newTensor(b, d, device.BF16, rows, w.out, nil)
	calls := len(weights) * max(1, 8/len(weights))
	us := gpuTime(b, d, calls, func(i int) { d.Linear(dst, src, weights[i%len(weights)], false) })
	flop, peak, bytes := 2*float64(rows)*float64(w.out)*float64(w.in), peakBF16, 2*float64(w.out*w.in)
	if w.limbs == 0 {
		peak, bytes = peakF8, bytes/2
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(us, "us")
	b.ReportMetric(flop/us/1e6, "TFLOP/s")
	b.ReportMetric(bytes/us/1e6, "TB/s")
	b.ReportMetric(max(flop/peak, bytes/peakBytes)*1e6/us, "of-floor")
	if anchor > 0 && w.limbs == 0 {
		b.ReportMetric(us/anchor, "anchors")
	}
	if w.limbs > 0 {
		return
	}
	// Its parts, and the other way to multiply few rows.
	part := func(name string, f func(w *matrix)) {
		b.ReportMetric(gpuTime(b, d, calls, func(i int) { f(weights[i%len(weights)].(*matrix)) }), name+"-us")
	}
	part("quantize", func(*matrix) { d.quantize(src, rows) })
	if rows <= 128 {
		part("small", func(w *matrix) { d.linearSmall(dst, src, w, false) })
	}
	if rows <= 128 && rows%4 == 0 {
		part("cublaslt", func(w *matrix) { d.linearBlocks(dst, src, w, false) })
	}
}

// BenchmarkLinearQueue measures what a product costs the host: calls, and the
// executor behind them, for products that take the device less.
func BenchmarkLinearQueue(b *testing.B) {
	d := newTestDevice(b)
	rng := rand.New(rand.NewPCG(27, 28))
	for _, typ := range []device.DType{device.BF16, device.F8E4M3} {
		for _, rows := range []int{4, 128} {
			b.Run(fmt.Sprintf("%v/%d", typ, rows), func(b *testing.B) {
				w, err := d.LoadMatrix(device.BF16, randomWeight(rng, typ, 128, 256))
				if err != nil {
					b.Fatal(err)
				}
				data, _ := encodeBF16(normals(rng, rows*256))
				src, dst := newTensor(b, d, device.BF16, rows, 256, data), newTensor(b, d, device.BF16, rows, 128, nil)
				d.Linear(dst, src, w, false)
				if err := d.Sync(); err != nil { // the library loads its kernels when they are first used
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					d.Linear(dst, src, w, false)
				}
				if err := d.Sync(); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// BenchmarkHead times the product of the vocabulary's head, bf16 to float32
// logits, for as many rows as sequences in a decode step.
func BenchmarkHead(b *testing.B) {
	d := newTestDevice(b)
	const outputs, cols = 129280, 7168
	rng := rand.New(rand.NewPCG(21, 22))
	pool := newExpertPool(rng, device.BF16, 1<<20).data
	data := bytes.Repeat(pool, divUp(2*outputs*cols, len(pool)))[:2*outputs*cols]
	w, err := d.LoadMatrix(device.BF16, device.MatrixSource{Name: "head", Rows: outputs, Cols: cols, Type: device.BF16, Data: data})
	if err != nil {
		b.Fatal(err)
	}
	for _, rows := range []int{1, 2, 4, 8, 16, 32, 64, 128} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			src := newTensor(b, d, device.BF16, rows, cols, nil)
			d.Upload(src, data[:src.Bytes()])
			dst := newTensor(b, d, device.F32, rows, outputs, nil)
			watch := d.NewStopwatch()
			for range 3 {
				d.Linear(dst, src, w, false)
			}
			watch.Mark()
			for range 10 {
				d.Linear(dst, src, w, false)
				watch.Mark()
			}
			laps := watch.Laps(nil)
			if err := d.Sync(); err != nil {
				b.Fatal(err)
			}
			slices.Sort(laps)
			us := float64(laps[len(laps)/2].Nanoseconds()) / 1e3
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(us, "us")
			b.ReportMetric(2*outputs*cols/us/1e6, "TB/s")
		})
	}
}
