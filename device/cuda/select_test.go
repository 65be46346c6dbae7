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

// topOf returns the min(k, len(scores)) positions with the largest scores,
// ascending: a stable sort, NaN last.
func topOf(scores []float32, k int) []int32 {
	order := make([]int32, len(scores))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		x, y := scores[a], scores[b]
		switch {
		case x > y || x == x && y != y:
			return -1
		case x < y || x != x && y == y:
			return 1
		}
		return 0
	})
	order = order[:min(k, len(order))]
	slices.Sort(order)
	return order
}

// scoreKinds are ways to draw a row of scores: with few and with many equal upper
// bits, ties of all sizes, and what is no number.
var scoreKinds = []struct {
	name string
	draw func(rng *rand.Rand, i int) float32
}{
	{"normal", func(rng *rand.Rand, _ int) float32 { return float32(rng.NormFloat64()) }},
	{"few values", func(rng *rand.Rand, _ int) float32 { return float32(math.Round(1.5 * rng.NormFloat64())) }},
	{"one value", func(*rand.Rand, int) float32 { return 1.5 }},
	{"zeros", func(rng *rand.Rand, _ int) float32 {
		return []float32{0, float32(math.Copysign(0, -1)), 1, -1}[rng.IntN(4)]
	}},
	{"no numbers", func(rng *rand.Rand, _ int) float32 {
		nan := math.NaN()
		return []float32{
			float32(nan), float32(math.Copysign(nan, -1)), float32(math.Inf(-1)), float32(math.Inf(1)), 0, -1e-40,
			float32(rng.NormFloat64()), float32(rng.NormFloat64()),
		}[rng.IntN(8)]
	}},
	{"NaN", func(*rand.Rand, int) float32 { return float32(math.NaN()) }},
	{"tiny", func(rng *rand.Rand, _ int) float32 { return float32(rng.NormFloat64() * 1e-42) }},
	{"close together", func(rng *rand.Rand, _ int) float32 { return float32(10 + 1e-3*rng.NormFloat64()) }},
	{"neighbours", func(rng *rand.Rand, _ int) float32 { return 1 + float32(rng.IntN(3))*0x1p-23 }},
	{"ascending", func(_ *rand.Rand, i int) float32 { return float32(i) }},
	{"descending", func(_ *rand.Rand, i int) float32 { return -float32(i) }},
	{"mostly -Inf", func(rng *rand.Rand, _ int) float32 {
		if rng.IntN(50) == 0 {
			return float32(rng.NormFloat64())
		}
		return float32(math.Inf(-1))
	}},
}

// TestSelectTopK compares both forms with a stable sort, for rows of every kind
// whose length lies around K and around the sizes that the kernels work in, in
// both sizes of blocks.
func TestSelectTopK(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(1, 1))
	short := []int{1, 2, 5, 127, 128, 129, 511, 512, 513, 1000, 2047, 2048, 2049}
	for _, x := range []struct {
		lengths       []int // rows, in runs of one
		copies        int   // of all of them
		columns, topk int
	}{
		{short, 1, 2100, 2048}, {short, 12, 2051, 2048}, {short, 12, 2100, 17}, {short, 1, 2100, 1},
		{[]int{5000, 4999, 4997}, 4, 5000, 2048}, {[]int{5000, 4999, 4997}, 4, 5001, 2048},
		{[]int{9000}, 12, 9000, 4096}, {[]int{9000}, 12, 9000, 8999},
		{[]int{40000}, 12, 40000, 2048}, {[]int{163840}, 12, 163840, 2048}, {[]int{120000}, 3, 163840, 2048},
	} {
		var runs []device.Run
		var step device.Step
		var scores []float32
		var kinds []string
		for range x.copies {
			for _, n := range x.lengths {
				kind := scoreKinds[len(runs)%len(scoreKinds)]
				kinds = append(kinds, kind.name)
				runs = append(runs, device.Run{Row: len(runs), Rows: 1, Pos: n - 1, KeyTo: n, Sel: len(runs)})
				for i := range x.columns {
					if i < n {
						scores = append(scores, kind.draw(rng, i))
					} else {
						scores = append(scores, []float32{1e30, float32(math.NaN()), float32(math.Inf(1))}[i%3])
					}
				}
			}
		}
		rows := len(runs)
		step.Tokens, step.Positions, step.Slots = make([]int32, rows), make([]int32, rows), make([]int32, rows)
		step.Seqs = []device.Seq{{Rows: rows, Pages: make([]int32, divUp(rows, device.PageTokens))}}
		d.Begin(&step)
		rng.Shuffle(rows, func(i, j int) { runs[i].Sel, runs[j].Sel = runs[j].Sel, runs[i].Sel })
		in := uploadFloats(t, d, rows, x.columns, scores)
		for _, form := range []device.SelectionForm{device.SelectIndices, device.SelectMask} {
			sel, err := d.NewSelection(form, rows, x.columns, x.topk)
			if err != nil {
				t.Fatal(err)
			}
			d.SelectTopK(sel, in, x.topk, runs)
			bad := 0
			for i, r := range runs {
				want := topOf(scores[i*x.columns:][:r.KeyTo], x.topk)
				if got := sel.Positions(r.Sel); !slices.Equal(got, want) {
					if bad++; bad <= 4 {
						at := 0
						for at < min(len(got), len(want)) && got[at] == want[at] {
							at++
						}
						t.Errorf("form %d, top %d of %d in %d columns, %s: %d selected, want %d; they differ from number %d on: %v, want %v",
							form, x.topk, r.KeyTo, x.columns, kinds[i], len(got), len(want), at, head(got[at:]), head(want[at:]))
					}
				}
			}
			if bad > 4 {
				t.Errorf("form %d, top %d in %d columns: %d of %d rows are wrong", form, x.topk, x.columns, bad, rows)
			}
			sel.Free()
		}
		in.Mem.Free()
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
}

