package cpu

import (
	"fmt"
	"math"

	"latent/device"
	"latent/device/cpu/kern"
)

// mlaArgs are the arguments of MLA.
type mlaArgs struct {
	z, lse, q []float32
	cache     *cache
	layer     int
	heads     int
	scale     float32
}

// mlaItem is an item of MLA: rows [r0, r1) of a run against blocks
// [b0, b1) of their keys. Blocks are those of positions, or those of the
// selected positions of a single row.
type mlaItem struct {
	run    *device.Run
	first  int // row of the run's first row in q and z
	r0, r1 int
	b0, b1 int
	picks  []int32 // the row's selected and visible positions; nil if dense
	// part is where the partial results of the blocks go, if they are merged
	// later: for each block z [rows·H, R], then the states.
	part   []float32
	states []online
}

// MLA implements device.Device. The attention of a row over one block of keys
// is a partial result of its own (z not divided by the sum, maximum, sum); the
// partial results are merged in the order of blocks. With many rows an item
// merges as it goes; when there are few, blocks are divided over the workers
// and merged afterwards, to the same bits.
func (d *Device) MLA(z, lse, qa device.Tensor, ca device.Cache, layer int, sel device.Selection, scale float32, runs []device.Run) {
	c := cacheOf("MLA", ca, layer)
	rows, heads := d.rowsOf("MLA", runs), lse.Cols
	wantShape("MLA", "lse", lse, len(rows), heads)
	wantShape("MLA", "qa", qa, len(rows), heads*c.width())
	wantShape("MLA", "z", z, len(rows), heads*c.spec.Latent)
	if !(scale > 0) {
		panic(fmt.Sprintf("cpu: MLA: scale %v", scale))
	}
	a := &mlaArgs{
		z: floats("MLA", "z", z), lse: floats("MLA", "lse", lse), q: floats("MLA", "qa", qa),
		cache: c, layer: layer, heads: heads, scale: scale,
	}
	items := d.mlaItems(a, sel, runs)
	if len(items) >= 2*d.team.size() || d.team.size() == 1 {
		d.parallel(len(items), func(ws *arena, i int) {
			it := &items[len(items)-1-i]
			n := (it.r1 - it.r0) * heads
			it.part, it.states = ws.floats(n*c.spec.Latent), make([]online, n)
			m := newMerger(d, a, it)
			d.latentBlocks(ws, a, it, func(int) { m.add(it.part, it.states) })
			m.finish()
		})
		return
	}
	d.mlaByBlocks(a, items)
}

// mlaByBlocks divides the blocks of a few items over the workers, some at a time
// to bound the memory for partial results.
func (d *Device) mlaByBlocks(a *mlaArgs, items []mlaItem) {
	type part struct {
		mlaItem
		of *merger
	}
	var parts []part
	mergers := make([]*merger, len(items))
	largest := 0
	for i := range items {
		it := &items[i]
		mergers[i] = newMerger(d, a, it)
		largest = max(largest, (it.r1-it.r0)*a.heads)
		for blk := it.b0; blk < it.b1; blk++ {
			p := part{*it, mergers[i]}
			p.b0, p.b1 = blk, blk+1
			parts = append(parts, p)
		}
	}
	d.shared.reset()
	wave := min(16*d.team.size(), len(parts))
	z := d.shared.floats(wave * largest * a.cache.spec.Latent)
	states := make([]online, wave*largest)
	for ; len(parts) > 0; parts = parts[min(wave, len(parts)):] {
		now := parts[:min(wave, len(parts))]
		d.parallel(len(now), func(ws *arena, i int) {
			p := &now[i]
			n := (p.r1 - p.r0) * a.heads
			p.part, p.states = z[i*largest*a.cache.spec.Latent:][:n*a.cache.spec.Latent], states[i*largest:][:n]
			d.latentBlocks(ws, a, &p.mlaItem, func(int) {})
		})
		for i := range now {
			now[i].of.add(now[i].part, now[i].states)
		}
	}
	for _, m := range mergers {
		m.finish()
	}
}

