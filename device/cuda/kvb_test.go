package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"latent/device"
)

// beginRows begins a step of one sequence with rows new tokens behind prefix
// cached ones, its pages in reverse order.
func beginRows(d *Device, prefix, rows int) *device.Step {
	s := &device.Step{
		Tokens: make([]int32, rows), Positions: make([]int32, rows), Slots: make([]int32, rows),
		Seqs: []device.Seq{{Rows: rows, Prefix: prefix}},
	}
	pages := divUp(prefix+rows, device.PageTokens)
	for i := range pages {
		s.Seqs[0].Pages = append(s.Seqs[0].Pages, int32(pages-1-i))
	}
	d.Begin(s)
	return s
}

// loadTestKVB loads a random kv_b of a model of these sizes.
func loadTestKVB(t testing.TB, d *Device, rng *rand.Rand, heads, nope, value, latent int) (*kvb, []float64) {
	t.Helper()
	v := normals(rng, heads*(nope+value)*latent)
	for i := range v {
		v[i] /= math.Sqrt(float64(latent))
	}
	data, rounded := encodeBF16(v)
	w, err := d.LoadKVB(device.BF16, heads, nope, value, device.MatrixSource{
		Name: "kv_b", Rows: heads * (nope + value), Cols: latent, Type: device.BF16, Data: data,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w.(*kvb), rounded
}

// TestExpandedRoom asks for memory for some keys and finds room for as many.
func TestExpandedRoom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		w := &kvb{heads: 1 + rng.IntN(5), nope: 1 + rng.IntN(130), value: 1 + rng.IntN(130), latent: 1 + rng.IntN(520)}
		rope, keys := rng.IntN(65), rng.IntN(3000)
		m := &memory{bytes: expandedLayout(w, rope, keys).bytes + int64(rng.IntN(2)*rng.IntN(100000))}
		_, e, room := expanded("test", m, w, rope)
		if room < keys || e.bytes > m.bytes || e != expandedLayout(w, rope, room) || expandedLayout(w, rope, room+1).bytes <= m.bytes {
			t.Fatalf("%+v, rope %d: room for %d keys in %d bytes, asked for %d; layout %+v", w, rope, room, m.bytes, keys, e)
		}
	}
}

// TestConsecutive says which runs need no gathering.
func TestConsecutive(t *testing.T) {
	for _, x := range []struct {
		runs  []device.Run
		first int
		ok    bool
	}{
		{[]device.Run{{Row: 7, Rows: 2}}, 7, true},
		{[]device.Run{{Row: 2}, {Row: 7, Rows: 2}, {Row: 1}, {Row: 9, Rows: 1}}, 7, true},
		{[]device.Run{{Row: 7, Rows: 2}, {Row: 10, Rows: 1}}, 0, false},
		{[]device.Run{{Row: 7, Rows: 2}, {Row: 7, Rows: 2}}, 0, false},
	} {
		if first, ok := consecutive(x.runs); first != x.first || ok != x.ok {
			t.Errorf("%+v: %d, %v", x.runs, first, ok)
		}
	}
}

