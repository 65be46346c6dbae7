package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"latent/device"
	"latent/device/cuda/driver"
)

// mlaCase is a batch in latent space at DeepSeek's sizes (R 512, dr 64): cached
// records as bytes, sequences on pages in random order, queries.
type mlaCase struct {
	d     *Device
	cache *cache
	sel   *selection
	step  device.Step
	runs  []device.Run
	heads int
	qa    device.Tensor
	z     device.Tensor
	lse   device.Tensor
}

const (
	mlaTestLatent = 512
	mlaTestRope   = 64
	mlaTestTopK   = 2048
)

// newMLACase makes a batch of sequences with the given contexts. runs are of one
// row each; sets are the selected positions of selection rows.
func newMLACase(t testing.TB, d *Device, rng *rand.Rand, format device.CacheFormat, heads int, contexts []int, runs []device.Run, sets [][]int32) *mlaCase {
	t.Helper()
	pages := 3
	for _, n := range contexts {
		pages += divUp(n, device.PageTokens)
	}
	ca, err := d.NewCache(device.CacheSpec{
		Format: format, Pages: pages, Layers: 2, Latent: mlaTestLatent, Rope: mlaTestRope, IndexDim: 128,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ca.Free)
	c := &mlaCase{d: d, cache: ca.(*cache), runs: runs, heads: heads}
	mlaFill(d, c.cache, rng)
	order := rng.Perm(pages)
	for i, n := range contexts {
		var list []int32
		for range divUp(n, device.PageTokens) {
			list, order = append(list, int32(order[0])), order[1:]
		}
		c.step.Seqs = append(c.step.Seqs, device.Seq{Row: i, Rows: 1, Prefix: n - 1, Pages: list})
	}
	n := len(runs)
	c.step.Tokens, c.step.Positions, c.step.Slots = make([]int32, n), make([]int32, n), make([]int32, n)
	for i := range runs {
		runs[i].Row, runs[i].Rows = i, 1
	}
	if len(sets) > 0 {
		s, err := d.NewSelection(device.SelectIndices, len(sets), slices.Max(contexts), mlaTestTopK)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Free)
		c.sel = s.(*selection)
		indices := make([]byte, 0, 4*len(sets)*mlaTestTopK)
		for _, set := range sets {
			for i := range mlaTestTopK {
				p := int32(-1)
				if i < len(set) {
					p = set[i]
				}
				indices = binary.LittleEndian.AppendUint32(indices, uint32(p))
			}
		}
		d.exec.UploadBytes(c.sel.mem.addr, indices)
	}
	c.qa = mlaTensor(t, d, device.BF16, n, heads*(mlaTestLatent+mlaTestRope))
	q := make([]byte, 0, c.qa.Bytes())
	for i := range n {
		width := 1.0
		if i%3 == 0 {
			width = 5 // a sharp softmax
		}
		for range c.qa.Cols {
			q = binary.LittleEndian.AppendUint16(q, device.BF16FromF32(float32(width*rng.NormFloat64())))
		}
	}
	d.Upload(c.qa, q)
	c.z = mlaTensor(t, d, device.BF16, n, heads*mlaTestLatent)
	c.lse = mlaTensor(t, d, device.F32, n, heads)
	d.Begin(&c.step)
	return c
}

