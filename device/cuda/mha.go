package cuda

import (
	"cmp"
	"fmt"
	"slices"
	"unsafe"

	"latent/device"
	"latent/device/cuda/driver"
)

// mhaSizes are the head sizes of attention over expanded keys.
type mhaSizes struct{ nope, rope, value int }

// mhaKernel is a fast kernel of mha.cu.
type mhaKernel struct {
	unit, selectUnit string // without and with a selection
	tile             int    // keys that it takes at once
}

// supportsMHA returns the fast kernel for head sizes: there is one for those of
// DeepSeek-V3 and one for those of GLM-5.
func supportsMHA(s mhaSizes) (mhaKernel, bool) {
	switch s {
	case mhaSizes{128, 64, 128}:
		return mhaKernel{"mha_128", "mha_128_select", 128}, true
	case mhaSizes{192, 64, 256}:
		return mhaKernel{"mha_192", "mha_192_select", 64}, true
	}
	return mhaKernel{}, false
}

// Query rows that a thread block takes at once.
const (
	mhaRows        = 128
	mhaGenericRows = 16
)

// mhaCacheBytes is how much of expanded keys and values the blocks that run at
// the same time should share: about half of the L2 of an H100 or H200.
const mhaCacheBytes = 32 << 20

// mhaBlock mirrors MhaBlock of mha.cuh.
type mhaBlock struct{ row, rows, pos, from, to, keys, sel, _ int32 }

// mhaParams mirrors Params of mha.cu.
type mhaParams struct {
	q, kv, rope           driver.TensorMap
	out, lse, mask        driver.Ptr
	items, blocks, ticket driver.Ptr
	count, heads, pitch   int32
	scale                 float32
}

// mhaGenericParams mirrors Params of mha_generic.cu.
type mhaGenericParams struct {
	q, kv, rope, out, lse, mask, blocks driver.Ptr
	heads, nope, ropeDim, value, pitch  int32
	scale                               float32
}

// mhaCall is a call of MHA with its arguments checked and resolved.
type mhaCall struct {
	mhaSizes
	out, lse, q driver.Ptr
	rows, heads int
	kv, ropes   driver.Ptr // expanded keys and values, and the rotated part of the keys
	keys        int        // that there is room for
	mask        driver.Ptr // of the runs with a selection
	pitch       int        // words of a row of mask
	scale       float32
	runs        []device.Run
}

// MHA implements device.Device.
func (d *Device) MHA(out, lse, q device.Tensor, kv device.Memory, kw device.KVB, sel device.Selection, scale float32, runs []device.Run) {
	d.list("MHA", runs)
	w, rows := kvbOf("MHA", kw), len(d.geometry.step.Tokens)
	if q.Type != device.BF16 || q.Rows != rows || q.Cols%w.heads != 0 || q.Cols/w.heads < w.nope {
		panic(fmt.Sprintf("cuda: MHA: q %s for %d rows of %d heads", shape(q), rows, w.heads))
	}
	want("MHA", "out", out, device.BF16, rows, w.heads*w.value)
	want("MHA", "lse", lse, device.F32, rows, w.heads)
	if !(scale > 0) {
		panic(fmt.Sprintf("cuda: MHA: scale %v", scale))
	}
	c := mhaCall{
		mhaSizes: mhaSizes{w.nope, q.Cols/w.heads - w.nope, w.value},
		out:      ptr(out), lse: ptr(lse), q: ptr(q), rows: rows, heads: w.heads, scale: scale, runs: runs,
	}
	var layout expansion
	c.kv, layout, c.keys = expanded("MHA", kv, w, c.rope)
	c.ropes = c.kv + driver.Ptr(layout.rope)
	for i := range runs {
		r := &runs[i]
		if r.KeyTo > r.KeyFrom && (r.KeyFrom < 0 || r.Keys < 0 || r.Keys+r.KeyTo-r.KeyFrom > c.keys) {
			panic(fmt.Sprintf("cuda: MHA: keys %d..%d from key %d on in memory for %d", r.KeyFrom, r.KeyTo, r.Keys, c.keys))
		}
		if r.Sel >= 0 {
			s := selectionOf("MHA", sel, device.SelectMask, r)
			c.mask, c.pitch = s.mem.addr, s.pitch()
		}
	}
	d.mha(&c)
}

// mha runs the rows with and without a selection, in the kernel for their sizes.
func (d *Device) mha(c *mhaCall) {
	k, fast := supportsMHA(c.mhaSizes)
	for _, selected := range []bool{false, true} {
		if fast {
			d.mhaFast(c, k, selected)
		} else {
			d.mhaGeneric(c, selected)
		}
	}
}

func (d *Device) mhaFast(c *mhaCall, k mhaKernel, selected bool) {
	l := d.mhaList(c, selected, mhaRows)
	if l.numBlocks == 0 {
		return
	}
	head, wide := c.nope+c.rope, c.nope+c.value
	keys := max(c.keys, 1)
	p := mhaParams{
		q:    d.mhaMap(c.q, mhaRows, head, c.heads, c.rows),
		kv:   d.mhaMap(c.kv, k.tile, wide, c.heads, keys),
		rope: d.mhaMap(c.ropes, k.tile, c.rope, keys),
		out:  c.out, lse: c.lse, mask: c.mask, items: l.items, blocks: l.blocks, ticket: l.ticket,
		count: int32(l.numItems), heads: int32(c.heads), pitch: int32(c.pitch), scale: c.scale,
	}
	unit := k.unit
	if selected {
		unit = k.selectUnit
	}
	const align, barriers = 1024, 256
	shared := align + 2*mhaRows*head + 2*2*k.tile*(head+c.value) + barriers
	launch(d, d.kernel(unit, "mha"), grid1(d.mhaGrid(l.numItems)), block1(384), shared, &p)
}

