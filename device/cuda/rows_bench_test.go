package cuda

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"latent/device"
	"latent/device/cuda/driver"
)

// BenchmarkRows times the operations by row with the dimensions of DeepSeek-V3.2
// and reports them against copying at 4.25 TB/s, what the memory of an H200 does.
// Calls run from a captured graph and take turns among operands larger together
// than the L2 cache.
func BenchmarkRows(b *testing.B) {
	const (
		hidden, heads, rank = 7168, 128, 512
		inner, experts      = 2048, 256
		vocabulary          = 129280
		peak                = 4.25e12 // bytes a second
		beyondL2            = 200 << 20
	)
	rt := newRowsTest(b)
	d := rt.dev
	cache := func(f device.CacheFormat) device.Cache {
		c, err := d.NewCache(device.CacheSpec{Format: f, Pages: 64, Layers: 1, Indexed: []int{0}, Latent: rank, Rope: 64, IndexDim: 128})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(c.Free)
		return c
	}
	caches := map[device.CacheFormat]device.Cache{device.CacheBF16: cache(device.CacheBF16), device.CacheF8: cache(device.CacheF8)}
	ones := rt.put(device.F32, hidden, rt.normal(hidden, 1))
	rope := device.Rope{Cos: rt.put(device.F32, 32, rt.normal(32*4096, 1)), Sin: rt.put(device.F32, 32, rt.normal(32*4096, 1)), Interleaved: true}
	half := rope
	half.Interleaved = false
	table := rt.put(device.BF16, hidden, rt.normal(4096*hidden, 1))
	router := device.Router{Score: device.Sigmoid, Limit: device.GroupTop2Sum, Groups: 8, KeepGroups: 4, Choose: 8, Normalize: true, Scale: 2.5}

	// Logits have just been computed when a token is chosen: they stay in L2.
	const sampled = 32
	logits := rt.put(device.F32, vocabulary, rt.normal(sampled*vocabulary, 3))

	// room is a block from which every call takes other operands.
	noise := rt.normal(1<<20, 1)
	room := rt.alloc(device.BF16, 1, beyondL2)
	for at := 0; at < beyondL2; at += len(noise) {
		part := device.Tensor{Type: device.BF16, Rows: 1, Cols: len(noise), Mem: room.Mem, Offset: int64(2 * at)}
		d.exec.Copy(ptr(part), ptr(rt.put(device.BF16, len(noise), noise)), part.Bytes())
		if at > 16<<20 {
			break
		}
	}
	for at := int64(16 << 20); at < 2*beyondL2; at *= 2 {
		d.exec.Copy(ptr(room)+driver.Ptr(at), ptr(room), min(at, 2*beyondL2-at))
	}

	for _, rows := range []int{1, 32, 2048} {
		step := device.Step{Seqs: []device.Seq{{Rows: rows, Pages: make([]int32, 64)}}}
		for i := range rows {
			step.Tokens, step.Positions = append(step.Tokens, int32(i*37%4096)), append(step.Positions, int32(i))
			step.Slots = append(step.Slots, int32(i))
		}
		for i := range step.Seqs[0].Pages {
			step.Seqs[0].Pages[i] = int32(i)
		}
		d.Begin(&step)
		runs := []device.Run{{Rows: rows, KeyTo: rows, Sel: -1}}
		draws := make([]device.Draw, rows)
		for i := range draws {
			draws[i] = device.Draw{Temperature: 0.7, TopP: 0.95, TopK: 50, Vocabulary: vocabulary, Uniform: 0.5}
		}
		greedy := make([]device.Draw, rows)
		for i := range greedy {
			greedy[i].Vocabulary = vocabulary
		}
		var next int64
		take := func(typ device.DType, cols int) device.Tensor {
			v := device.Tensor{Type: typ, Rows: rows, Cols: cols, Mem: room.Mem}
			if next+v.Bytes() > 2*beyondL2 {
				next = 0
			}
			v.Offset = next
			next += (v.Bytes() + 255) / 256 * 256
			return v
		}
		bf16, f32, i32 := device.BF16, device.F32, device.I32
		for _, op := range []struct {
			name  string
			bytes int // a row, read and written
			call  func()
		}{
			{"Embed", 4 * hidden, func() { d.Embed(take(bf16, hidden), table) }},
			{"RMSNorm-7168", 4 * hidden, func() { d.RMSNorm(take(bf16, hidden), take(bf16, hidden), ones, 1e-6) }},
			{"RMSNorm-1536", 4 * 1536, func() {
				w := ones
				w.Cols = 1536
				d.RMSNorm(take(bf16, 1536), take(bf16, 1536), w, 1e-6)
			}},
			{"SwiGLU-2048", 6 * inner, func() { d.SwiGLU(take(bf16, inner), take(bf16, 2*inner)) }},
			{"SwiGLU-18432", 6 * 18432, func() { d.SwiGLU(take(bf16, 18432), take(bf16, 2*18432)) }},
			{"RopeQuery-interleaved", 4 * heads * 64, func() { d.RopeQuery(take(bf16, heads*192), heads, rope) }},
			{"RopeQuery-half", 4 * heads * 64, func() { d.RopeQuery(take(bf16, heads*192), heads, half) }},
			{"IndexQuery-bf16", 4 * 64 * 64, func() {
				d.IndexQuery(caches[device.CacheBF16], take(bf16, 64*128), take(f32, 64), 0.1, half, runs)
			}},
			{"IndexQuery-fp8", 3 * 64 * 128, func() {
				d.IndexQuery(caches[device.CacheF8], take(bf16, 64*128), take(f32, 64), 0.1, half, runs)
			}},
			{"StoreLatent-bf16", 4 * 576, func() {
				w := ones
				w.Cols = rank
				d.StoreLatent(caches[device.CacheBF16], 0, take(bf16, 576), w, 1e-6, rope)
			}},
			{"StoreLatent-fp8", 2*576 + 656, func() {
				w := ones
				w.Cols = rank
				d.StoreLatent(caches[device.CacheF8], 0, take(bf16, 576), w, 1e-6, rope)
			}},
			{"StoreIndexKey-fp8", 2*128 + 132, func() {
				w := ones
				w.Cols = 128
				d.StoreIndexKey(caches[device.CacheF8], 0, take(bf16, 128), w, w, 1e-6, half)
			}},
			{"Route-256", 4 * experts, func() { d.Route(take(i32, 8), take(f32, 8), take(f32, experts), device.Tensor{}, router) }},
			{"MergeLSE-128", 6 * heads * 128, func() {
				d.MergeLSE(take(bf16, heads*128), take(f32, heads), take(bf16, heads*128), take(f32, heads), runs)
			}},
			{"Sample-greedy", 4 * vocabulary, func() { d.Sample(take(i32, 1), logits.Slice(0, rows), greedy) }},
			{"Sample-top", 4 * vocabulary, func() { d.Sample(take(i32, 1), logits.Slice(0, rows), draws) }},
		} {
			if strings.HasPrefix(op.name, "Sample") && rows > sampled {
				continue
			}
			b.Run(fmt.Sprintf("%s/rows=%d", op.name, rows), func(b *testing.B) {
				calls := 40
				if strings.HasPrefix(op.name, "Sample") {
					calls = 10 // each has its draws in the geometry
				}
				at := timeCaptured(b, d, &step, calls, op.call)
				bytes := float64(rows * op.bytes)
				b.ReportMetric(float64(at.Nanoseconds())/1000, "us/call")
				b.ReportMetric(bytes/at.Seconds()/1e9, "GB/s")
				b.ReportMetric(bytes/peak/at.Seconds(), "of-peak")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// timeCaptured returns the time on the device of one of calls calls of f,
// captured together; the best of b.N replays and two more.
func timeCaptured(b *testing.B, d *Device, step *device.Step, calls int, f func()) time.Duration {
	graph, err := d.Capture(step, len(step.Seqs[0].Pages), func() {
		for range calls {
			f()
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	defer graph.Free()
	from, err := d.exec.NewEvent()
	if err != nil {
		b.Fatal(err)
	}
	defer from.Free()
	to, err := d.exec.NewEvent()
	if err != nil {
		b.Fatal(err)
	}
	defer to.Free()
	best := time.Duration(1 << 62)
	for range b.N + 2 {
		d.exec.Record(from)
		graph.Replay()
		d.exec.Record(to)
		lap, err := d.exec.Elapsed(from, to)
		if err != nil {
			b.Fatal(err)
		}
		best = min(best, lap)
	}
	return best / time.Duration(calls)
}
