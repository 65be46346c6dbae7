package devicetest

import (
	"errors"
	"math"
	"time"

	"latent/device"
)

// Devices with one method that is wrong.

type indexWeightsNotScaled struct{ naive }

func (d *indexWeightsNotScaled) IndexQuery(c device.Cache, q, w device.Tensor, scale float32, rope device.Rope, runs []device.Run) {
	d.naive.IndexQuery(c, q, w, 1, rope, runs)
}

type scratchQuery struct{ naive }

func (d *scratchQuery) MHA(out, lse, q device.Tensor, kv device.Memory, kvb device.KVB, sel device.Selection, scale float32, runs []device.Run) {
	d.naive.MHA(out, lse, q, kv, kvb, sel, scale, runs)
	set(q, runs[0].Row, make([]float64, q.Cols))
}

type oneRowTooMany struct{ naive }

func (d *oneRowTooMany) RMSNorm(dst, src, weight device.Tensor, eps float32) {
	d.naive.RMSNorm(dst, src, weight, eps)
	dst.Rows++
	set(dst, dst.Rows-1, make([]float64, dst.Cols))
}

type offsetIgnored struct{ naive }

func (d *offsetIgnored) Upload(dst device.Tensor, src []byte) {
	dst.Offset = 0
	d.naive.Upload(dst, src)
}

// lateUpload copies an upload only when the next operation comes.
type lateUpload struct {
	naive
	dst device.Tensor
	src []byte
}

func (d *lateUpload) Upload(dst device.Tensor, src []byte) {
	d.flush()
	d.dst, d.src = dst, src
}

func (d *lateUpload) flush() {
	if d.src != nil {
		d.naive.Upload(d.dst, d.src)
	}
}

func (d *lateUpload) Download(b []byte, src device.Tensor) error {
	d.flush()
	return d.naive.Download(b, src)
}

type embedByRow struct{ naive }

func (d *embedByRow) Embed(dst, table device.Tensor) {
	for r := range d.step.Tokens {
		set(dst, r, get(table, r%table.Rows))
	}
}

type gatherFirst struct{ naive }

func (d *gatherFirst) Gather(dst, src device.Tensor, rows []int32) {
	for i := range rows {
		set(dst, i, get(src, i%src.Rows))
	}
}

// batchNoise changes results by one unit in the last place in calls with more
// than one row.
type batchNoise struct{ naive }

func nudge(t device.Tensor) {
	if t.Rows < 2 {
		return
	}
	for r := range t.Rows {
		x := get(t, r)
		for i := range x {
			x[i] = float64(math.Float32frombits(math.Float32bits(float32(x[i])) ^ 1))
		}
		set(t, r, x)
	}
}

func (d *batchNoise) Linear(dst, src device.Tensor, w device.Matrix, add bool) {
	d.naive.Linear(dst, src, w, add)
	nudge(dst)
}

func (d *batchNoise) RMSNorm(dst, src, weight device.Tensor, eps float32) {
	d.naive.RMSNorm(dst, src, weight, eps)
	nudge(dst)
}

func (d *batchNoise) MoE(dst, src, ids, weights device.Tensor, experts device.Experts) {
	d.naive.MoE(dst, src, ids, weights, experts)
	nudge(dst)
}

func (d *batchNoise) MHA(out, lse, q device.Tensor, kv device.Memory, kvb device.KVB, sel device.Selection, scale float32, runs []device.Run) {
	d.naive.MHA(out, lse, q, kv, kvb, sel, scale, runs)
	nudge(out)
}

func (d *batchNoise) StoreLatent(cache device.Cache, layer int, u, weight device.Tensor, eps float32, rope device.Rope) {
	if u.Rows > 1 {
		eps *= 1.5
	}
	d.naive.StoreLatent(cache, layer, u, weight, eps, rope)
}

type panics struct{ naive }

func (d *panics) Linear(dst, src device.Tensor, w device.Matrix, add bool) { panic("shape") }

type failing struct{ naive }

func (d *failing) Sync() error { return errors.New("out of memory") }

// stopwatch counts time from mark to mark, with a mistake.
type stopwatch struct {
	marks             []time.Time
	keep, accumulates bool
}

func (s *stopwatch) Mark() { s.marks = append(s.marks, time.Now()) }

func (s *stopwatch) Reset() {
	if !s.keep {
		s.marks = nil
	}
}

func (s *stopwatch) Laps(dst []time.Duration) []time.Duration {
	for i := 1; i < len(s.marks); i++ {
		from := i - 1
		if s.accumulates {
			from = 0
		}
		dst = append(dst, s.marks[i].Sub(s.marks[from]))
	}
	return dst
}

type neverReset struct{ naive }

func (d *neverReset) NewStopwatch() device.Stopwatch { return &stopwatch{keep: true} }

type sinceFirst struct{ naive }

func (d *sinceFirst) NewStopwatch() device.Stopwatch { return &stopwatch{accumulates: true} }
