package cuda

import (
	"fmt"
	"math"

	"latent/device"
	"latent/device/cuda/driver"
)

// mlaArgs are the checked arguments of MLA.
type mlaArgs struct {
	z, lse, qa driver.Ptr
	cache      *cache
	layer      int
	list       list
	heads      int
	sel        driver.Ptr // of the selection's indices, 0 if no run selects
	topk       int
	scale      float32
}

// MLA implements device.Device.
func (d *Device) MLA(z, lse, qa device.Tensor, ca device.Cache, layer int, sel device.Selection, scale float32, runs []device.Run) {
	c := cacheOf("MLA", ca)
	rows, heads := device.RunRows(runs), lse.Cols
	want("MLA", "lse", lse, device.F32, rows, heads)
	want("MLA", "qa", qa, device.BF16, rows, heads*(c.spec.Latent+c.spec.Rope))
	want("MLA", "z", z, device.BF16, rows, heads*c.spec.Latent)
	if !(scale > 0) {
		panic(fmt.Sprintf("cuda: MLA: scale %v", scale))
	}
	a := mlaArgs{cache: c, layer: layer, list: d.list("MLA", runs), heads: heads, scale: scale}
	keys := d.mlaKeys(&a, sel, runs)
	if d.err != nil || rows == 0 || heads == 0 {
		return
	}
	a.z, a.lse, a.qa = ptr(z), ptr(lse), ptr(qa)
	if !supportsMLA(c.spec) {
		d.mlaGeneric(&a)
		return
	}
	d.mlaTiled(&a, mlaSplits(rows*divUp(heads, mlaHeads), keys, d.info.Workers))
}

// mlaKeys checks the runs, notes the selection that they refer to, and returns
// how many keys a row may have. In a captured step, whose kernels run again with
// later geometry, that is all that the pages have room for.
func (d *Device) mlaKeys(a *mlaArgs, sel device.Selection, runs []device.Run) int {
	keys := 0
	// Runs of a captured step may begin to select later.
	if s, ok := sel.(*selection); ok && s.form == device.SelectIndices {
		a.sel, a.topk = s.mem.addr, s.topk
	}
	for i := range runs {
		r := &runs[i]
		if context := d.geometry.step.Seqs[r.Seq].Context(); r.KeyFrom < 0 || r.KeyTo > context {
			panic(fmt.Sprintf("cuda: MLA: keys [%d, %d) of a sequence with %d", r.KeyFrom, r.KeyTo, context))
		}
		visible := r.KeyTo - r.KeyFrom
		if g := d.geometry.recording; g != nil {
			visible = g.pages * device.PageTokens
		}
		if r.Sel >= 0 {
			visible = min(visible, selectionOf("MLA", sel, device.SelectIndices, r).topk)
		}
		keys = max(keys, visible)
	}
	return keys
}

// supportsMLA tells whether mla.cu has a form for the sizes of a cache.
func supportsMLA(s device.CacheSpec) bool { return s.Latent == 512 && s.Rope == 64 }

const (
	mlaHeads     = 64 // of a block of mla.cu
	mlaBlock     = 64 // keys it takes at a time
	mlaMaxSplits = 128
	// mlaShared is sizeof(Shared): Q, two buffers of K, P, and what is small.
	mlaShared = 3*9*8192 + 8192 + 1152
)

// mlaSplits returns into how many parts the keys of each row are divided, so
// that items (rows times groups of heads) fill the multiprocessors evenly: the
// number with the least time, in blocks of keys, of the waves and of the merge.
func mlaSplits(items, keys, workers int) int {
	// From times on an H200: a block of the grid takes about as long to begin and
	// to end as three blocks of keys (2 µs each); to start the merge takes two, and
	// to write and read parts 3.5 for one on each multiprocessor.
	const ends, launch, merge = 3.0, 2.0, 3.5
	blocks := max(1, divUp(keys, mlaBlock))
	best, least := 1, math.Inf(1)
	for s := 1; s <= min(blocks, mlaMaxSplits); s++ {
		waves := divUp(items*s, workers)
		if s > 1 && waves > 4 {
			break
		}
		cost := float64(waves) * (float64(divUp(blocks, s)) + ends)
		if s > 1 {
			cost += launch + merge*float64(items*s)/float64(workers)
		}
		if cost < least {
			best, least = s, cost
		}
	}
	return best
}

// mlaTiledParams mirrors Params of mla.cu.
type mlaTiledParams struct {
	qa, cache, z, lse, part, partLSE, rows driver.Ptr
	pages                                  Pages
	sel                                    driver.Ptr
	topk, rowCount, heads, splits          int32
	scale                                  float32
	_                                      int32
}

// mlaCombineParams mirrors Params of mla_combine.cu.
type mlaCombineParams struct {
	part, partLSE, z, lse driver.Ptr
	items, splits         int32
}

// mlaTiled computes a on the matrix units, with the keys of each row divided
// into splits.
func (d *Device) mlaTiled(a *mlaArgs, splits int) {
	rows, items := a.list.numRows, a.list.numRows*a.heads
	p := mlaTiledParams{
		qa: a.qa, cache: a.cache.latents(a.layer), z: a.z, lse: a.lse, rows: a.list.rows, pages: d.pages(),
		sel: a.sel, topk: int32(a.topk), rowCount: int32(rows), heads: int32(a.heads), splits: int32(splits),
		scale: a.scale * math.Log2E,
	}
	if splits > 1 {
		p.part = d.scratch("MLA parts", int64(splits)*int64(items)*int64(4*a.cache.spec.Latent))
		p.partLSE = d.scratch("MLA log-sum-exps of parts", int64(splits)*int64(items)*4)
	}
	unit, threads := "mla_bf16", 384
	if a.cache.spec.Format == device.CacheF8 {
		unit, threads = "mla_f8", 512 // more producers, which expand the records
	}
	grid := [3]uint32{uint32(rows * divUp(a.heads, mlaHeads)), uint32(splits), 1}
	launch(d, d.kernel(unit, "mla"), grid, block1(threads), mlaShared, &p)
	if splits > 1 {
		launchWith(d, &driver.Launch{
			Function: d.kernel("mla_combine", "mla_combine"), Grid: grid1(items), Block: block1(128), Dependent: true,
		}, &mlaCombineParams{part: p.part, partLSE: p.partLSE, z: a.z, lse: a.lse, items: int32(items), splits: int32(splits)})
	}
}

// mlaGenericParams mirrors Params of mla_generic.cu.
type mlaGenericParams struct {
	qa, cache, z, lse, rows   driver.Ptr
	pages                     Pages
	sel                       driver.Ptr
	pitch                     int64
	topk, heads, latent, rope int32
	scale                     float32
	_                         int32
}

// mlaGeneric computes a for any sizes.
func (d *Device) mlaGeneric(a *mlaArgs) {
	s := a.cache.spec
	p := mlaGenericParams{
		qa: a.qa, cache: a.cache.latents(a.layer), z: a.z, lse: a.lse, rows: a.list.rows, pages: d.pages(),
		sel: a.sel, pitch: int64(a.cache.latentPitch), topk: int32(a.topk), heads: int32(a.heads),
		latent: int32(s.Latent), rope: int32(s.Rope), scale: a.scale * math.Log2E,
	}
	unit := "mla_generic_bf16"
	if s.Format == device.CacheF8 {
		unit = "mla_generic_f8"
	}
	launch(d, d.kernel(unit, "mla_generic"), grid1(a.list.numRows*a.heads), block1(256), 4*(2*s.Latent+s.Rope), &p)
}
