package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latent/device"
	"latent/device/cpu/kern"
)

// Benchmarks report "peak", the share of what the product kernel reaches on
// data in the first-level cache, measured before and after, both in processor
// time, so that a busy machine does not distort them much. They use one thread.

func cpuTime() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// kernelRate returns the multiply-adds per second of the product kernel.
func kernelRate(k *kern.Kernels) float64 {
	const depth = 128
	a, b, c := alignedFloats(k.Rows*depth), alignedFloats(depth*kern.N), alignedFloats(k.Rows*kern.N)
	start, n := cpuTime(), 0
	for cpuTime()-start < 10*time.Millisecond {
		for range 200 {
			k.Gemm(k.Rows, depth, a, 1, k.Rows, b, kern.N, c, kern.N)
			n += k.Rows * depth * kern.N
		}
	}
	return float64(n) / (cpuTime() - start).Seconds()
}

// measure runs f and reports its share of the kernel's rate for ops
// multiply-adds a call, and bytes a second if bytes is not 0.
func measure(b *testing.B, d *Device, ops, bytes float64, f func()) {
	f()
	rate := kernelRate(d.k)
	b.ResetTimer()
	start := cpuTime()
	for range b.N {
		f()
	}
	t := (cpuTime() - start).Seconds() / float64(b.N)
	b.StopTimer()
	rate = (rate + kernelRate(d.k)) / 2
	b.ReportMetric(ops/t/rate, "peak")
	b.ReportMetric(t*1e6, "cpu-µs/op")
	if bytes > 0 {
		b.ReportMetric(bytes/t/1e9, "GB/s")
	}
}

func benchDevice(b *testing.B) (*Device, *rand.Rand) {
	return newTestDevice(b, Options{Threads: 1}), rand.New(rand.NewPCG(1, 2))
}

func BenchmarkLinear(b *testing.B) {
	d, rng := benchDevice(b)
	for _, typ := range []device.DType{device.BF16, device.F8E4M3, device.F32} {
		const in, out = 1024, 2048
		m, err := d.LoadMatrix(device.F32, source(rng, typ, out, in, rng.Float32))
		if err != nil {
			b.Fatal(err)
		}
		for _, rows := range []int{1, 4, 5, 8, 16, 64, 512} {
			src, dst := tensor(b, d, rows, in, normal(rng)), tensor(b, d, rows, out, normal(rng))
			b.Run(fmt.Sprintf("%v/%d", typ, rows), func(b *testing.B) {
				measure(b, d, float64(rows)*in*out, float64(m.Bytes()), func() { d.Linear(dst, src, m, false) })
			})
		}
	}
}

func BenchmarkMoE(b *testing.B) {
	d, rng := benchDevice(b)
	const hidden, inner, count, choose = 1024, 512, 64, 8
	var ex []device.ExpertSource
	for range count {
		ex = append(ex, device.ExpertSource{
			Gate: source(rng, device.BF16, inner, hidden, nil), Up: source(rng, device.BF16, inner, hidden, nil),
			Down: source(rng, device.BF16, hidden, inner, nil),
		})
	}
	m, err := d.LoadExperts(device.F32, ex)
	if err != nil {
		b.Fatal(err)
	}
	for _, rows := range []int{1, 16, 64, 512} {
		src, dst := tensor(b, d, rows, hidden, normal(rng)), tensor(b, d, rows, hidden, normal(rng))
		ids, w := tensor(b, d, rows, choose, normal(rng)), tensor(b, d, rows, choose, normal(rng))
		ids.Type = device.I32
		used := map[int32]bool{}
		for i := range rows {
			for j, e := range rng.Perm(count)[:choose] {
				ints("test", "ids", ids)[i*choose+j] = int32(e)
				used[int32(e)] = true
			}
		}
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			measure(b, d, 3*float64(rows)*choose*hidden*inner, 2*3*float64(len(used))*hidden*inner, func() { d.MoE(dst, src, ids, w, m) })
		})
	}
}