func head(p []int32) []int32 { return p[:min(len(p), 6)] }

// TestSelectTopKWithoutKeys checks that a row that sees no keys leaves its
// indices alone: rows of a captured step that need no selection are such.
func TestSelectTopKWithoutKeys(t *testing.T) {
	d := newTestDevice(t)
	const rows, topk = 4, 10
	step := device.Step{Tokens: make([]int32, rows), Positions: make([]int32, rows), Slots: make([]int32, rows)}
	step.Seqs = []device.Seq{{Rows: rows, Pages: []int32{0}}}
	d.Begin(&step)
	scores := make([]float32, rows*rows)
	in := uploadFloats(t, d, rows, rows, scores)
	sel, err := d.NewSelection(device.SelectIndices, rows, rows, topk)
	if err != nil {
		t.Fatal(err)
	}
	d.SelectTopK(sel, in, topk, []device.Run{{Rows: rows, KeyTo: rows}})
	d.SelectTopK(sel, in, topk, []device.Run{{Rows: rows, KeyTo: 0}})
	for i := range rows {
		if got, want := sel.Positions(i), topOf(scores[i*rows:][:i+1], topk); !slices.Equal(got, want) {
			t.Errorf("row %d: %v, want %v", i, got, want)
		}
	}
}

func uploadFloats(t testing.TB, d *Device, rows, cols int, values []float32) device.Tensor {
	t.Helper()
	data := make([]byte, 0, 4*len(values))
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	mem, err := d.Alloc(int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	tensor := device.Tensor{Type: device.F32, Rows: rows, Cols: cols, Mem: mem}
	d.Upload(tensor, data)
	return tensor
}

// BenchmarkSelectTopK times the selection of 2048 keys from normal scores, all
// rows of one length, against the best known kernel (KERNELS 2.4: FlashInfer's,
// microseconds on an H200). Run it with -benchtime=1x.
func BenchmarkSelectTopK(b *testing.B) {
	d := newTestDevice(b)
	rng := rand.New(rand.NewPCG(2, 2))
	for _, x := range []struct {
		rows, keys int
		anchor     float64
	}{
		{4096, 8192, 172}, {4096, 32768, 444}, {4096, 131072, 1135}, {256, 32768, 37.9}, {64, 32768, 24.1}, {64, 131072, 44.7},
		{1, 32768, 13.3}, {1, 131072, 15.8},
	} {
		for form, name := range []string{"indices", "mask"} {
			b.Run(fmt.Sprintf("%s/%dx%d", name, x.rows, x.keys), func(b *testing.B) {
				// A few rows are drawn and repeated; copies of the scores are used
				// by turns so that they do not stay in L2.
				drawn := make([]float32, min(x.rows, 64)*x.keys)
				for i := range drawn {
					drawn[i] = float32(rng.NormFloat64())
				}
				sets := min(32, 1+int(160e6/float64(4*x.rows*x.keys)))
				few := uploadFloats(b, d, min(x.rows, 64), x.keys, drawn)
				defer few.Mem.Free()
				in := repeatRows(b, d, few, sets*x.rows)
				defer in.Mem.Free()
				step := device.Step{Tokens: make([]int32, x.rows), Positions: make([]int32, x.rows), Slots: make([]int32, x.rows)}
				step.Seqs = []device.Seq{{Rows: x.rows, Pages: make([]int32, divUp(x.rows, device.PageTokens))}}
				d.Begin(&step)
				runs := []device.Run{{Rows: x.rows, Pos: x.keys, KeyTo: x.keys}}
				sel, err := d.NewSelection(device.SelectionForm(form), x.rows, x.keys, 2048)
				if err != nil {
					b.Fatal(err)
				}
				defer sel.Free()
				us := graphTime(b, d, func(i int) {
					i %= sets
					d.SelectTopK(sel, in.Slice(i*x.rows, (i+1)*x.rows), 2048, runs)
				})
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(us, "us")
				b.ReportMetric(float64(4*x.rows*x.keys)/us/1e3, "GB/s")
				b.ReportMetric(us/x.anchor, "of-anchor")
			})
		}
	}
}

// graphTime returns the microseconds of a call of f, of thirty in one graph: the
// median of five runs of it.
func graphTime(b *testing.B, d *Device, f func(i int)) float64 {
	b.Helper()
	const calls = 30
	f(0) // uploads what it needs
	graph, err := d.exec.Capture(func() error {
		for i := range calls {
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
	for range 5 {
		watch.Mark()
		graph.Launch()
	}
	watch.Mark()
	if err := d.Sync(); err != nil {
		b.Fatal(err)
	}
	laps := watch.Laps(nil)
	slices.Sort(laps)
	return laps[len(laps)/2].Seconds() * 1e6 / calls
}