// mhaGrid is how many thread blocks draw items: as many as run at once.
func (d *Device) mhaGrid(items int) int { return min(items, d.info.Workers) }

func (d *Device) mhaGeneric(c *mhaCall, selected bool) {
	l := d.mhaList(c, selected, mhaGenericRows)
	p := mhaGenericParams{
		q: c.q, kv: c.kv, rope: c.ropes, out: c.out, lse: c.lse, mask: c.mask, blocks: l.blocks,
		heads: int32(c.heads), nope: int32(c.nope), ropeDim: int32(c.rope), value: int32(c.value),
		pitch: int32(c.pitch), scale: c.scale,
	}
	const keys, threads = 32, 128
	width := roundUp(c.nope+c.rope, 2)
	shared := 4*mhaGenericRows*width + 2*keys*2*(width/2|1) + 2*keys*c.value
	launch(d, d.kernel("mha_generic", "mha_generic"), [3]uint32{uint32(l.numBlocks), uint32(c.heads), 1}, block1(threads), shared, &p)
}

// mhaList is the work of a call on the device: blocks of rows, and which block
// and head come when. It is the same for all layers of a step.
type mhaList struct {
	ticket, blocks, items driver.Ptr
	numBlocks, numItems   int
}

// mhaList returns the blocks of up to rows query rows of the runs with or
// without a selection. Work items are in the order of mhaOrder.
func (d *Device) mhaList(c *mhaCall, selected bool, rows int) mhaList {
	l := mhaList{}
	for i := range c.runs {
		if r := &c.runs[i]; (r.Sel >= 0) == selected {
			l.numBlocks += divUp(r.Rows, rows)
		}
	}
	l.numItems = l.numBlocks * c.heads
	kind := "mha"
	if selected {
		kind = "mha select"
	}
	const ticket, block = 4, int(unsafe.Sizeof(mhaBlock{}) / 4)
	l.ticket = d.stagedRuns(kind, c.heads<<16|rows, c.runs, ticket+block*l.numBlocks+l.numItems, func(dst []int32) {
		clear(dst[:ticket]) // the kernel counts up and leaves zero
		blocks := unsafe.Slice((*mhaBlock)(unsafe.Pointer(unsafe.SliceData(dst[ticket:]))), l.numBlocks)
		items := dst[ticket+block*l.numBlocks:]
		mhaOrder(blocks, items, c, selected, rows)
		// A thread block begins with item i and item i+grid: the longest first
		// with the shortest second.
		if grid := d.mhaGrid(l.numItems); len(items) > grid {
			slices.Reverse(items[grid:min(2*grid, len(items))])
		}
	})
	l.blocks = l.ticket + 4*ticket
	l.items = l.blocks + driver.Ptr(4*block*l.numBlocks)
	return l
}

// mhaOrder lists blocks of rows and the order of items, each block·heads+head.
//
// Items are drawn by whoever is free, so long ones come first: runs by their
// number of keys, within a run the last rows. But not all heads of a long run
// at once: the keys and values of the heads that run at the same time should
// stay in L2, where the blocks of a head share them.
func mhaOrder(blocks []mhaBlock, items []int32, c *mhaCall, selected bool, rows int) {
	var order []int
	for i := range c.runs {
		if (c.runs[i].Sel >= 0) == selected {
			order = append(order, i)
		}
	}
	length := func(r *device.Run) int { return min(r.KeyTo, r.Pos+r.Rows) - r.KeyFrom }
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(length(&c.runs[b]), length(&c.runs[a])) })
	next := 0
	for _, i := range order {
		r := &c.runs[i]
		first := next
		for from := 0; from < r.Rows; from += rows {
			sel := int32(-1)
			if selected {
				sel = int32(r.Sel + from)
			}
			blocks[next] = mhaBlock{
				row: int32(r.Row + from), rows: int32(min(rows, r.Rows-from)), pos: int32(r.Pos + from),
				from: int32(r.KeyFrom), to: int32(r.KeyTo), keys: int32(r.Keys), sel: sel,
			}
			next++
		}
		bytes := 2 * max(length(r), 1) * (c.nope + c.value)
		groups := divUp(c.heads, max(mhaCacheBytes/bytes, 1))
		group := divUp(c.heads, groups)
		for head := 0; head < c.heads; head += group {
			for b := next - 1; b >= first; b-- {
				for h := head; h < min(head+group, c.heads); h++ {
					items[0] = int32(b*c.heads + h)
					items = items[1:]
				}
			}
		}
	}
}

// mhaMap describes a dense bf16 tensor, dims innermost first, in boxes of 64
// columns of one head and so many rows. A failure comes out of Sync.
func (d *Device) mhaMap(base driver.Ptr, rows int, dims ...int) driver.TensorMap {
	spec := driver.TensorMapSpec{Type: driver.MapBF16, Base: base, Swizzle: 128}
	stride := 2
	for i, n := range dims {
		if i > 0 {
			spec.Strides = append(spec.Strides, uint64(stride))
		}
		stride *= n
		spec.Dims = append(spec.Dims, uint64(n))
		spec.Box = append(spec.Box, 1)
	}
	spec.Box[0], spec.Box[len(dims)-1] = 64, uint32(rows)
	m, err := driver.EncodeTensorMap(d.cuda, spec)
	if err != nil {
		d.fail(fmt.Errorf("cuda: MHA: %w", err))
	}
	return m
}
