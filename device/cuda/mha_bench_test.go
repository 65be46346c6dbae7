package cuda

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"latent/device"
	"latent/device/cuda/driver"
)

// mhaBench is a case of BenchmarkMHA: causal attention of 128 heads of 192/128.
// anchor is the time of the fastest published kernel for it on an H200, measured
// under the same conditions (FlashAttention-3), in microseconds; for a masked
// case 1.08 times that of FlashAttention-3 without a mask.
type mhaBench struct {
	name   string
	seqs   []mhaSeq
	anchor float64
}

func mhaRepeat(n int, s mhaSeq) []mhaSeq { return slices.Repeat([]mhaSeq{s}, n) }

func mhaBenches() []mhaBench {
	var mixed []mhaSeq
	for _, n := range []int{137, 911, 2048, 64, 1500, 333, 2900, 299} {
		mixed = append(mixed, mhaSeq{rows: n})
	}
	return []mhaBench{
		{"1x2048", mhaRepeat(1, mhaSeq{rows: 2048}), 276},
		{"1x4096", mhaRepeat(1, mhaSeq{rows: 4096}), 1002},
		{"1x8192", mhaRepeat(1, mhaSeq{rows: 8192}), 4087},
		{"1x16384", mhaRepeat(1, mhaSeq{rows: 16384}), 15817},
		{"4x2048", mhaRepeat(4, mhaSeq{rows: 2048}), 1120},
		{"8x1024", mhaRepeat(8, mhaSeq{rows: 1024}), 659},
		{"16x512", mhaRepeat(16, mhaSeq{rows: 512}), 445},
		{"32x256", mhaRepeat(32, mhaSeq{rows: 256}), 358},
		{"mixed8", mixed, 1450},
		{"1x2048+6144", mhaRepeat(1, mhaSeq{rows: 2048, prefix: 6144}), 1698},
		{"1x1024+15360", mhaRepeat(1, mhaSeq{rows: 1024, prefix: 15360}), 1909},
		{"4x512+7680", mhaRepeat(4, mhaSeq{rows: 512, prefix: 7680}), 1968},
		{"masked/1x2048", mhaRepeat(1, mhaSeq{rows: 2048, mask: maskRandom}), 295 * 1.08},
		{"masked/1x4096", mhaRepeat(1, mhaSeq{rows: 4096, mask: maskRandom}), 1002 * 1.08},
		{"masked/1x8192", mhaRepeat(1, mhaSeq{rows: 8192, mask: maskRandom}), 4174 * 1.08},
		{"masked/1x2048+6144", mhaRepeat(1, mhaSeq{rows: 2048, prefix: 6144, mask: maskRandom}), 1698 * 1.08},
	}
}

// BenchmarkMHA reports the median and the least time of 30 calls, the rate of
// the pairs below the diagonal (half of a square) and the ratio to the anchor.
// -benchtime=1x is enough.
func BenchmarkMHA(b *testing.B) {
	d := openTest(b)
	defer d.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range mhaBenches() {
		b.Run(c.name, func(b *testing.B) {
			call := newMHABench(b, d, rng, deepseekSizes, 128, c.seqs)
			pairs := 0.0
			for _, s := range c.seqs {
				pairs += float64(s.rows)*float64(s.prefix) + float64(s.rows)*float64(s.rows)/2
			}
			flops := 2 * float64(192+128) * 128 * pairs
			for b.Loop() {
				times := mhaTimes(b, d, 30, func() { d.mha(call) })
				us := float64(times[len(times)/2].Nanoseconds()) / 1000
				b.ReportMetric(us, "us")
				b.ReportMetric(float64(times[0].Nanoseconds())/1000, "us-min")
				b.ReportMetric(flops/us/1e6, "TF")
				b.ReportMetric(us/c.anchor, "of-anchor")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// mhaTimes queues calls of f, each between two events, after three that are not
// counted, and returns their times in ascending order.
func mhaTimes(b *testing.B, d *Device, n int, f func()) []time.Duration {
	events := make([]*driver.Event, 2*n)
	for i := range events {
		var err error
		if events[i], err = d.exec.NewEvent(); err != nil {
			b.Fatal(err)
		}
		defer events[i].Free()
	}
	for range 3 {
		f()
	}
	for i := range n {
		d.exec.Record(events[2*i])
		f()
		d.exec.Record(events[2*i+1])
	}
	times := make([]time.Duration, n)
	for i := range times {
		var err error
		if times[i], err = d.exec.Elapsed(events[2*i], events[2*i+1]); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Sync(); err != nil {
		b.Fatal(err)
	}
	slices.Sort(times)
	return times
}

// newMHABench draws a call with inputs on the device only.
func newMHABench(b *testing.B, d *Device, rng *rand.Rand, sizes mhaSizes, heads int, seqs []mhaSeq) *mhaCall {
	c := &mhaCall{mhaSizes: sizes, heads: heads, scale: float32(1 / math.Sqrt(float64(sizes.nope+sizes.rope)))}
	context := 0
	for _, s := range seqs {
		r := device.Run{Row: c.rows, Rows: s.rows, Pos: s.prefix, KeyTo: s.prefix + s.rows, Keys: c.keys, Sel: -1}
		if s.mask != maskNone {
			r.Sel = c.rows
		}
		c.runs = append(c.runs, r)
		c.rows += s.rows
		c.keys += r.KeyTo
		context = max(context, r.KeyTo)
	}
	c.pitch = divUp(context, 128) * 4
	fill := func(bytes int64, block []byte) driver.Ptr {
		m := mhaAlloc(b, d, bytes)
		for at := int64(0); at < bytes; at += int64(len(block)) {
			n := min(bytes-at, int64(len(block)))
			if at == 0 {
				d.exec.UploadBytes(m.addr, block[:n])
			} else {
				d.exec.Copy(m.addr+driver.Ptr(at), m.addr, n)
			}
		}
		return m.addr
	}
	noise := make([]byte, 2*(1<<22+12345*8)) // repeats out of step with rows and heads
	for i, v := range mhaNormals(rng, len(noise)/2) {
		noise[2*i], noise[2*i+1] = byte(v), byte(v>>8)
	}
	c.q = fill(int64(2*c.rows*heads*(sizes.nope+sizes.rope)), noise)
	c.kv = fill(int64(2*c.keys*heads*(sizes.nope+sizes.value)), noise)
	c.ropes = fill(int64(2*c.keys*sizes.rope), noise)
	bits := make([]byte, 1<<20+40)
	for i := range bits {
		bits[i] = byte(rng.Uint32())
	}
	c.mask = fill(int64(4*c.rows*c.pitch), bits)
	c.out = fill(int64(2*c.rows*heads*sizes.value), noise)
	c.lse = fill(int64(4*c.rows*heads), noise)
	d.Begin(&device.Step{Tokens: make([]int32, c.rows), Positions: make([]int32, c.rows), Slots: make([]int32, c.rows)})
	return c
}
