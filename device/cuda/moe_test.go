package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"latent/device"
)

// expertPool cuts random weights out of one supply: normal values of about
// 1/sqrt(cols).
type expertPool struct {
	rng  *rand.Rand
	typ  device.DType
	data []byte
}

func newExpertPool(rng *rand.Rand, typ device.DType, weights int) *expertPool {
	p := &expertPool{rng: rng, typ: typ}
	for range weights {
		v := float32(rng.NormFloat64())
		if typ == device.F8E4M3 {
			p.data = append(p.data, device.F8FromF32(100*v))
		} else {
			p.data = binary.LittleEndian.AppendUint16(p.data, device.BF16FromF32(v/64))
		}
	}
	return p
}

func (p *expertPool) matrix(rows, cols int) device.MatrixSource {
	m := device.MatrixSource{Name: "w", Rows: rows, Cols: cols, Type: p.typ}
	n, size := rows*cols, p.typ.Size()
	at := p.rng.IntN(len(p.data)/size-n+1) * size
	m.Data = p.data[at : at+n*size]
	if p.typ == device.F8E4M3 {
		for range divUp(rows, 128) * divUp(cols, 128) {
			m.Scales = append(m.Scales, float32((0.5+p.rng.Float64())/100/math.Sqrt(float64(cols))))
		}
	}
	return m
}

func (p *expertPool) experts(count, hidden, inner int) []device.ExpertSource {
	sources := make([]device.ExpertSource, count)
	for i := range sources {
		sources[i] = device.ExpertSource{Gate: p.matrix(inner, hidden), Up: p.matrix(inner, hidden), Down: p.matrix(hidden, inner)}
	}
	return sources
}

// dotRow multiplies row r of w with x.
func dotRow(w *device.MatrixSource, r int, x []float64) float64 {
	sum := 0.0
	if w.Type == device.F8E4M3 {
		codes, scales := w.Data[r*w.Cols:(r+1)*w.Cols], w.Scales[r/128*divUp(w.Cols, 128):]
		for b := 0; b < w.Cols; b += 128 {
			part := 0.0
			for c := b; c < min(b+128, w.Cols); c++ {
				part += float64(device.F32FromF8(codes[c])) * x[c]
			}
			sum += part * float64(scales[b/128])
		}
		return sum
	}
	row := w.Data[2*r*w.Cols:]
	for c, v := range x {
		sum += float64(device.F32FromBF16(binary.LittleEndian.Uint16(row[2*c:]))) * v
	}
	return sum
}

func roundToBF16(v float64) float64 {
	return float64(device.F32FromBF16(device.BF16FromF32(float32(v))))
}

// roundBlocks rounds x to e4m3 in blocks of 128 with power-of-two scales.
func roundBlocks(x []float64) []float64 {
	out := make([]float64, len(x))
	for b := 0; b < len(x); b += 128 {
		block := x[b:min(b+128, len(x))]
		most := 0.0
		for _, v := range block {
			most = max(most, math.Abs(v))
		}
		scale := device.QuantScale(float32(most))
		for i, v := range block {
			out[b+i] = float64(device.F32FromF8(device.F8FromF32(float32(v)/scale)) * scale)
		}
	}
	return out
}

// applyExpert computes Down(silu(Gate·x)·(Up·x)), rounding where the device does.
func applyExpert(s *device.ExpertSource, x []float64, rounded bool) []float64 {
	if rounded {
		x = roundBlocks(x)
	}
	h := make([]float64, s.Gate.Rows)
	for i := range h {
		g, u := dotRow(&s.Gate, i, x), dotRow(&s.Up, i, x)
		h[i] = roundToBF16(g / (1 + math.Exp(-g)) * u)
	}
	if rounded {
		h = roundBlocks(h)
	}
	y := make([]float64, s.Down.Rows)
	for i := range y {
		y[i] = roundToBF16(dotRow(&s.Down, i, h))
	}
	return y
}

// moeData is the arguments of a call, on both sides.
type moeData struct {
	rows, choose, hidden int
	src, before          []float64
	ids                  []int32
	weights              []float32
	mem                  [4]device.Memory
	dst, in, chosen, by  device.Tensor
}