// TestAbsorbReal checks absorption and its inverse at sizes of real models, for
// rows that follow one another and rows that do not, at places drawn at random.
func TestAbsorbReal(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(21, 22))
	for _, x := range []struct{ heads, nope, rope, value, latent int }{{128, 128, 64, 128, 512}, {20, 192, 64, 256, 512}} {
		w, weight := loadTestKVB(t, d, rng, x.heads, x.nope, x.value, x.latent)
		const rows = 70
		beginRows(d, 3, rows)
		for _, runs := range [][]device.Run{
			{{Row: 0, Rows: 1, Sel: -1}},
			{{Row: 5, Rows: 30, Sel: -1}, {Row: 35, Sel: -1}, {Row: 35, Rows: 35, Sel: -1}},
			{{Row: 40, Rows: 9, Sel: -1}, {Row: 2, Rows: 1, Sel: -1}, {Row: 3, Rows: 7, Sel: -1}},
		} {
			what := fmt.Sprintf("%d heads, %d runs", x.heads, len(runs))
			n, width := device.RunRows(runs), x.nope+x.rope
			var at []int // row of the step
			for _, r := range runs {
				for i := range r.Rows {
					at = append(at, r.Row+i)
				}
			}
			data, q := encodeBF16(normals(rng, rows*x.heads*width))
			qa := newTensor(t, d, device.BF16, n, x.heads*(x.latent+x.rope), nil)
			d.Absorb(qa, newTensor(t, d, device.BF16, rows, x.heads*width, data), w, runs)
			got := readTensor(t, d, qa)
			var m mismatch
			for range 2000 {
				i, h, c := rng.IntN(n), rng.IntN(x.heads), rng.IntN(x.latent+x.rope)
				in := q[(at[i]*x.heads+h)*width:]
				want, allowed := 0.0, 1e-30
				if c >= x.latent {
					want = in[x.nope+c-x.latent]
				} else {
					squares := 0.0
					for j := range x.nope {
						v := in[j] * weight[(h*(x.nope+x.value)+j)*x.latent+c]
						want += v
						squares += v * v
					}
					allowed = math.Abs(want)/256 + math.Sqrt(squares)/1e4
				}
				m.see(i, h*(x.latent+x.rope)+c, got[(i*x.heads+h)*(x.latent+x.rope)+c], want, allowed)
			}
			m.report(t, "Absorb, "+what)

			data, z := encodeBF16(normals(rng, n*x.heads*x.latent))
			out := newTensor(t, d, device.BF16, rows, x.heads*x.value, nil)
			d.exec.Fill(ptr(out), 0x41, out.Bytes())
			d.Unabsorb(out, newTensor(t, d, device.BF16, n, x.heads*x.latent, data), w, runs)
			got = readTensor(t, d, out)
			m = mismatch{}
			for range 2000 {
				i, h, c := rng.IntN(n), rng.IntN(x.heads), rng.IntN(x.value)
				want, squares := 0.0, 0.0
				for j := range x.latent {
					v := z[(i*x.heads+h)*x.latent+j] * weight[(h*(x.nope+x.value)+x.nope+c)*x.latent+j]
					want += v
					squares += v * v
				}
				m.see(at[i], h*x.value+c, got[(at[i]*x.heads+h)*x.value+c], want, math.Abs(want)/256+math.Sqrt(squares)/1e4)
			}
			touched := map[int]bool{}
			for _, r := range at {
				touched[r] = true
			}
			untouched := roundToBF16(float64(math.Float32frombits(0x41410000)))
			for r := range rows {
				if !touched[r] {
					c := rng.IntN(out.Cols)
					m.see(r, c, got[r*out.Cols+c], untouched, 1e-30)
				}
			}
			m.report(t, "Unabsorb, "+what)
		}
	}
}

// TestExpandReal expands records that are written to the cache byte by byte, in
// ranges that leave a gap and overlap nothing.
func TestExpandReal(t *testing.T) {
	d := newTestDevice(t)
	rng := rand.New(rand.NewPCG(23, 24))
	const heads, nope, value, latent, rope, tokens = 128, 128, 128, 512, 64, 700
	w, weight := loadTestKVB(t, d, rng, heads, nope, value, latent)
	step := beginRows(d, tokens-1, 1)
	pages := len(step.Seqs[0].Pages)
	for _, format := range []device.CacheFormat{device.CacheBF16, device.CacheF8} {
		ca, err := d.NewCache(device.CacheSpec{Format: format, Pages: pages, Layers: 2, Latent: latent, Rope: rope})
		if err != nil {
			t.Fatal(err)
		}
		c := ca.(*cache)
		// A record's values, and its bytes.
		values := make([][]float64, tokens)
		pool := make([]byte, int64(c.tokens())*c.latentPitch)
		for p := range tokens {
			data, v := encodeBF16(normals(rng, latent+rope))
			if format == device.CacheF8 {
				codes := make([]byte, 0, c.latentPitch)
				var scales []float32
				for b := 0; b < latent; b += 128 {
					s := device.QuantScale(float32(rng.Float64() * 100))
					scales = append(scales, s)
					for i := range 128 {
						code := byte(rng.IntN(127) | rng.IntN(2)<<7)
						codes = append(codes, code)
						v[b+i] = float64(device.F32FromF8(code) * s)
					}
				}
				data = append(floatBytes(codes, scales...), data[2*latent:]...)
			}
			values[p] = v
			slot := int64(step.Seqs[0].Pages[p/device.PageTokens])*device.PageTokens + int64(p%device.PageTokens)
			copy(pool[slot*c.latentPitch:], data)
		}
		d.exec.UploadBytes(c.latents(1), pool)

		ranges := []device.KeyRange{{From: 0, To: 333, Keys: 0}, {From: 350, To: 351, Keys: 333}, {From: 400, To: tokens, Keys: 340}}
		keys := 340 + tokens - 400
		kv := newTensor(t, d, device.BF16, 1, int(d.KVBytes(w, rope, keys)/2)+1000, nil)
		d.ExpandKV(kv.Mem, c, 1, w, ranges)
		got := readTensor(t, d, kv)
		_, e, room := expanded("test", kv.Mem, w, rope)
		if room < keys {
			t.Fatalf("room for %d keys, want %d", room, keys)
		}
		var m, exact mismatch
		for _, r := range ranges {
			for range 1500 {
				p := r.From + rng.IntN(r.To-r.From)
				key, h, o := r.Keys+p-r.From, rng.IntN(heads), rng.IntN(nope+value)
				want, squares := 0.0, 0.0
				for j := range latent {
					v := values[p][j] * weight[(h*(nope+value)+o)*latent+j]
					want += v
					squares += v * v
				}
				m.see(key, h*(nope+value)+o, got[(key*heads+h)*(nope+value)+o], want, math.Abs(want)/256+math.Sqrt(squares)/1e4)
				i := rng.IntN(rope)
				exact.see(key, i, got[int(e.rope/2)+key*rope+i], values[p][latent+i], 1e-30)
			}
		}
		m.report(t, fmt.Sprintf("%v", format))
		exact.report(t, fmt.Sprintf("%v, rope keys", format))
		c.Free()
	}
}

