package devicetest

import (
	"fmt"
	"math"
	"slices"

	"latent/device"
)

// layer is one attention layer over a scene: its weights and cache on the
// device, and what they hold.
type layer struct {
	*scene
	dims
	index    int // of the layer in the cache
	cache    device.Cache
	kvb      device.KVB
	weights  matrix
	records  [][]record // [sequence][position]
	scale    float64
	expanded [][][]expanded // [sequence][head][position], made when first needed
}

// newLayer draws a layer and fills its cache.
func (s *scene) newLayer(d dims) *layer {
	e := s.e
	l := &layer{scene: s, dims: d, index: e.between(0, 2), cache: s.newCache(d)}
	l.loadKVB()
	l.records = s.storeLatents(l.cache, l.index, d)
	l.scale = float64(float32(pick(e, 1, 1.874) / math.Sqrt(float64(d.dn+d.dr)))) // 1.874: YaRN's mscale²
	return l
}

// loadKVB draws and loads kv_b_proj in one of the stored types.
func (l *layer) loadKVB() {
	t := pick(l.e, storedTypes[:]...)
	src, m := l.e.matrix(t, l.H*(l.dn+l.dv), l.R, 1/math.Sqrt(float64(l.R)))
	l.kvb, l.weights = must(l.e.dev.LoadKVB(l.e.arithmetic, l.H, l.dn, l.dv, src)), m
	if k := l.kvb; k.Heads() != l.H || k.Nope() != l.dn || k.Value() != l.dv || k.Latent() != l.R || k.Bytes() <= 0 {
		panic(failure{fmt.Errorf("%v: kv_b says heads %d, nope %d, value %d, latent %d, %d bytes",
			l.dims, k.Heads(), k.Nope(), k.Value(), k.Latent(), k.Bytes())})
	}
}

// queries draws one query of the given width for each head of n rows. Some rows
// are so large that exponentials overflow unless the largest score is
// subtracted.
func (l *layer) queries(n, width int) []float64 {
	var q []float64
	for range n {
		q = append(q, l.e.normal(l.e.act, l.H*width, pick(l.e, 1.0, 1, 1, 40))...)
	}
	return q
}

// narrow gives some runs only a part of the keys; some rows then see none.
func (s *scene) narrow(runs []device.Run) {
	for i := range runs {
		r := &runs[i]
		if s.e.rng.IntN(2) == 0 {
			r.KeyFrom = s.e.between(0, r.KeyTo-1)
		}
		if s.e.rng.IntN(2) == 0 {
			r.KeyTo = s.e.between(r.KeyFrom+1, r.KeyTo)
		}
	}
}

// attended returns the keys that row i of run attends to.
func attended[K any](keys []K, run device.Run, i int, sets [][]int32) []K {
	from, to := visible(run, i)
	if run.Sel < 0 {
		return keys[from:to]
	}
	var chosen []K
	for _, p := range sets[run.Sel+i] {
		if int(p) >= from && int(p) < to {
			chosen = append(chosen, keys[p])
		}
	}
	return chosen
}

// results are rows of attention outputs, in the order of the runs.
type results struct{ out, mag, lse, lseMag []float64 }

func (r *results) add(a attention) {
	r.out, r.mag = append(r.out, a.out...), append(r.mag, a.outMag...)
	r.lse, r.lseMag = append(r.lse, a.lse), append(r.lseMag, a.lseMag)
}

// expandAll returns what each head sees of every position.
func (l *layer) expandAll() [][][]expanded {
	if l.expanded != nil {
		return l.expanded
	}
	for _, records := range l.records {
		heads := make([][]expanded, l.H)
		for h := range heads {
			for _, r := range records {
				heads[h] = append(heads[h], specExpand(l.weights, h, l.dn, l.dv, r))
			}
		}
		l.expanded = append(l.expanded, heads)
	}
	return l.expanded
}

// specMHA computes the rows of runs for q [T, H·(dn+dr)].
func (l *layer) specMHA(q []float64, runs []device.Run, sets [][]int32) (r results) {
	w, expanded := l.dn+l.dr, l.expandAll()
	eachRow(runs, func(_ int, run device.Run, i int) {
		for h := range l.H {
			from := ((run.Row+i)*l.H + h) * w
			r.add(specAttention(q[from:from+w], attended(expanded[run.Seq][h], run, i, sets), l.dv, l.scale))
		}
	})
	return r
}