func newMoEData(t testing.TB, d *Device, rng *rand.Rand, rows, choose, hidden int, pick func(row, j int) (expert int, weight float32)) *moeData {
	m := &moeData{rows: rows, choose: choose, hidden: hidden}
	var in, out, ids, weights []byte
	for range rows * hidden {
		v, w := roundToBF16(rng.NormFloat64()), roundToBF16(0.01*rng.NormFloat64())
		m.src, m.before = append(m.src, v), append(m.before, w)
		in = binary.LittleEndian.AppendUint16(in, device.BF16FromF32(float32(v)))
		out = binary.LittleEndian.AppendUint16(out, device.BF16FromF32(float32(w)))
	}
	for r := range rows {
		for j := range choose {
			e, w := pick(r, j)
			m.ids, m.weights = append(m.ids, int32(e)), append(m.weights, w)
			ids = binary.LittleEndian.AppendUint32(ids, uint32(e))
			weights = binary.LittleEndian.AppendUint32(weights, math.Float32bits(w))
		}
	}
	upload := func(i int, typ device.DType, cols int, data []byte) device.Tensor {
		mem, err := d.Alloc(int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		m.mem[i] = mem
		tensor := device.Tensor{Type: typ, Rows: rows, Cols: cols, Mem: mem}
		d.Upload(tensor, data)
		return tensor
	}
	m.in, m.dst = upload(0, device.BF16, hidden, in), upload(1, device.BF16, hidden, out)
	m.chosen, m.by = upload(2, device.I32, choose, ids), upload(3, device.F32, choose, weights)
	return m
}

func (m *moeData) free() {
	for _, mem := range m.mem {
		mem.Free()
	}
}

// moeLimits bound errors relative to the result, as root mean squares: over the
// rows looked at, and over one of them. The result is rounded to bf16. With e4m3,
// a value in the middle of two codes may get either, and a block whose largest
// value lies at a power of two times 448 either of two scales: in a small layer
// that is much of a row.
func moeLimits(rounded bool) (all, row float64) {
	if rounded {
		return 2e-2, 0.1
	}
	return 6e-3, 1e-2
}

// check compares rows of dst with the definition.
func (m *moeData) check(t *testing.T, d *Device, what string, sources []device.ExpertSource, rounded bool, rows []int) {
	t.Helper()
	data := make([]byte, m.dst.Bytes())
	if err := d.Download(data, m.dst); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	want := make([][]float64, len(rows)*m.choose)
	var group sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, r := range rows {
		for j := range m.choose {
			group.Go(func() {
				slots <- struct{}{}
				want[i*m.choose+j] = applyExpert(&sources[m.ids[r*m.choose+j]], m.src[r*m.hidden:(r+1)*m.hidden], rounded)
				<-slots
			})
		}
	}
	group.Wait()
	worst, wrongAll, sizeAll, bad, report := 0.0, 0.0, 0.0, 0, ""
	limit, rowLimit := moeLimits(rounded)
	for i, r := range rows {
		var wrong, size, most float64
		at := 0
		for c := range m.hidden {
			before, sum := m.before[r*m.hidden+c], 0.0
			for j := range m.choose {
				sum += float64(m.weights[r*m.choose+j]) * want[i*m.choose+j][c]
			}
			got := float64(device.F32FromBF16(binary.LittleEndian.Uint16(data[2*(r*m.hidden+c):]))) - before
			wrong += (got - sum) * (got - sum)
			size += sum*sum + before*before
			if e := math.Abs(got - sum); e > most || math.IsNaN(e) && !math.IsNaN(most) {
				most, at = e, c
			}
		}
		e := math.Sqrt(wrong / size)
		worst, wrongAll, sizeAll = max(worst, e), wrongAll+wrong, sizeAll+size
		if !(e <= rowLimit) {
			if bad++; bad <= 4 {
				got := float64(device.F32FromBF16(binary.LittleEndian.Uint16(data[2*(r*m.hidden+at):])))
				report += fmt.Sprintf("\n  row %d experts %v: error %.3g of the row; most at column %d: %g, off by %g",
					r, m.ids[r*m.choose:(r+1)*m.choose], e, at, got, most)
			}
		}
	}
	if e := math.Sqrt(wrongAll / sizeAll); bad > 0 || !(e <= limit) {
		t.Errorf("%s: error %.3g, allowed %g; %d of %d rows beyond %g:%s", what, e, limit, bad, len(rows), rowLimit, report)
	} else {
		t.Logf("%s: error of %d rows %.2g, of one %.2g", what, len(rows), e, worst)
	}
}

// everyRow lists [0, n), at most 40 of it, the first and the last included.
func everyRow(n int) []int {
	var rows []int
	for i := range min(n, 40) {
		rows = append(rows, i*(n-1)/max(min(n, 40)-1, 1))
	}
	return rows
}

// TestMoEUneven runs all three forms of experts over routings that fill some
// tiles of every width, leave experts without rows, and give one expert all.
func TestMoEUneven(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(1, 2))
	type routing struct {
		name         string
		rows, choose int
		pick         func(row, j int) (int, float32)
	}
	const count = 16
	spread := func(choose int) func(row, j int) (int, float32) {
		var order []int
		return func(row, j int) (int, float32) {
			if j == 0 {
				order = rng.Perm(count)
			}
			return order[j], rng.Float32()
		}
	}
	routings := []routing{
		{"one expert", 300, 1, func(int, int) (int, float32) { return 5, 1 }},
		{"one expert, groups of tiles", 2500, 1, func(int, int) (int, float32) { return 15, 1 }},
		{"two experts", 77, 2, func(_, j int) (int, float32) { return 3 + 9*j, rng.Float32() }},
		{"weights of zero", 40, 3, func(row, j int) (int, float32) { return (row + 3*j) % count, float32(row % 2) }},
		{"widths", 16 + 17 + 32 + 33 + 64 + 65 + 96 + 97 + 128 + 129 + 1, 1, func(row, _ int) (int, float32) {
			e := 0
			for _, n := range []int{16, 17, 32, 33, 64, 65, 96, 97, 128, 129, 1} {
				if row < n {
					break
				}
				row -= n
				e++
			}
			return e, 1
		}},
	}
	for choose := 1; choose <= 8; choose++ {
		routings = append(routings, routing{"spread", []int{1, 2, 7, 30, 100, 333, 3, 700}[choose-1], choose, spread(choose)})
	}
	for _, x := range []struct {
		typ           device.DType
		hidden, inner int
		form          expertForm
	}{
		{device.F8E4M3, 384, 256, expertF8}, {device.F8E4M3, 128, 128, expertF8}, {device.F8E4M3, 256, 72, expertBF16},
		{device.BF16, 256, 128, expertBF16}, {device.BF16, 520, 328, expertBF16}, {device.BF16, 8, 8, expertBF16},
		{device.BF16, 97, 50, expertGeneric},
	} {
		pool := newExpertPool(rng, x.typ, 4*x.hidden*x.inner)
		sources := pool.experts(count, x.hidden, x.inner)
		loaded, err := d.LoadExperts(device.BF16, sources)
		if err != nil {
			t.Fatal(err)
		}
		if got := loaded.(*experts).form; got != x.form {
			t.Errorf("%v [%d, %d] is loaded in form %d, want %d", x.typ, x.inner, x.hidden, got, x.form)
		}
		for _, r := range routings {
			m := newMoEData(t, d, rng, r.rows, r.choose, x.hidden, r.pick)
			d.MoE(m.dst, m.in, m.chosen, m.by, loaded)
			what := fmt.Sprintf("%v [%d, %d], %s, %d rows of %d", x.typ, x.inner, x.hidden, r.name, r.rows, r.choose)
			m.check(t, d, what, sources, x.form == expertF8, everyRow(r.rows))
			m.free()
		}
	}
}

