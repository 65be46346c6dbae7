package cpu

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"latent/device"
	"latent/device/cpu/kern"
)

// attentionOutputs are the results of every pathway for all rows of a sequence.
type attentionOutputs struct {
	names []string
	rows  [][]float32
}

func (o *attentionOutputs) add(name string, t device.Tensor) {
	f := slices.Clone(floats("test", name, t))
	if i := slices.Index(o.names, name); i >= 0 {
		o.rows[i] = append(o.rows[i], f...)
		return
	}
	o.names, o.rows = append(o.names, name), append(o.rows, f)
}

// attentionInputs are the inputs of one layer for the rows of a sequence.
type attentionInputs struct {
	heads, r, dn, dr, dv, hi, di, topk int
	u, k, iq, iw, q                    []float32 // one row after another
	kvb                                device.MatrixSource
}

// run computes everything in steps of the given numbers of rows, on pages in an
// order of their own.
func (in *attentionInputs) run(t *testing.T, d *Device, format device.CacheFormat, steps []int, pages []int32) *attentionOutputs {
	total := 0
	for _, n := range steps {
		total += n
	}
	ca, err := d.NewCache(device.CacheSpec{Format: format, Pages: len(pages), Layers: 1, Indexed: []int{0}, Latent: in.r, Rope: in.dr, IndexDim: in.di})
	if err != nil {
		t.Fatal(err)
	}
	defer ca.Free()
	kvb, err := d.LoadKVB(device.F32, in.heads, in.dn, in.dv, in.kvb)
	if err != nil {
		t.Fatal(err)
	}
	one := func(n int) device.Tensor { return tensor(t, d, 1, n, func(int) float32 { return 1 }) }
	rope := device.Rope{
		Cos: tensor(t, d, total, in.dr/2, func(i int) float32 { return float32(i%7)/7 - 0.5 }),
		Sin: tensor(t, d, total, in.dr/2, func(i int) float32 { return float32(i%5)/5 - 0.5 }),
	}
	out := &attentionOutputs{}
	from := 0
	for _, n := range steps {
		step := &device.Step{Seqs: []device.Seq{{Rows: n, Prefix: from, Pages: pages}}}
		for i := range n {
			p := from + i
			step.Tokens, step.Positions = append(step.Tokens, 0), append(step.Positions, int32(p))
			step.Slots = append(step.Slots, pages[p/64]*64+int32(p%64))
		}
		d.Begin(step)
		rows := func(x []float32, cols int) device.Tensor {
			return tensor(t, d, n, cols, func(i int) float32 { return x[from*cols+i] })
		}
		blank := func(cols int) device.Tensor { return tensor(t, d, n, cols, func(int) float32 { return 7 }) }
		d.StoreLatent(ca, 0, rows(in.u, in.r+in.dr), one(in.r), 1e-6, rope)
		d.StoreIndexKey(ca, 0, rows(in.k, in.di), one(in.di), one(in.di), 1e-6, rope)

		runs := []device.Run{{Rows: n, Pos: from, KeyTo: from + n, Sel: -1}}
		iq, iw := rows(in.iq, in.hi*in.di), rows(in.iw, in.hi)
		d.IndexQuery(ca, iq, iw, 0.1, rope, runs)
		scores := tensor(t, d, n, from+n, func(int) float32 { return 0 })
		d.IndexScores(scores, iq, iw, ca, 0, runs)
		selected := []device.Run{runs[0]}
		selected[0].Sel = 0
		indices, _ := d.NewSelection(device.SelectIndices, n, from+n, in.topk)
		mask, _ := d.NewSelection(device.SelectMask, n, from+n, in.topk)
		d.SelectTopK(indices, scores, in.topk, selected)
		d.SelectTopK(mask, scores, in.topk, selected)
		for r := range n {
			if !slices.Equal(indices.Positions(r), mask.Positions(r)) {
				t.Fatalf("row %d: indices and mask differ", from+r)
			}
			s := tensor(t, d, 1, from+r+1, func(i int) float32 { return floats("test", "scores", scores)[r*(from+n)+i] })
			out.add("scores", s)
		}

		q, qa := rows(in.q, in.heads*(in.dn+in.dr)), blank(in.heads*(in.r+in.dr))
		d.RopeQuery(q, in.heads, rope)
		d.Absorb(qa, q, kvb, runs)
		out.add("absorb", qa)
		mem, err := d.Alloc(d.KVBytes(kvb, in.dr, from+n))
		if err != nil {
			t.Fatal(err)
		}
		d.ExpandKV(mem, ca, 0, kvb, []device.KeyRange{{To: from + n}})
		for _, c := range []struct {
			name          string
			runs          []device.Run
			indices, mask device.Selection
		}{{"dense", runs, nil, nil}, {"selected", selected, indices, mask}} {
			z, lse, o := blank(in.heads*in.r), blank(in.heads), blank(in.heads*in.dv)
			d.MLA(z, lse, qa, ca, 0, c.indices, 0.1, c.runs)
			d.Unabsorb(o, z, kvb, runs)
			out.add("mla "+c.name, o)
			out.add("mla lse "+c.name, lse)
			d.MHA(o, lse, q, mem, kvb, c.mask, 0.1, c.runs)
			out.add("mha "+c.name, o)
			out.add("mha lse "+c.name, lse)
		}
		mem.Free()
		from += n
	}
	return out
}