// mlaItems divides the rows into items that see all their keys.
func (d *Device) mlaItems(a *mlaArgs, sel device.Selection, runs []device.Run) []mlaItem {
	group := max(1, 96/a.heads)
	var items []mlaItem
	first := 0
	for i := range runs {
		r := &runs[i]
		if r.KeyTo > d.step.Seqs[r.Seq].Context() || r.KeyFrom < 0 {
			panic(fmt.Sprintf("cpu: MLA: keys [%d, %d) of a sequence with %d", r.KeyFrom, r.KeyTo, d.step.Seqs[r.Seq].Context()))
		}
		if r.Sel < 0 {
			for r0 := 0; r0 < r.Rows; r0 += group {
				r1 := min(r0+group, r.Rows)
				it := mlaItem{run: r, first: first, r0: r0, r1: r1}
				if from, to := visible(r, r1-1); from < to {
					it.b0, it.b1 = from/keyBlock, (to+keyBlock-1)/keyBlock
				}
				items = append(items, it)
			}
		} else {
			s := selectionOf("MLA", sel, device.SelectIndices, r)
			for r0 := range r.Rows {
				from, to := visible(r, r0)
				picks := s.selected(r.Sel + r0)
				for len(picks) > 0 && int(picks[0]) < from {
					picks = picks[1:]
				}
				for len(picks) > 0 && int(picks[len(picks)-1]) >= to {
					picks = picks[:len(picks)-1]
				}
				items = append(items, mlaItem{
					run: r, first: first, r0: r0, r1: r0 + 1,
					b1: (len(picks) + keyBlock - 1) / keyBlock, picks: picks,
				})
			}
		}
		first += r.Rows
	}
	return items
}

// latentBlocks computes the partial results of an item's blocks one after the
// other in it.part and it.states, and calls done after each.
func (d *Device) latentBlocks(ws *arena, a *mlaArgs, it *mlaItem, done func(block int)) {
	c := a.cache
	width, n := c.width(), (it.r1-it.r0)*a.heads
	b := &latentBlock{
		n:      n,
		copied: ws.floats(keyBlock * width),
		st:     ws.floats(keyBlock * kern.N),
		ld:     keyBlock + 16, // no two rows in the same cache sets
	}
	q := a.q[(it.first+it.r0)*a.heads*width:]
	if b.few() {
		size := d.packedLen(n, scoreDepth)
		b.queries = ws.floats((width + scoreDepth - 1) / scoreDepth * size)
		for k := 0; k < width; k += scoreDepth {
			d.packRows(ws, b.queries[k/scoreDepth*size:], operand{x: q, ld: width}, 0, n, k, min(k+scoreDepth, width))
		}
	} else {
		panels := (n + kern.N - 1) / kern.N
		b.queries = ws.floats(panels * width * kern.N)
		for p := range panels {
			m := min(kern.N, n-p*kern.N)
			d.k.Transpose(b.queries[p*width*kern.N:], kern.N, q[p*kern.N*width:], width, m, width)
		}
	}
	b.s = ws.floats(n * b.ld)
	for blk := it.b0; blk < it.b1; blk++ {
		d.latentBlock(a, it, b, blk)
		done(blk)
	}
}

// latentBlock is the scratch memory for a block of keys.
type latentBlock struct {
	n int // queries: rows times heads
	// queries are panels [R+dr][32] for scoreMany, and packed rows, scoreDepth k
	// at a time, for scoreFew.
	queries []float32
	copied  []float32 // [keyBlock, R+dr]
	list    [keyBlock/pageTokens + 1]records
	st      []float32 // [keyBlock][32]: scores of a panel of queries, or some keys
	s       []float32 // scores, then weights, [n, ld]
	ld      int
}

// records is a number of consecutive cached records [n, R+dr] as float32.
type records struct {
	x []float32
	n int
}

// load returns the records of an item's keys [from, to), which lie in one block:
// of positions, or of indices into its picks. Records that are stored as
// float32 are used where they are, unless they are picked; but for few queries
// the copy pays, because it reads memory in order.
func (b *latentBlock) load(d *Device, a *mlaArgs, it *mlaItem, from, to int) []records {
	c, seq := a.cache, &d.step.Seqs[it.run.Seq]
	width := c.width()
	if it.picks != nil {
		for i, p := range it.picks[from:to] {
			d.loadRecord(b.copied[i*width:], c, a.layer, slot(seq, int(p)))
		}
	} else if c.spec.Format == device.CacheF32 && !b.few() {
		list := b.list[:0]
		for from < to {
			n := min(to, (from/pageTokens+1)*pageTokens) - from
			page := cast[float32](c.latent[a.layer][slot(seq, from)*c.record:][:n*c.record])
			list = append(list, records{page, n})
			from += n
		}
		return list
	} else {
		d.loadRecords(b.copied, width, c, a.layer, seq, from, to-from)
	}
	return append(b.list[:0], records{b.copied, to - from})
}

// scoreDepth is how many k of a product with queries are done at once, so that
// the queries' panel stays in the first-level cache.
const scoreDepth = 128

// few tells whether the queries are the rows of a product rather than columns.
func (b *latentBlock) few() bool { return b.n <= kern.N/2 }