// realExperts loads experts of DeepSeek-V3's dimensions.
func realExperts(t testing.TB, d *Device, rng *rand.Rand, typ device.DType, count int) ([]device.ExpertSource, *experts) {
	const hidden, inner = 7168, 2048
	sources := newExpertPool(rng, typ, hidden*inner+1<<20).experts(count, hidden, inner)
	start := time.Now()
	loaded, err := d.LoadExperts(device.BF16, sources)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("%v: %d experts, %.2f GB loaded in %v, %.1f GB/s", typ, count, float64(loaded.Bytes())/1e9, took.Round(time.Millisecond),
		float64(loaded.Bytes())/1e9/took.Seconds())
	return sources, loaded.(*experts)
}

// uniform picks experts of a token without repetition.
func uniform(rng *rand.Rand, count int) func(row, j int) (int, float32) {
	var order []int
	return func(row, j int) (int, float32) {
		if j == 0 {
			order = order[:0]
		}
		for {
			e := rng.IntN(count)
			for _, o := range order {
				if o == e {
					e = -1
				}
			}
			if e >= 0 {
				order = append(order, e)
				return e, 0.3 * rng.Float32()
			}
		}
	}
}

// TestMoEReal checks sampled rows at the dimensions of DeepSeek-V3.
func TestMoEReal(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(3, 4))
	for _, typ := range []device.DType{device.F8E4M3, device.BF16} {
		sources, loaded := realExperts(t, d, rng, typ, 24)
		for _, rows := range []int{1, 9, 40, 250, 1500} {
			m := newMoEData(t, d, rng, rows, 8, loaded.hidden, uniform(rng, loaded.count))
			d.MoE(m.dst, m.in, m.chosen, m.by, loaded)
			sample := []int{0, rows / 2, rows - 1}
			m.check(t, d, fmt.Sprintf("%v, %d rows", typ, rows), sources, typ == device.F8E4M3, sample)
			m.free()
		}
		loaded.mem.Free()
	}
}