func mlaTensor(t testing.TB, d *Device, typ device.DType, rows, cols int) device.Tensor {
	t.Helper()
	m, err := d.Alloc(int64(rows) * int64(cols) * int64(typ.Size()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Free)
	return device.Tensor{Type: typ, Rows: rows, Cols: cols, Mem: m}
}

// mlaFill fills layer 1 of a cache with records that repeat after a while.
func mlaFill(d *Device, c *cache, rng *rand.Rand) {
	done, all := min(c.tokens(), 1<<14), c.tokens()
	d.exec.UploadBytes(c.latents(1), mlaRecords(rng, c.spec.Format, done))
	for done < all {
		n := min(done, all-done)
		d.exec.Copy(c.latents(1)+driver.Ptr(int64(done)*c.latentPitch), c.latents(1), int64(n)*c.latentPitch)
		done += n
	}
}

// mlaRecords returns n cached records of normal values.
func mlaRecords(rng *rand.Rand, format device.CacheFormat, n int) []byte {
	// A table of normal values is enough, and fast.
	var wide [4096]uint16
	var narrow [4096]byte
	for i := range wide {
		x := float32(rng.NormFloat64())
		wide[i], narrow[i] = device.BF16FromF32(x), device.F8FromF32(100*x)
	}
	var b []byte
	for range n {
		if format == device.CacheF8 {
			for range mlaTestLatent {
				b = append(b, narrow[rng.IntN(len(narrow))])
			}
			for range mlaTestLatent / 128 {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(math.Ldexp(1, -5-rng.IntN(4)))))
			}
		} else {
			for range mlaTestLatent {
				b = binary.LittleEndian.AppendUint16(b, wide[rng.IntN(len(wide))])
			}
		}
		for range mlaTestRope {
			b = binary.LittleEndian.AppendUint16(b, wide[rng.IntN(len(wide))])
		}
	}
	return b
}

// args are the arguments of MLA as MLA passes them on.
func (c *mlaCase) args() *mlaArgs {
	a := &mlaArgs{
		z: ptr(c.z), lse: ptr(c.lse), qa: ptr(c.qa), cache: c.cache, layer: 1,
		list: c.d.list("MLA", c.runs), heads: c.heads, scale: float32(1 / math.Sqrt(mlaTestLatent+mlaTestRope)),
	}
	var sel device.Selection
	if c.sel != nil {
		sel = c.sel
	}
	c.d.mlaKeys(a, sel, c.runs)
	return a
}

// mlaResult is z [n, H, R] and lse [n, H], as stored.
type mlaResult struct{ z, lse []byte }

// compute runs f over poisoned outputs.
func (c *mlaCase) compute(t testing.TB, f func(a *mlaArgs)) mlaResult {
	t.Helper()
	c.d.exec.Fill(ptr(c.z), 0xff, c.z.Bytes())
	c.d.exec.Fill(ptr(c.lse), 0xff, c.lse.Bytes())
	f(c.args())
	r := mlaResult{make([]byte, c.z.Bytes()), make([]byte, c.lse.Bytes())}
	for _, e := range []error{c.d.Download(r.z, c.z), c.d.Download(r.lse, c.lse), c.d.Sync()} {
		if e != nil {
			t.Fatal(e)
		}
	}
	return r
}

// difference describes the first head whose z differs from want by more than
// 0.4 % of its norm, or whose lse differs by more than 1e-3.
func (c *mlaCase) difference(got, want mlaResult) string {
	for i := range len(want.lse) / 4 {
		l := float64(math.Float32frombits(binary.LittleEndian.Uint32(got.lse[4*i:])))
		w := float64(math.Float32frombits(binary.LittleEndian.Uint32(want.lse[4*i:])))
		if l != w && !(math.Abs(l-w) <= 1e-3) {
			return fmt.Sprintf("run %+v head %d: lse %v, want %v", c.runs[i/c.heads], i%c.heads, l, w)
		}
		var norm, off float64
		for j := range mlaTestLatent {
			at := 2 * (i*mlaTestLatent + j)
			x := float64(device.F32FromBF16(binary.LittleEndian.Uint16(got.z[at:])))
			y := float64(device.F32FromBF16(binary.LittleEndian.Uint16(want.z[at:])))
			norm += y * y
			off += (x - y) * (x - y)
		}
		if !(off <= 4e-3*4e-3*norm) {
			return fmt.Sprintf("run %+v head %d: relative error %.2e of norm %.2e", c.runs[i/c.heads], i%c.heads, math.Sqrt(off/norm), math.Sqrt(norm))
		}
	}
	return ""
}

