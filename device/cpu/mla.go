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
			m := newMerger(d, a, it)
			// The first block is computed in place.
			it.part, it.states = m.z, m.states
			d.latentBlocks(ws, a, it, func(block int) {
				if block > it.b0 {
					m.add(it.part, it.states)
				} else if m.any = true; it.b1-it.b0 > 1 {
					it.part, it.states = ws.floats(len(m.z)), make([]online, len(m.states))
				}
			})
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
	width, n := a.cache.width(), (it.r1-it.r0)*a.heads
	b := &latentBlock{n: n, lanes: kern.N}
	if n <= kern.N/2 {
		b.lanes = kern.N / 2
	}
	panels := (n + b.lanes - 1) / b.lanes
	b.keys = ws.floats((panelsOf(a.cache.spec.Latent) + panelsOf(a.cache.spec.Rope)) * keyPanel)
	b.queries = ws.floats(panels * width * b.lanes)
	b.scores = ws.floats(panels * keyBlock * b.lanes)
	b.top, b.sum = ws.floats(n), ws.floats(n)
	q := a.q[(it.first+it.r0)*a.heads*width:]
	for p := range panels {
		d.k.Transpose(b.queries[p*width*b.lanes:], b.lanes, q[p*b.lanes*width:], width, min(b.lanes, n-p*b.lanes), width)
	}
	for blk := it.b0; blk < it.b1; blk++ {
		d.latentBlock(a, it, b, blk)
		done(blk)
	}
}

// keyPanel is the distance of the panels of a block of keys: no power of two,
// so that the pieces of a record fall into different cache sets.
const keyPanel = (keyBlock + 1) * kern.N

func panelsOf(n int) int { return (n + kern.N - 1) / kern.N }

// latentBlock is the scratch memory for a block of keys. Queries (rows times
// heads) are columns everywhere, lanes of them side by side.
type latentBlock struct {
	n, lanes int
	queries  []float32 // [⌈n/lanes⌉][R+dr][lanes]
	// keys are the records of the block in panels of 32 dimensions, first those
	// of R, then those of dr: [panels][keyBlock][32], keyPanel apart.
	keys     []float32
	scores   []float32 // scores, then weights, [⌈n/lanes⌉][keyBlock][lanes]
	top, sum []float32 // largest score and sum of the weights of each query
}

// load reads the records of an item's keys [from, to), which lie in one block:
// of positions, or of indices into its picks.
func (b *latentBlock) load(d *Device, a *mlaArgs, it *mlaItem, from, to int) {
	seq := &d.step.Seqs[it.run.Seq]
	var slots [keyBlock]int32
	for i := range to - from {
		pos := from + i
		if it.picks != nil {
			pos = int(it.picks[pos])
		}
		slots[i] = int32(slot(seq, pos))
	}
	d.spreadRecords(b.keys, keyPanel, a.cache, a.layer, slots[:to-from])
}

// scoreDepth is how many k of a product with queries are done at once, so that
// the queries' panel stays in the first-level cache.
const scoreDepth = 128

// score computes the scores of keys keys with panel p of the queries.
func (b *latentBlock) score(d *Device, c *cache, p, keys int) {
	m := min(b.lanes, b.n-p*b.lanes)
	s, q := b.scores[p*keyBlock*b.lanes:][:keys*b.lanes], b.queries[p*c.width()*b.lanes:]
	clear(s)
	panel := b.keys
	for _, n := range []int{c.spec.Latent, c.spec.Rope} {
		for k := 0; k < n; k += scoreDepth {
			depth := min(scoreDepth, n-k)
			d.k.GemmPanels(keys, m, depth, panel, keyPanel, q, b.lanes, s, b.lanes)
			q, panel = q[depth*b.lanes:], panel[panelsOf(depth)*keyPanel:]
		}
	}
}

// hide makes the scores of queries [q0, q1) with keys [from, to) −Inf.
func (b *latentBlock) hide(q0, q1, from, to int) {
	for q0 < q1 {
		p, lane := q0/b.lanes, q0%b.lanes
		n := min(b.lanes-lane, q1-q0)
		for k := from; k < to; k++ {
			s := b.scores[(p*keyBlock+k)*b.lanes+lane:][:n]
			for j := range s {
				s[j] = float32(math.Inf(-1))
			}
		}
		q0 += n
	}
}

// latentBlock computes the partial result of one block of keys.
func (d *Device) latentBlock(a *mlaArgs, it *mlaItem, b *latentBlock, blk int) {
	r := a.cache.spec.Latent
	from, to := blk*keyBlock, (blk+1)*keyBlock
	if it.picks != nil {
		to = min(to, len(it.picks))
	} else {
		first, last := visible(it.run, it.r1-1)
		from, to = max(from, first), min(to, last)
	}
	keys := to - from
	b.load(d, a, it, from, to)
	for p := range (b.n + b.lanes - 1) / b.lanes {
		b.score(d, a.cache, p, keys)
	}
	if it.picks == nil {
		for i := range it.r1 - it.r0 {
			_, seen := visible(it.run, it.r0+i)
			b.hide(i*a.heads, (i+1)*a.heads, max(0, min(seen, to)-from), keys)
		}
	}
	clear(it.part)
	for q := 0; q < b.n; q += b.lanes {
		s, m := b.scores[q*keyBlock:], min(b.lanes, b.n-q)
		d.k.SoftmaxColumns(s, b.lanes, keys, m, a.scale, b.top[q:], b.sum[q:])
		for p := 0; p < r; p += kern.N {
			d.gemm(m, min(kern.N, r-p), keys, s, b.lanes, b.keys[p/kern.N*keyPanel:], it.part[q*r+p:], r)
		}
	}
	for i := range it.states {
		it.states[i] = online{top: b.top[i] * a.scale, sum: b.sum[i]}
	}
}

// gemm adds A·B to C [m, n], n <= 32, for a packed A [k][lda] and B [k][32].
func (d *Device) gemm(m, n, k int, a []float32, lda int, b []float32, c []float32, ldc int) {
	if n == kern.N {
		d.k.Gemm(m, k, a, 1, lda, b, kern.N, c, ldc)
	} else {
		d.k.GemmN(m, n, k, a, 1, lda, b, kern.N, c, ldc)
	}
}

// merger merges the partial results of an item's blocks into z and lse.
type merger struct {
	d      *Device
	z, lse []float32
	r      int
	states []online
	any    bool // there was a block
}

func newMerger(d *Device, a *mlaArgs, it *mlaItem) *merger {
	n, top, r := (it.r1-it.r0)*a.heads, (it.first+it.r0)*a.heads, a.cache.spec.Latent
	return &merger{d: d, z: a.z[top*r:][:n*r], lse: a.lse[top:][:n], r: r, states: make([]online, n)}
}

// add merges the next block.
func (m *merger) add(part []float32, states []online) {
	if !m.any {
		copy(m.z, part)
		copy(m.states, states)
		m.any = true
		return
	}
	for i, p := range states {
		if p.sum == 0 {
			continue
		}
		st := &m.states[i]
		top, factor := st.shift(p.top)
		own := float32(1)
		if p.top != top {
			own = float32(math.Exp(float64(p.top) - float64(top)))
		}
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
	if !m.any {
		clear(m.z)
	}
	for i := range m.states {
		m.lse[i] = m.states[i].lse()
		if s := m.states[i].sum; s != 0 {
			m.d.k.Scale(m.z[i*m.r:][:m.r], 1/s)
		}
	}
}