// BenchmarkMoE times a layer's experts in a graph of several calls with choices
// of their own, and the stages one by one. of-floor compares with the larger of
// the arithmetic at 1590 (bf16: 800) TFLOP/s and one reading of the touched
// weights at 4.46 TB/s. Run it with -benchtime=1x.
func BenchmarkMoE(b *testing.B) {
	d := newTestDevice(b)
	rng := rand.New(rand.NewPCG(5, 6))
	for _, x := range []struct {
		typ   device.DType
		count int
		peak  float64
	}{{device.F8E4M3, 256, 1590e12}, {device.BF16, 64, 800e12}} {
		_, loaded := realExperts(b, d, rng, x.typ, x.count)
		for _, rows := range []int{1, 8, 32, 128, 512, 2048, 4096, 8192} {
			b.Run(fmt.Sprintf("%v/%dx%d", x.typ, x.count, rows), func(b *testing.B) { benchmarkMoE(b, d, rng, loaded, rows, x.peak) })
		}
		loaded.mem.Free()
	}
}

func benchmarkMoE(b *testing.B, d *Device, rng *rand.Rand, e *experts, rows int, peak float64) {
	const choose, calls = 8, 4
	few := newMoEData(b, d, rng, min(rows, 64), 1, e.hidden, uniform(rng, e.count))
	defer few.free()
	in, dst := repeatRows(b, d, few.in, rows), repeatRows(b, d, few.dst, rows)
	defer in.Mem.Free()
	defer dst.Mem.Free()
	var choices [calls]*moeData // only their experts and weights
	touched := 0.0              // bytes of weights, on average
	for i := range choices {
		m := newMoEData(b, d, rng, rows, choose, 1, uniform(rng, e.count))
		defer m.free()
		used := map[int32]bool{}
		for _, id := range m.ids {
			used[id] = true
		}
		touched += float64(len(used)) * float64(e.mem.bytes) / float64(e.count) / calls
		choices[i] = m
		d.MoE(dst, in, m.chosen, m.by, e)
	}
	// timed returns the microseconds of one of f's repetitions, in a graph.
	timed := func(repeats int, f func(i int)) float64 {
		graph, err := d.exec.Capture(func() error {
			for i := range repeats {
				f(i)
			}
			return d.err
		})
		if err != nil {
			b.Fatal(err)
		}
		defer graph.Free()
		watch := d.NewStopwatch()
		graph.Launch()
		best := math.Inf(1)
		for range 3 {
			watch.Reset()
			watch.Mark()
			graph.Launch()
			watch.Mark()
			for _, lap := range watch.Laps(nil) {
				best = min(best, lap.Seconds()*1e6/float64(repeats))
			}
		}
		if d.err != nil {
			b.Fatal(d.Sync())
		}
		return best
	}
	total := timed(calls, func(i int) { d.MoE(dst, in, choices[i].chosen, choices[i].by, e) })
	flop := float64(rows*choose) * 6 * float64(e.hidden) * float64(e.inner)
	floor := max(flop/peak, touched/4.46e12) * 1e6
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(total, "us")
	b.ReportMetric(flop/total/1e6, "TFLOP/s")
	b.ReportMetric(touched/total/1e3, "GB/s")
	b.ReportMetric(floor/total, "of-floor")

	m, p := choices[0], e.planFor(rows*choose)
	pieces := float64(divUp(e.hidden, p.columns))
	for _, stage := range []struct {
		name  string
		times float64
		run   func(int)
	}{
		{"arrange", 1, func(int) { e.moeArrange(p, ptr(m.chosen), ptr(in), rows, choose) }},
		{"route", 1, func(int) { e.moeRoute(p, ptr(m.chosen)) }},
		{"permute", 1, func(int) { e.moePermute(p, ptr(in), rows, choose) }},
		{"gated", 1, func(int) { e.moeGated(p) }},
		{"plain", pieces, func(int) { e.moePlain(p, 0, p.columns) }},
		{"combine", pieces, func(int) { e.moeCombine(p, ptr(dst), ptr(m.by), rows, choose, 0, p.columns) }},
	} {
		if stage.name != "arrange" || p.pairs <= arrangePairs {
			b.ReportMetric(timed(4, stage.run)*stage.times, stage.name+"-us")
		}
	}
}