// BenchmarkAttention measures the attention operations with the head sizes of
// DeepSeek-V3.2 and the numbers of heads and of selected keys of
// configs/bench-0.85b.json, for the last rows of a context.
func BenchmarkAttention(b *testing.B) {
	d, rng := benchDevice(b)
	const heads, r, dn, dr, dv, hi, di, topk = 16, 512, 128, 64, 128, 16, 128, 256
	kvb, err := d.LoadKVB(device.F32, heads, dn, dv, source(rng, device.BF16, heads*(dn+dv), r, nil))
	if err != nil {
		b.Fatal(err)
	}
	for _, format := range []device.CacheFormat{device.CacheF32, device.CacheBF16, device.CacheF8} {
		for _, s := range []struct{ rows, context int }{{1, 4096}, {16, 1024}, {512, 512}, {256, 2048}} {
			pages := make([]int32, (s.context+63)/64)
			for i := range pages {
				pages[i] = int32(i)
			}
			ca, err := d.NewCache(device.CacheSpec{Format: format, Pages: len(pages), Layers: 1, Indexed: []int{0}, Latent: r, Rope: dr, IndexDim: di})
			if err != nil {
				b.Fatal(err)
			}
			one := func(n int) device.Tensor { return tensor(b, d, 1, n, func(int) float32 { return 1 }) }
			fill := &device.Step{Seqs: []device.Seq{{Rows: s.context, Pages: pages}}}
			for p := range s.context {
				fill.Tokens, fill.Positions, fill.Slots = append(fill.Tokens, 0), append(fill.Positions, int32(p)), append(fill.Slots, int32(p))
			}
			d.Begin(fill)
			d.StoreLatent(ca, 0, tensor(b, d, s.context, r+dr, normal(rng)), one(r), 1e-6, identity(b, d, s.context, dr))
			d.StoreIndexKey(ca, 0, tensor(b, d, s.context, di, normal(rng)), one(di), one(di), 1e-6, identity(b, d, s.context, dr))
			from := s.context - s.rows
			step := &device.Step{
				Tokens: fill.Tokens[from:], Positions: fill.Positions[from:], Slots: fill.Slots[from:],
				Seqs: []device.Seq{{Rows: s.rows, Prefix: from, Pages: pages}},
			}
			d.Begin(step)
			runs := []device.Run{{Rows: s.rows, Pos: from, KeyTo: s.context, Sel: -1}}
			pairs := float64(s.rows)*float64(from) + float64(s.rows)*float64(s.rows+1)/2
			rows := func(n int) device.Tensor { return tensor(b, d, s.rows, n, normal(rng)) }
			q, qa, z, out, lse := rows(heads*(dn+dr)), rows(heads*(r+dr)), rows(heads*r), rows(heads*dv), rows(heads)
			kv, err := d.Alloc(d.KVBytes(kvb, dr, s.context))
			if err != nil {
				b.Fatal(err)
			}
			name := fmt.Sprintf("%v/%dof%d", format, s.rows, s.context)
			run := func(op string, ops, bytes float64, f func()) {
				b.Run(op+"/"+name, func(b *testing.B) { measure(b, d, ops, bytes, f) })
			}
			if format == device.CacheF32 {
				run("Absorb", float64(s.rows)*heads*dn*r, 0, func() { d.Absorb(qa, q, kvb, runs) })
				run("Unabsorb", float64(s.rows)*heads*dv*r, 0, func() { d.Unabsorb(out, z, kvb, runs) })
			}
			run("ExpandKV", float64(s.context)*heads*(dn+dv)*r, 0, func() {
				d.ExpandKV(kv, ca, 0, kvb, []device.KeyRange{{To: s.context}})
			})
			if format == device.CacheF32 {
				run("MHA", pairs*heads*(dn+dr+dv), 0, func() { d.MHA(out, lse, q, kv, kvb, nil, 0.1, runs) })
			}
			run("MLA", pairs*heads*(2*r+dr), 0, func() { d.MLA(z, lse, qa, ca, 0, nil, 0.1, runs) })
			iq, iw, scores := rows(hi*di), rows(hi), rows(s.context)
			run("IndexScores", pairs*hi*di, 0, func() { d.IndexScores(scores, iq, iw, ca, 0, runs) })
			selected := []device.Run{runs[0]}
			selected[0].Sel = 0
			k := min(topk, s.context/2)
			indices, err := d.NewSelection(device.SelectIndices, s.rows, s.context, k)
			if err != nil {
				b.Fatal(err)
			}
			if format == device.CacheF32 {
				run("SelectTopK", 0, 4*pairs, func() { d.SelectTopK(indices, scores, k, selected) })
			}
			d.SelectTopK(indices, scores, k, selected)
			if format == device.CacheF32 {
				mask, err := d.NewSelection(device.SelectMask, s.rows, s.context, k)
				if err != nil {
					b.Fatal(err)
				}
				d.SelectTopK(mask, scores, k, selected)
				run("MHAMasked", pairs*heads*(dn+dr+dv), 0, func() { d.MHA(out, lse, q, kv, kvb, mask, 0.1, selected) })
			}
			run("MLASparse", min(pairs, float64(k)*float64(s.rows))*heads*(2*r+dr), 0, func() { d.MLA(z, lse, qa, ca, 0, indices, 0.1, selected) })
			kv.Free()
			ca.Free()
		}
	}
}