// mlaBatch is a batch of dense rows, rows that see a part of the keys or none,
// and selections of all sizes.
func mlaBatch(rng *rand.Rand) (contexts []int, runs []device.Run, sets [][]int32) {
	contexts = []int{1, 63, 64, 65, 127, 2047, 2048, 2049, 5000}
	add := func(seq, pos, from, to, sel int) {
		runs = append(runs, device.Run{Seq: seq, Pos: pos, KeyFrom: from, KeyTo: to, Sel: sel})
	}
	selected := func(visible, n int) int {
		set := make([]int32, 0, n)
		for _, p := range rng.Perm(visible)[:n] {
			set = append(set, int32(p))
		}
		slices.Sort(set)
		sets = append(sets, set)
		return len(sets) - 1
	}
	for s, n := range contexts {
		add(s, n-1, 0, n, -1)
		if n > 100 {
			add(s, n-1, 65, n, -1)
			add(s, n-30, 3, n, -1)
			add(s, n-3, n-2, n, -1) // sees nothing
		}
		add(s, n-1, 0, n, selected(n, min(n, mlaTestTopK)))
	}
	last := len(contexts) - 1
	for _, n := range []int{1, 63, 64, 65, 200, 2047} {
		add(last, 4999, 0, 5000, selected(5000, n))
	}
	add(last, 4998, 1000, 3000, selected(4999, mlaTestTopK))
	add(last, 4000, 7, 7, selected(4001, mlaTestTopK))
	return contexts, runs, sets
}

// TestMLATiled compares mla.cu with the plain kernel, for head counts that do
// and do not fill a tile and with the keys in one part and in many, and wants
// the same bits from every repetition.
func TestMLATiled(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, format := range []device.CacheFormat{device.CacheBF16, device.CacheF8} {
		for _, heads := range []int{1, 4, 16, 20, 32, 64, 128} {
			contexts, runs, sets := mlaBatch(rng)
			c := newMLACase(t, d, rng, format, heads, contexts, runs, sets)
			want := c.compute(t, d.mlaGeneric)
			for _, splits := range []int{1, 2, 7, 32} {
				tiled := func(a *mlaArgs) { d.mlaTiled(a, splits) }
				got := c.compute(t, tiled)
				if s := c.difference(got, want); s != "" {
					t.Errorf("%v, %d heads, %d splits: %s", format, heads, splits, s)
				}
				if again := c.compute(t, tiled); !slices.Equal(again.z, got.z) || !slices.Equal(again.lse, got.lse) {
					t.Errorf("%v, %d heads, %d splits: other bits when repeated", format, heads, splits)
				}
			}
		}
	}
}

// TestMLASplits: the keys are divided when there are few rows, never into more
// parts than there are blocks of keys or than the merge can take.
func TestMLASplits(t *testing.T) {
	for _, workers := range []int{1, 78, 132} {
		for items := 1; items < 600; items += 1 + items/8 {
			for _, keys := range []int{0, 1, 64, 65, 2048, 131072} {
				s := mlaSplits(items, keys, workers)
				if s < 1 || s > max(1, divUp(keys, mlaBlock)) || s > mlaMaxSplits || s > 1 && items*s > 5*workers {
					t.Errorf("%d items of %d keys on %d multiprocessors: %d splits", items, keys, workers, s)
				}
			}
		}
	}
	if s := mlaSplits(2, 2048, 132); s < 8 {
		t.Errorf("one row of 128 heads: %d splits", s)
	}
	if s := mlaSplits(4096*2, 2048, 132); s != 1 {
		t.Errorf("4096 rows of 128 heads: %d splits", s)
	}
}

