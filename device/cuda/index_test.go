package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"latent/device"
)

// scoreSeq is a sequence of a scoring test: its context and the runs over it.
type scoreSeq struct {
	context int
	runs    []device.Run // Seq is left out
}

// scoreData is a call of IndexScores with random operands in the formats that it
// reads.
type scoreData struct {
	cache      *cache
	step       device.Step
	runs       []device.Run
	q, weights device.Tensor
}

// newScoreData draws queries, weights and keys. Pages are in random order, and
// rows of the step are not those of the runs.
func newScoreData(t testing.TB, d *Device, rng *rand.Rand, format device.CacheFormat, heads, dim int, seqs []scoreSeq) *scoreData {
	t.Helper()
	x := &scoreData{}
	pages, rows := 2, 0
	for _, s := range seqs {
		pages += divUp(s.context, device.PageTokens)
		for _, r := range s.runs {
			rows += r.Rows
		}
	}
	order := rng.Perm(pages)
	for i, s := range seqs {
		n := divUp(s.context, device.PageTokens)
		seq := device.Seq{}
		for _, p := range order[:n] {
			seq.Pages = append(seq.Pages, int32(p))
		}
		order = order[n:]
		x.step.Seqs = append(x.step.Seqs, seq)
		for _, r := range s.runs {
			r.Seq, r.Sel = i, -1
			x.runs = append(x.runs, r)
		}
	}
	rng.Shuffle(len(x.runs), func(i, j int) { x.runs[i], x.runs[j] = x.runs[j], x.runs[i] })
	x.step.Tokens, x.step.Positions, x.step.Slots = make([]int32, rows), make([]int32, rows), make([]int32, rows)
	d.Begin(&x.step)

	made, err := d.NewCache(device.CacheSpec{Format: format, Pages: pages, Layers: 1, Indexed: []int{0}, Latent: 32, Rope: 8, IndexDim: dim})
	if err != nil {
		t.Fatal(err)
	}
	x.cache = made.(*cache)
	pool := make([]byte, int64(pages)*x.cache.indexPage)
	query, weight := make([]byte, 2*rows*heads*dim), make([]byte, 4*rows*heads)
	fill := func(b []byte) {
		if format == device.CacheF8 {
			for i := range b {
				b[i] = device.F8FromF32(float32(100 * rng.NormFloat64()))
			}
			return
		}
		for i := 0; i < len(b); i += 2 {
			binary.LittleEndian.PutUint16(b[i:], device.BF16FromF32(float32(rng.NormFloat64())))
		}
	}
	fill(pool)
	if format == device.CacheF8 {
		for p := range pages {
			scales := pool[int64(p)*x.cache.indexPage+int64(dim*device.PageTokens):]
			for i := range device.PageTokens {
				binary.LittleEndian.PutUint32(scales[4*i:], math.Float32bits(float32(math.Ldexp(1, rng.IntN(5)-9))))
			}
		}
		for i := range rows { // the other half of a row is undefined
			fill(query[2*i*heads*dim:][:heads*dim])
		}
	} else {
		fill(query)
	}
	for i := 0; i < len(weight); i += 4 {
		binary.LittleEndian.PutUint32(weight[i:], math.Float32bits(float32(rng.NormFloat64())/100))
	}
	d.Upload(device.Tensor{Type: device.F8E4M3, Rows: 1, Cols: len(pool), Mem: x.cache.mem, Offset: int64(x.cache.indexKeys(0) - x.cache.mem.addr)}, pool)
	upload := func(typ device.DType, cols int, data []byte) device.Tensor {
		mem, err := d.Alloc(int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		tensor := device.Tensor{Type: typ, Rows: rows, Cols: cols, Mem: mem}
		d.Upload(tensor, data)
		return tensor
	}
	x.q, x.weights = upload(device.BF16, heads*dim, query), upload(device.F32, heads, weight)
	return x
}

func (x *scoreData) free() {
	x.cache.Free()
	x.q.Mem.Free()
	x.weights.Mem.Free()
}

// scores runs f on poisoned scores and reads them back.
func (x *scoreData) scores(t *testing.T, d *Device, columns int, f func(scores device.Tensor)) []float32 {
	t.Helper()
	out := device.Tensor{Type: device.F32, Rows: x.q.Rows, Cols: columns}
	var err error
	if out.Mem, err = d.Alloc(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	defer out.Mem.Free()
	d.exec.Fill(ptr(out), 0xff, out.Bytes()) // NaN
	f(out)
	data := make([]byte, out.Bytes())
	if err := d.Download(data, out); err != nil {
		t.Fatal(err)
	}
	values := make([]float32, len(data)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return values
}

// TestIndexScoresReal compares the fast kernels with the generic one, at 128
// elements a head: all that a row sees and nothing else is written, within the
// precision of FP8 sums.
func TestIndexScoresReal(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(3, 3))
	var lists [][]scoreSeq
	for _, n := range []int{1, 63, 64, 65, 255, 256, 257, 2047, 2048, 2049, 5000} {
		lists = append(lists, []scoreSeq{{n, []device.Run{{Rows: min(n, 5), Pos: max(0, n-5), KeyTo: n}}}})
	}
	var ones, pairs []scoreSeq
	for i := range 600 { // more runs than a launch takes
		n := 1 + 11*i%3001
		ones = append(ones, scoreSeq{n, []device.Run{{Rows: 1, Pos: n - 1, KeyTo: n}}})
		if i < 40 {
			pairs = append(pairs, scoreSeq{n + 1, []device.Run{{Rows: 2, Pos: n - 1, KeyTo: n + 1}}})
		}
	}
	lists = append(lists, ones, pairs, []scoreSeq{{3000, []device.Run{{Rows: 1000, Pos: 2000, KeyTo: 3000}}}},
		[]scoreSeq{{1024, []device.Run{{Rows: 1024, KeyTo: 1024}}}},
		[]scoreSeq{
			{5000, []device.Run{{Rows: 37, Pos: 4963, KeyTo: 5000}, {Rows: 0, Pos: 10, KeyTo: 10}}},
			{1, []device.Run{{Rows: 1, KeyTo: 1}}},
			{64, []device.Run{{Rows: 64, KeyTo: 64}}},
			{2049, []device.Run{{Rows: 1, Pos: 2048, KeyTo: 2049}, {Rows: 7, Pos: 1000, KeyTo: 2049}}},
			{700, []device.Run{{Rows: 50, Pos: 600, KeyTo: 620}, {Rows: 20, KeyTo: 9}, {Rows: 300, KeyTo: 300}}},
		})
	for _, format := range []device.CacheFormat{device.CacheF8, device.CacheBF16} {
		for i, list := range lists {
			for _, heads := range [][]int{{64}, {64, 32, 8, 4, 20, 48}}[min(1, i/(len(lists)-1))] {
				x := newScoreData(t, d, rng, format, heads, scoreDim, list)
				columns := 3
				for _, s := range list {
					columns = max(columns, s.context+3)
				}
				what := fmt.Sprintf("%v, %d heads, list %d", format, heads, i)
				k, ok := scoreKernelFor(x.cache, heads, x.runs)
				if !ok {
					t.Fatalf("%s: no kernel", what)
				}
				l := d.list("test", x.runs)
				got := x.scores(t, d, columns, func(s device.Tensor) { d.IndexScores(s, x.q, x.weights, x.cache, 0, x.runs) })
				want := x.scores(t, d, columns, func(s device.Tensor) { d.indexGeneric(s, x.q, x.weights, x.cache, 0, l) })
				compareScores(t, fmt.Sprintf("%s, %s", what, k.unit()), got, want, columns)
				if k.group > 1 {
					k.group = 1
					got := x.scores(t, d, columns, func(s device.Tensor) { d.indexScores(k, s, x.q, x.weights, x.cache, 0, l) })
					compareScores(t, fmt.Sprintf("%s, %s", what, k.unit()), got, want, columns)
				}
				x.free()
			}
		}
	}
}

// compareScores allows errors of 5e-3 of a row's root mean square: e4m3 products
// are summed with about 14 bits.
func compareScores(t *testing.T, what string, got, want []float32, columns int) {
	t.Helper()
	bad := 0
	for row := 0; row < len(want); row += columns {
		squares, n := 0.0, 0
		for _, v := range want[row : row+columns] {
			if v == v {
				squares += float64(v) * float64(v)
				n++
			}
		}
		limit := 5e-3 * math.Sqrt(squares/float64(max(n, 1)))
		for c, v := range want[row : row+columns] {
			g := got[row+c]
			if g == v || g != g && v != v || math.Abs(float64(g-v)) <= limit {
				continue
			}
			if bad++; bad <= 4 {
				t.Errorf("%s: row %d column %d is %g, want %g within %g (NaN: not written)", what, row/columns, c, g, v, limit)
			}
		}
	}
	if bad > 4 {
		t.Errorf("%s: %d of %d scores are wrong", what, bad, len(want))
	}
}

// sharedMost is the shared memory that a block can have.
const sharedMost = 232448

// TestScoreKernelsFit checks that every kernel's shared memory is possible.
func TestScoreKernelsFit(t *testing.T) {
	for _, format := range []device.CacheFormat{device.CacheF8, device.CacheBF16} {
		c := &cache{spec: device.CacheSpec{Format: format, IndexDim: scoreDim, Pages: 1}}
		for heads := 4; heads <= scoreMaxHeads; heads += 4 {
			for _, rows := range []int{1, 2} {
				k, ok := scoreKernelFor(c, heads, []device.Run{{Rows: 1}, {Rows: rows}})
				if !ok || k.heads < heads || k.group > 1 != (rows > 1) || k.shared() > sharedMost {
					t.Errorf("%v, %d heads, %d rows: kernel %s with %d bytes of shared memory", format, heads, rows, k.unit(), k.shared())
				}
			}
		}
		if _, ok := scoreKernelFor(c, 6, nil); ok {
			t.Error("six heads have a kernel")
		}
	}
}

// BenchmarkIndexScores times scores at 64 heads of 128 against the best known
// kernels (KERNELS 2.4: DeepGEMM, microseconds on an H200). Run it with
// -benchtime=1x.
func BenchmarkIndexScores(b *testing.B) {
	d := newTestDevice(b)
	rng := rand.New(rand.NewPCG(5, 5))
	for _, x := range []struct {
		seqs, rows, context int
		anchor              float64
	}{
		{1, 2048, 2048, 40.5}, {1, 2048, 8192, 219}, {1, 4096, 8192, 378}, {1, 2048, 32768, 935}, {1, 4096, 32768, 1865},
		{1, 1, 32768, 7.4}, {8, 1, 32768, 15.6}, {32, 1, 8192, 15.3}, {64, 1, 8192, 24.2}, {64, 1, 32768, 75.1}, {256, 1, 8192, 75.3},
	} {
		b.Run(fmt.Sprintf("%dx%dx%d", x.seqs, x.rows, x.context), func(b *testing.B) {
			list := make([]scoreSeq, x.seqs)
			for i := range list {
				list[i] = scoreSeq{x.context, []device.Run{{Rows: x.rows, Pos: x.context - x.rows, KeyTo: x.context}}}
			}
			data := newScoreData(b, d, rng, device.CacheF8, 64, scoreDim, list)
			defer data.free()
			out := device.Tensor{Type: device.F32, Rows: data.q.Rows, Cols: x.context}
			var err error
			if out.Mem, err = d.Alloc(out.Bytes()); err != nil {
				b.Fatal(err)
			}
			defer out.Mem.Free()
			us := graphTime(b, d, func(int) { d.IndexScores(out, data.q, data.weights, data.cache, 0, data.runs) })
			pairs := float64(x.seqs) * (float64(x.rows)*float64(x.context-x.rows) + float64(x.rows)*float64(x.rows)/2)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(us, "us")
			b.ReportMetric(2*64*scoreDim*pairs/us/1e6, "TFLOP/s")
			b.ReportMetric(float64(x.seqs*x.context*(scoreDim+8))/us/1e3, "GB/s")
			b.ReportMetric(us/x.anchor, "of-anchor")
		})
	}
}