// specMLA computes the rows of runs for qa [n, H·(R+dr)], rows in the order of
// the runs.
func (l *layer) specMLA(qa []float64, runs []device.Run, sets [][]int32) (r results) {
	w := l.R + l.dr
	var latents [][]expanded
	for _, records := range l.records {
		latents = append(latents, latentKeys(records))
	}
	eachRow(runs, func(n int, run device.Run, i int) {
		keys := attended(latents[run.Seq], run, i, sets)
		for h := range l.H {
			from := (n*l.H + h) * w
			r.add(specAttention(qa[from:from+w], keys, l.R, l.scale))
		}
	})
	return r
}

// expand expands the keys that runs see, sequences in random order, with
// some more keys around them, and sets Keys of the runs.
func (l *layer) expand(runs []device.Run) device.Memory {
	e := l.e
	var ranges []device.KeyRange
	keys := 0
	for _, i := range e.rng.Perm(len(l.step.Seqs)) {
		from, to := math.MaxInt, 0
		for _, r := range runs {
			if r.Seq == i {
				from, to = min(from, r.KeyFrom), max(to, r.KeyTo)
			}
		}
		if to == 0 {
			continue
		}
		from, to = e.between(max(0, from-3), from), e.between(to, min(to+3, l.step.Seqs[i].Context()))
		keys += e.between(0, 2)
		for j := range runs {
			if runs[j].Seq == i {
				runs[j].Keys = keys + runs[j].KeyFrom - from
			}
		}
		ranges = append(ranges, device.KeyRange{Seq: i, From: from, To: to, Keys: keys})
		keys += to - from
	}
	kv := must(e.dev.Alloc(e.dev.KVBytes(l.kvb, l.dr, keys)))
	e.free = append(e.free, kv)
	e.dev.ExpandKV(kv, l.cache, l.index, l.kvb, ranges)
	return kv
}

// compareRows checks outputs of an operation that writes the rows of runs of
// out [T, H·width] and lse [T, H], and no other rows.
func (l *layer) compareRows(what string, out, lse buffer, runs []device.Run, want results) error {
	if err := out.untouched(what+": out", skipped(runs)); err != nil {
		return err
	}
	if err := lse.untouched(what+": lse", skipped(runs)); err != nil {
		return err
	}
	return l.compareResults(what, gatherRows(out, runs), gatherRows(lse, runs), want)
}

// compareResults checks outputs and log-sum-exps, rows in the order of the runs.
func (l *layer) compareResults(what string, out, lse []float64, want results) error {
	if err := l.e.compare(what+": out", out, want.out, want.mag, len(want.out)/(len(want.lse)/l.H)); err != nil {
		return err
	}
	return l.e.compare(what+": lse", lse, want.lse, want.lseMag, l.H)
}

// gatherRows reads the rows of runs, in their order.
func gatherRows(b buffer, runs []device.Run) []float64 {
	all := b.read()
	var rows []float64
	eachRow(runs, func(_ int, run device.Run, i int) {
		rows = append(rows, all[(run.Row+i)*b.Cols:(run.Row+i+1)*b.Cols]...)
	})
	return rows
}

// attentionScenes are batches for the sizes that attention is checked with.
func (e *env) attentionScenes() []*layer {
	return []*layer{
		e.newScene(shape{0, 65}, shape{0, 1}, shape{63, 2}, shape{37, e.between(1, 9)}, shape{64, 1}, shape{128, 12}).newLayer(oddDims()),
		e.newScene(shape{30, e.between(30, 40)}, shape{0, 63}, shape{63, 1}, shape{56, 8}).newLayer(blockDims()),
		e.newScene(shape{62, 4}, shape{0, 2}, shape{7, e.between(1, 3)}).newLayer(realDims()),
	}
}

// checkMHA runs attention over expanded keys: dense over all keys and over
// parts of them, masked by a selection, and both in one call.
func checkMHA(e *env) error {
	for _, l := range e.attentionScenes() {
		e.dev.Begin(&l.step)
		q := l.queries(l.rows(), l.dn+l.dr)
		in := e.tensor(e.act, l.H*(l.dn+l.dr), q)
		out, lse := e.alloc(e.act, l.rows(), l.H*l.dv), e.alloc(device.F32, l.rows(), l.H)
		for _, kind := range []string{"dense", "part", "masked", "mixed"} {
			runs := l.someRuns()
			if kind != "dense" {
				l.narrow(runs)
			}
			var sel device.Selection
			var sets [][]int32
			if kind == "masked" || kind == "mixed" {
				sel, _, sets = l.selections(runs, pick(e, 1, 5, 33, 64))
			}
			if kind == "mixed" {
				runs[e.rng.IntN(len(runs))].Sel = -1
			}
			kv := l.expand(runs)
			out.poison()
			lse.poison()
			e.dev.MHA(out.Tensor, lse.Tensor, in.Tensor, kv, l.kvb, sel, float32(l.scale), runs)
			what := fmt.Sprintf("%v %s", l.dims, kind)
			if err := l.compareRows(what, out, lse, runs, l.specMHA(q, runs, sets)); err != nil {
				return err
			}
		}
		if !slices.Equal(in.read(), q) {
			return fmt.Errorf("%v: the queries changed", l.dims)
		}
	}
	return nil
}