// scoreMany multiplies keys as rows with queries as columns, and transposes the
// result.
func (d *Device) scoreMany(b *latentBlock, width int, list []records, keys int) {
	for p := 0; p*kern.N < b.n; p++ {
		m := min(kern.N, b.n-p*kern.N)
		zero(b.st, kern.N, keys, m)
		q, at := b.queries[p*width*kern.N:], 0
		for _, rec := range list {
			for k := 0; k < width; k += scoreDepth {
				d.gemm(rec.n, m, min(scoreDepth, width-k), rec.x[k:], width, q[k*kern.N:], kern.N, b.st[at*kern.N:], kern.N)
			}
			at += rec.n
		}
		d.k.Transpose(b.s[p*kern.N*b.ld:], b.ld, b.st, kern.N, keys, m)
	}
}

// scoreFew transposes keys, 32 at a time, and multiplies queries as rows with
// them. Every score is the same chain as in scoreMany, but columns would be
// wasted there.
func (d *Device) scoreFew(b *latentBlock, width int, list []records) {
	at := 0
	for _, rec := range list {
		for j := 0; j < rec.n; j += kern.N {
			n := min(kern.N, rec.n-j)
			zero(b.s[at:], b.ld, b.n, n)
			for k := 0; k < width; k += scoreDepth {
				depth := min(scoreDepth, width-k)
				d.k.Transpose(b.st, kern.N, rec.x[j*width+k:], width, n, depth)
				d.product(b.n, n, depth, b.queries[k/scoreDepth*d.packedLen(b.n, scoreDepth):], b.st, kern.N, b.s[at:], b.ld)
			}
			at += n
		}
	}
}

// latentBlock computes the partial result of one block of keys.
func (d *Device) latentBlock(a *mlaArgs, it *mlaItem, b *latentBlock, blk int) {
	width, r := a.cache.width(), a.cache.spec.Latent
	from, to := blk*keyBlock, (blk+1)*keyBlock
	if it.picks != nil {
		to = min(to, len(it.picks))
	} else {
		first, last := visible(it.run, it.r1-1)
		from, to = max(from, first), min(to, last)
	}
	keys := to - from
	list := b.load(d, a, it, from, to)

	if b.few() {
		d.scoreFew(b, width, list)
	} else {
		d.scoreMany(b, width, list, keys)
	}
	for i := range b.n {
		row := b.s[i*b.ld:][:keys]
		n := keys
		if it.picks == nil {
			_, seen := visible(it.run, it.r0+i/a.heads)
			n = max(0, min(seen, to)-from)
		}
		clear(row[n:])
		st := online{top: float32(math.Inf(-1))}
		if high := d.k.Max(row[:n]) * a.scale; !math.IsInf(float64(high), -1) {
			st.top = high
			st.sum = d.k.Exp(row[:n], a.scale, high)
		} else {
			clear(row)
		}
		it.states[i] = st
	}
	clear(it.part)
	for p := 0; p < r; p += kern.N {
		at := 0
		for _, rec := range list {
			d.gemm(b.n, min(kern.N, r-p), rec.n, b.s[at:], b.ld, rec.x[p:], width, it.part[p:], r)
			at += rec.n
		}
	}
}

// gemm adds A·B to C [m, n], n <= 32, for row-major A.
func (d *Device) gemm(m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int) {
	if n == kern.N {
		d.k.Gemm(m, k, a, lda, 1, b, ldb, c, ldc)
	} else {
		d.k.GemmN(m, n, k, a, lda, 1, b, ldb, c, ldc)
	}
}

// merger merges the partial results of an item's blocks into z and lse.
type merger struct {
	d      *Device
	z, lse []float32
	r      int
	states []online
}

func newMerger(d *Device, a *mlaArgs, it *mlaItem) *merger {
	n, top, r := (it.r1-it.r0)*a.heads, (it.first+it.r0)*a.heads, a.cache.spec.Latent
	m := &merger{d: d, z: a.z[top*r:][:n*r], lse: a.lse[top:][:n], r: r, states: make([]online, n)}
	clear(m.z)
	for i := range m.states {
		m.states[i].top = float32(math.Inf(-1))
	}
	return m
}

// add merges the next block.
func (m *merger) add(part []float32, states []online) {
	for i, p := range states {
		if p.sum == 0 {
			continue
		}
		st := &m.states[i]
		top, factor := st.shift(p.top)
		own := float32(math.Exp(float64(p.top) - float64(top)))
		z := m.z[i*m.r:][:m.r]
		if factor != 1 {
			m.d.k.Scale(z, factor)
		}
		m.d.k.Axpy(z, own, part[i*m.r:][:m.r])
		st.sum = st.sum*factor + own*p.sum
		st.top = top
	}
}

// finish divides by the sums.
func (m *merger) finish() {
	for i := range m.states {
		m.lse[i] = m.states[i].lse()
		if s := m.states[i].sum; s != 0 {
			m.d.k.Scale(m.z[i*m.r:][:m.r], 1/s)
		}
	}
}