// TestAttentionIsInvariant checks that no bit of a row's attention depends on
// threads, on how the prompt was cut into steps, or on where its pages lie.
func TestAttentionIsInvariant(t *testing.T) {
	rng := newRand(t)
	const total = 330
	in := &attentionInputs{heads: 3, r: 48, dn: 20, dr: 8, dv: 24, hi: 4, di: 32, topk: 150}
	draw := func(cols int) []float32 {
		x := make([]float32, total*cols)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	in.u, in.k = draw(in.r+in.dr), draw(in.di)
	in.iq, in.iw, in.q = draw(in.hi*in.di), draw(in.hi), draw(in.heads*(in.dn+in.dr))
	in.kvb = source(rng, device.BF16, in.heads*(in.dn+in.dv), in.r, nil)
	pages := func() (p []int32) {
		for _, i := range rng.Perm(total/64 + 1) {
			p = append(p, int32(i))
		}
		return p
	}
	random := func() (steps []int) {
		for left := total; left > 0; {
			n := min(left, 1+rng.IntN(120))
			if rng.IntN(3) == 0 {
				n = 1
			}
			steps, left = append(steps, n), left-n
		}
		return steps
	}
	tier := kern.Available()[0]
	for _, format := range []device.CacheFormat{device.CacheF32, device.CacheBF16, device.CacheF8} {
		want := in.run(t, newTestDevice(t, Options{Threads: 1, Tier: tier}), format, []int{total}, pages())
		for _, threads := range []int{1, 2, 5} {
			for _, steps := range [][]int{{total}, random()} {
				got := in.run(t, newTestDevice(t, Options{Threads: threads, Tier: tier}), format, steps, pages())
				for i, name := range want.names {
					if at := differs(got.rows[i], want.rows[i]); at >= 0 {
						t.Errorf("%v, %d threads, steps %v: %s: element %d of %d differs: %v, want %v", format, threads, steps, name, at,
							len(want.rows[i]), got.rows[i][at], want.rows[i][at])
					}
				}
			}
		}
	}
}

// differs returns where two slices differ first, or −1.
func differs(a, b []float32) int {
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// TestProductsAreInvariant checks the same of products with weights, whose rows
// cross the limit between the kernels for few and for many.
func TestProductsAreInvariant(t *testing.T) {
	rng := newRand(t)
	const rows, in, out, choose = 300, 333, 100, 3
	tier := kern.Available()[0]
	scale := func() float32 { return rng.Float32() }
	for _, typ := range []device.DType{device.F32, device.BF16, device.F8E4M3} {
		w := source(rng, typ, out, in, scale)
		var ex []device.ExpertSource
		for range 5 {
			ex = append(ex, device.ExpertSource{
				Gate: source(rng, typ, 72, in, scale), Up: source(rng, typ, 72, in, scale), Down: source(rng, typ, in, 72, scale),
			})
		}
		x := make([]float32, rows*in)
		chosen, share := make([]int32, rows*choose), make([]float32, rows*choose)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		for i := range rows {
			for j, e := range rng.Perm(len(ex))[:choose] {
				chosen[i*choose+j], share[i*choose+j] = int32(e), rng.Float32()
			}
		}
		// run computes rows [from, to).
		run := func(d *Device, m device.Matrix, experts device.Experts, from, to int) (linear, moe []float32) {
			n := to - from
			src := tensor(t, d, n, in, func(i int) float32 { return x[from*in+i] })
			y, z := tensor(t, d, n, out, func(i int) float32 { return 1 }), tensor(t, d, n, in, func(int) float32 { return 1 })
			d.Linear(y, src, m, true)
			ids := tensor(t, d, n, choose, func(int) float32 { return 0 })
			ids.Type = device.I32
			copy(ints("test", "ids", ids), chosen[from*choose:])
			weights := tensor(t, d, n, choose, func(i int) float32 { return share[from*choose+i] })
			d.MoE(z, src, ids, weights, experts)
			return floats("test", "y", y), floats("test", "z", z)
		}
		var wantY, wantZ []float32
		for _, threads := range []int{1, 2, 5} {
			d := newTestDevice(t, Options{Threads: threads, Tier: tier})
			m, err := d.LoadMatrix(device.F32, w)
			if err != nil {
				t.Fatal(err)
			}
			experts, err := d.LoadExperts(device.F32, ex)
			if err != nil {
				t.Fatal(err)
			}
			y, z := run(d, m, experts, 0, rows)
			if wantY == nil {
				wantY, wantZ = y, z
			}
			check := func(what string, got, want []float32) {
				if at := differs(got, want); at >= 0 {
					t.Errorf("%v, %d threads: %s: element %d is %v, want %v", typ, threads, what, at, got[at], want[at])
				}
			}
			check("linear", y, wantY)
			check("moe", z, wantZ)
			for _, n := range []int{1, 2, 4, 5, 8, 9, 16, 17, 40} {
				from := rng.IntN(rows - n)
				y, z := run(d, m, experts, from, from+n)
				check(fmt.Sprintf("linear of %d rows", n), y, wantY[from*out:(from+n)*out])
				check(fmt.Sprintf("moe of %d rows", n), z, wantZ[from*in:(from+n)*in])
			}
		}
	}
}

// TestLongContextIsInvariant decodes one row over more blocks of keys than are
// computed at a time when the blocks, not the rows, are divided over workers.
func TestLongContextIsInvariant(t *testing.T) {
	rng := newRand(t)
	const heads, r, dr, context = 2, 16, 4, 40*keyBlock + 5
	seed := rng.Uint64()
	run := func(threads int) (z, lse []float32) {
		d := newTestDevice(t, Options{Threads: threads})
		rng := rand.New(rand.NewPCG(seed, 0))
		step := &device.Step{Tokens: []int32{0}, Positions: []int32{context - 1}, Slots: []int32{0}, Seqs: []device.Seq{{Rows: 1, Prefix: context - 1}}}
		for p := range (context + 63) / 64 {
			step.Seqs[0].Pages = append(step.Seqs[0].Pages, int32(p))
		}
		ca, err := d.NewCache(device.CacheSpec{Pages: len(step.Seqs[0].Pages), Layers: 1, Latent: r, Rope: dr})
		if err != nil {
			t.Fatal(err)
		}
		pool := cast[float32](ca.(*cache).latent[0])
		for i := range pool {
			pool[i] = float32(rng.NormFloat64())
		}
		d.Begin(step)
		qa := tensor(t, d, 1, heads*(r+dr), normal(rng))
		zt, lt := tensor(t, d, 1, heads*r, normal(rng)), tensor(t, d, 1, heads, normal(rng))
		d.MLA(zt, lt, qa, ca, 0, nil, 1, []device.Run{{Rows: 1, Pos: context - 1, KeyTo: context, Sel: -1}})
		return floats("test", "z", zt), floats("test", "lse", lt)
	}
	wantZ, wantL := run(1)
	for _, threads := range []int{2, 3} {
		z, lse := run(threads)
		if at := differs(z, wantZ); at >= 0 {
			t.Errorf("%d threads: element %d is %v, want %v", threads, at, z[at], wantZ[at])
		}
		if at := differs(lse, wantL); at >= 0 {
			t.Errorf("%d threads: log-sum-exp %d is %v, want %v", threads, at, lse[at], wantL[at])
		}
	}
}
