package devicetest

import (
	"fmt"

	"latent/device"
)

// checkPathways runs the same queries through the four attention pathways, for
// contexts one below, at and above index_topk and far above it. All four equal
// the expanded form in float64: dense over all keys, or on the same selection.
func checkPathways(e *env) error {
	k := e.between(10, 40)
	for _, l := range []*layer{
		e.newScene(shape{0, k - 1}, shape{2, k - 2}, shape{k, 1}, shape{k, 2 * k}).newLayer(oddDims()),
		e.newScene(shape{50, 15}).newLayer(blockDims()),
		e.newScene(shape{k - 2, 3}, shape{62, 4}).newLayer(realDims()),
	} {
		e.dev.Begin(&l.step)
		q := e.normal(e.act, l.rows()*l.H*(l.dn+l.dr), 1)
		for _, selected := range []bool{false, true} {
			runs := l.wholeRuns()
			var mask, indices device.Selection
			var sets [][]int32
			if selected {
				mask, indices, sets = l.selections(runs, k)
			}
			if err := l.pathways(q, runs, mask, indices, l.specMHA(q, runs, sets)); err != nil {
				return fmt.Errorf("%v K=%d selected=%t: %w", l.dims, k, selected, err)
			}
		}
	}
	return nil
}

// pathways compares the expanded and the absorbed form with want.
func (l *layer) pathways(q []float64, runs []device.Run, mask, indices device.Selection, want results) error {
	e := l.e
	in := e.tensor(e.act, l.H*(l.dn+l.dr), q)
	out, lse := l.mha(in, runs, mask)
	if err := l.compareRows("mha", out, lse, runs, want); err != nil {
		return err
	}
	out, lse = l.mla(in, runs, indices)
	return l.compareResults("mla", gatherRows(out, runs), lse.read(), want)
}

// mha runs the expanded form: out [T, H·dv], lse [T, H].
func (l *layer) mha(q buffer, runs []device.Run, mask device.Selection) (out, lse buffer) {
	e := l.e
	out, lse = e.alloc(e.act, q.Rows, l.H*l.dv), e.alloc(device.F32, q.Rows, l.H)
	kv := l.expand(runs)
	e.dev.MHA(out.Tensor, lse.Tensor, q.Tensor, kv, l.kvb, mask, float32(l.scale), runs)
	return out, lse
}

// mla runs the absorbed form: out [T, H·dv], lse [n, H].
func (l *layer) mla(q buffer, runs []device.Run, indices device.Selection) (out, lse buffer) {
	e := l.e
	n := device.RunRows(runs)
	out, lse = e.alloc(e.act, q.Rows, l.H*l.dv), e.alloc(device.F32, n, l.H)
	qa, z := e.alloc(e.act, n, l.H*(l.R+l.dr)), e.alloc(e.act, n, l.H*l.R)
	e.dev.Absorb(qa.Tensor, q.Tensor, l.kvb, runs)
	e.dev.MLA(z.Tensor, lse.Tensor, qa.Tensor, l.cache, l.index, indices, float32(l.scale), runs)
	e.dev.Unabsorb(out.Tensor, z.Tensor, l.kvb, runs)
	return out, lse
}