// BenchmarkKVB times absorption and its inverse by rows, and expansion by keys,
// for 128 heads of DeepSeek-V3.2. Run it with -benchtime=1x.
func BenchmarkKVB(b *testing.B) {
	d := newTestDevice(b)
	rng := rand.New(rand.NewPCG(25, 26))
	const heads, nope, value, latent, rope = 128, 128, 128, 512, 64
	w, _ := loadTestKVB(b, d, rng, heads, nope, value, latent)
	few := newTensor(b, d, device.BF16, 1, heads*(latent+rope), nil)
	data, _ := encodeBF16(normals(rng, few.Cols))
	d.Upload(few, data)
	report := func(b *testing.B, us, flop, bytes float64) {
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(us, "us")
		b.ReportMetric(flop/us/1e6, "TFLOP/s")
		b.ReportMetric(bytes/us/1e6, "TB/s")
		b.ReportMetric(max(flop/peakBF16, bytes/peakBytes)*1e6/us, "of-floor")
	}
	for _, n := range []int{1, 8, 32, 128, 512, 2048, 4096} {
		qa := repeatRows(b, d, few, n)
		q, z := qa, qa // narrower views
		q.Cols, z.Cols = heads*(nope+rope), heads*latent
		dst := newTensor(b, d, device.BF16, n, heads*(latent+rope), nil)
		out := newTensor(b, d, device.BF16, n, heads*value, nil)
		beginRows(d, 0, n)
		runs := []device.Run{{Rows: n, KeyTo: n, Sel: -1}}
		flop, weights := 2*float64(n*heads*nope*latent), float64(2*heads*nope*latent)
		b.Run(fmt.Sprintf("Absorb/%d", n), func(b *testing.B) {
			report(b, gpuTime(b, d, 8, func(int) { d.Absorb(dst, q, w, runs) }), flop, weights+2*float64(n*(q.Cols+dst.Cols)))
		})
		b.Run(fmt.Sprintf("Unabsorb/%d", n), func(b *testing.B) {
			report(b, gpuTime(b, d, 8, func(int) { d.Unabsorb(out, z, w, runs) }), flop, weights+2*float64(n*(z.Cols+out.Cols)))
		})
		qa.Mem.Free()
	}
	for _, keys := range []int{512, 2048, 4096, 8192} {
		beginRows(d, keys-1, 1)
		for _, format := range []device.CacheFormat{device.CacheBF16, device.CacheF8} {
			c, err := d.NewCache(device.CacheSpec{Format: format, Pages: divUp(keys, device.PageTokens), Layers: 1, Latent: latent, Rope: rope})
			if err != nil {
				b.Fatal(err)
			}
			d.exec.Fill(c.(*cache).latents(0), 0x3c, c.Bytes())
			kv, err := d.Alloc(d.KVBytes(w, rope, keys))
			if err != nil {
				b.Fatal(err)
			}
			ranges := []device.KeyRange{{To: keys}}
			b.Run(fmt.Sprintf("ExpandKV/%v/%d", format, keys), func(b *testing.B) {
				flop := 2 * float64(keys) * float64(heads*(nope+value)) * latent
				report(b, gpuTime(b, d, 4, func(int) { d.ExpandKV(kv, c, 0, w, ranges) }), flop, float64(keys)*(2*heads*(nope+value)+4*latent+2*rope))
			})
			kv.Free()
			c.Free()
		}
	}
}