// BenchmarkMLA reports attention in latent space beside FlashMLA's time for the
// same case on an H200 (microseconds; bf16 prefill and dense decode, FP8 sparse
// decode).
func BenchmarkMLA(b *testing.B) {
	d := newTestDevice(b)
	for _, bc := range []struct {
		format           device.CacheFormat
		heads            int
		seqs, rows, keys int // rows of each sequence
		sparse           bool
		anchor           float64
	}{
		{device.CacheBF16, 128, 1, 4096, 8192, true, 3858},
		{device.CacheF8, 128, 1, 4096, 8192, true, 3858},
		{device.CacheF8, 128, 1, 1, 16384, true, 21.7},
		{device.CacheF8, 128, 32, 1, 16384, true, 65.8},
		{device.CacheF8, 128, 128, 1, 16384, true, 187},
		{device.CacheBF16, 128, 128, 1, 16384, true, 187},
		{device.CacheBF16, 128, 128, 1, 4096, false, 222},
		{device.CacheBF16, 128, 1, 1, 131072, false, 81},
		{device.CacheBF16, 16, 128, 1, 4096, false, 147},
	} {
		name := fmt.Sprintf("%v/heads=%d/seqs=%d/rows=%d/keys=%d/sparse=%t", bc.format, bc.heads, bc.seqs, bc.rows, bc.keys, bc.sparse)
		b.Run(name, func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			var runs []device.Run
			var sets [][]int32
			for s := range bc.seqs {
				for range bc.rows {
					r := device.Run{Seq: s, Pos: bc.keys - 1, KeyTo: bc.keys, Sel: -1}
					if bc.sparse {
						r.Sel = len(sets)
						sets = append(sets, mlaSpread(rng, bc.keys))
					}
					runs = append(runs, r)
				}
			}
			c := newMLACase(b, d, rng, bc.format, bc.heads, slices.Repeat([]int{bc.keys}, bc.seqs), runs, sets)
			a := c.args()
			keys := bc.keys
			if bc.sparse {
				keys = mlaTestTopK
			}
			splits := mlaSplits(len(runs)*divUp(bc.heads, mlaHeads), keys, d.info.Workers)
			us := mlaTime(b, d, func() { d.mlaTiled(a, splits) })
			b.ReportMetric(us, "µs")
			b.ReportMetric(us/bc.anchor, "of-anchor")
			b.ReportMetric(2*(2*mlaTestLatent+mlaTestRope)*float64(bc.heads*len(runs)*keys)/us/1e6, "TFLOP/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// mlaSpread selects positions of [0, n), one of each stretch of n/topk.
func mlaSpread(rng *rand.Rand, n int) []int32 {
	set := make([]int32, mlaTestTopK)
	for i := range set {
		set[i] = int32((float64(i) + rng.Float64()) * float64(n) / mlaTestTopK)
	}
	return set
}

// mlaTime returns the median of 20 calls in microseconds. The calls are queued
// behind a long one, so that the host's time does not show.
func mlaTime(b *testing.B, d *Device, f func()) float64 {
	const calls = 20
	var events [2 * calls]*driver.Event
	for i := range events {
		e, err := d.exec.NewEvent()
		if err != nil {
			b.Fatal(err)
		}
		defer e.Free()
		events[i] = e
	}
	for range 3 {
		f()
	}
	busy := mlaTensor(b, d, device.BF16, 1<<20, 1<<10)
	for range 8 {
		d.exec.Fill(ptr(busy), 0, busy.Bytes())
	}
	for i := range calls {
		d.exec.Record(events[2*i])
		f()
		d.exec.Record(events[2*i+1])
	}
	var us []float64
	for i := range calls {
		lap, err := d.exec.Elapsed(events[2*i], events[2*i+1])
		if err != nil {
			b.Fatal(err)
		}
		us = append(us, float64(lap.Nanoseconds())/1e3)
	}
	if err := d.Sync(); err != nil {
		b.Fatal(err)
	}
	slices.Sort(us)
	return us[calls/2]
}