// repeatRows repeats the rows of a tensor.
func repeatRows(b *testing.B, d *Device, few device.Tensor, rows int) device.Tensor {
	mem, err := d.Alloc(int64(rows) * int64(few.Cols) * int64(few.Type.Size()))
	if err != nil {
		b.Fatal(err)
	}
	t := device.Tensor{Type: few.Type, Rows: rows, Cols: few.Cols, Mem: mem}
	for r := 0; r < rows; r += few.Rows {
		n := min(few.Rows, rows-r)
		d.exec.Copy(ptr(t.Slice(r, r+n)), ptr(few), few.Slice(0, n).Bytes())
	}
	return t
}

// TestMoELayout checks that the pieces of scratch memory lie side by side, that
// results fit where the inputs were, and the size that moeLayout's comment
// promises.
func TestMoELayout(t *testing.T) {
	for _, form := range []expertForm{expertGeneric, expertBF16, expertF8} {
		for _, pairs := range []int{1, 8, 9, 1000, 65536, 1 << 17} {
			for _, hidden := range []int{128, 384, 7168} {
				const count, inner = 256, 256
				l := layoutMoE(form, pairs, count, hidden, inner)
				size, n := int64(form.weightBytes()), int64(l.rows)
				what := fmt.Sprintf("form %d, %d pairs, hidden %d", form, pairs, hidden)
				at := []int64{l.place, l.count, l.tiles, l.inputs, l.inner, l.bytes}
				least := []int64{4 * int64(pairs), 4, 16, max(n*int64(hidden)*size, 2*n*int64(l.columns)), n * inner * size}
				if form == expertF8 {
					at = []int64{l.place, l.count, l.tiles, l.inputs, l.inner, l.inputScales, l.innerScales, l.bytes}
					least = append(least, 4*n*int64(hidden/128), 4*n*inner/128)
				}
				for i, need := range least {
					if at[i]%256 != 0 || at[i+1]-at[i] < need {
						t.Errorf("%s: piece %d has [%d, %d), needs %d bytes", what, i, at[i], at[i+1], need)
					}
				}
				if l.rows < pairs || l.rows%4 != 0 || l.columns < 1 || l.columns > hidden || l.columns < hidden && l.columns%groupedOutputs != 0 {
					t.Errorf("%s: %d rows, %d columns at a time", what, l.rows, l.columns)
				}
			}
		}
	}
	// 76 KB a token for DeepSeek-V3.2: it is by far the largest scratch memory.
	if perToken := layoutMoE(expertF8, 8192*8, 256, 7168, 2048).bytes / 8192; perToken < 70e3 || perToken > 80e3 {
		t.Errorf("%d bytes a token", perToken)
	}
}