// checkMLA runs attention in latent space: dense, over parts of the keys, over
// selected keys, and both in one call.
func checkMLA(e *env) error {
	for _, l := range e.attentionScenes() {
		e.dev.Begin(&l.step)
		for _, kind := range []string{"dense", "part", "sparse", "sparse part", "mixed"} {
			runs := l.someRuns()
			if kind == "part" || kind == "sparse part" {
				l.narrow(runs)
			}
			var sel device.Selection
			var sets [][]int32
			if kind != "dense" && kind != "part" {
				_, sel, sets = l.selections(runs, pick(e, 1, 5, 33, 64))
			}
			if kind == "mixed" {
				runs[e.rng.IntN(len(runs))].Sel = -1
			}
			n := device.RunRows(runs)
			qa := l.queries(n, l.R+l.dr)
			z, lse := e.alloc(e.act, n, l.H*l.R), e.alloc(device.F32, n, l.H)
			in := e.tensor(e.act, l.H*(l.R+l.dr), qa)
			e.dev.MLA(z.Tensor, lse.Tensor, in.Tensor, l.cache, l.index, sel, float32(l.scale), runs)
			what := fmt.Sprintf("%v %s", l.dims, kind)
			if err := l.compareResults(what, z.read(), lse.read(), l.specMLA(qa, runs, sets)); err != nil {
				return err
			}
			if !slices.Equal(in.read(), qa) {
				return fmt.Errorf("%v: the queries changed", l.dims)
			}
		}
	}
	return nil
}

// checkAbsorb moves kv_b_proj into the queries of some rows.
func checkAbsorb(e *env) error {
	for _, d := range []dims{oddDims(), blockDims(), realDims()} {
		for range len(storedTypes) {
			l := &layer{scene: e.newScene(shape{3, e.between(1, 9)}, shape{0, 5}), dims: d}
			l.loadKVB()
			e.dev.Begin(&l.step)
			runs := l.someRuns()
			w := d.dn + d.dr
			q := e.normal(e.act, l.rows()*d.H*w, 1)
			dst := e.alloc(e.act, device.RunRows(runs), d.H*(d.R+d.dr))
			e.dev.Absorb(dst.Tensor, e.tensor(e.act, d.H*w, q).Tensor, l.kvb, runs)
			var want, mag []float64
			eachRow(runs, func(_ int, run device.Run, i int) {
				for h := range d.H {
					from := ((run.Row+i)*d.H + h) * w
					y, m := specAbsorb(l.weights, h, d.dn, d.dv, q[from:from+w])
					want, mag = append(want, y...), append(mag, m...)
				}
			})
			if err := e.compare(d.String(), dst.read(), want, mag, dst.Cols); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkUnabsorb applies the value half of kv_b_proj to outputs in latent space.
func checkUnabsorb(e *env) error {
	for _, d := range []dims{oddDims(), blockDims(), realDims()} {
		for range len(storedTypes) {
			l := &layer{scene: e.newScene(shape{3, e.between(1, 9)}, shape{0, 5}), dims: d}
			l.loadKVB()
			e.dev.Begin(&l.step)
			runs := l.someRuns()
			n := device.RunRows(runs)
			z := e.normal(e.act, n*d.H*d.R, 1)
			out := e.alloc(e.act, l.rows(), d.H*d.dv)
			e.dev.Unabsorb(out.Tensor, e.tensor(e.act, d.H*d.R, z).Tensor, l.kvb, runs)
			var want, mag []float64
			for i := range n * d.H {
				y, m := specUnabsorb(l.weights, i%d.H, d.dn, d.dv, z[i*d.R:(i+1)*d.R])
				want, mag = append(want, y...), append(mag, m...)
			}
			if err := out.untouched(d.String(), skipped(runs)); err != nil {
				return err
			}
			if err := e.compare(d.String(), gatherRows(out, runs), want, mag, out.Cols); err != nil {
				return err
			}
		}
	}
	return nil
}
