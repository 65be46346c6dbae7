package cpu

import (
	"fmt"
	"math"

	"latent/device"
	"latent/device/cpu/kern"
)

// keyBlock is the number of keys that attention processes at once. Blocks begin
// at multiples of it.
const keyBlock = 128

// online is the running softmax of one query row and head over blocks of keys.
type online struct {
	top float32 // largest scaled score so far
	sum float32 // Σ exp(scaled score − top)
}

// shift returns the maximum to use with a block whose largest scaled score is
// m, and the factor for what has been summed before.
func (o *online) shift(m float32) (top, factor float32) {
	if m <= o.top {
		return o.top, 1
	}
	return m, float32(math.Exp(float64(o.top) - float64(m)))
}

// lse returns the log-sum-exp, −Inf without keys.
func (o *online) lse() float32 {
	if o.sum == 0 {
		return float32(math.Inf(-1))
	}
	return float32(float64(o.top) + math.Log(float64(o.sum)))
}

// mhaItem is an item of MHA: rows [r0, r1) of a run for one head.
type mhaItem struct {
	run    *device.Run
	head   int
	r0, r1 int
}

// mhaArgs are the arguments of MHA.
type mhaArgs struct {
	out, lse, q []float32
	kv          expansion
	scale       float32
}

// MHA implements device.Device. An item is a block of rows of one head; it goes
// through the keys block by block, with a running maximum and sum for each row.
func (d *Device) MHA(out, lse, q device.Tensor, kv device.Memory, kw device.KVB, sel device.Selection, scale float32, runs []device.Run) {
	w := kvbOf("MHA", kw)
	d.rowsOf("MHA", runs)
	heads, rows := w.Heads(), len(d.step.Tokens)
	if q.Rows != rows || q.Cols%heads != 0 || q.Cols/heads < w.nope {
		panic(fmt.Sprintf("cpu: MHA: q %s for %d rows of %d heads", shape(q), rows, heads))
	}
	wantShape("MHA", "out", out, rows, heads*w.value)
	wantShape("MHA", "lse", lse, rows, heads)
	if !(scale > 0) {
		panic(fmt.Sprintf("cpu: MHA: scale %v", scale))
	}
	a := mhaArgs{
		out: floats("MHA", "out", out), lse: floats("MHA", "lse", lse), q: floats("MHA", "q", q),
		kv: newExpansion("MHA", kv, w, q.Cols/heads-w.nope), scale: scale,
	}
	block := 8 * d.k.Rows
	var items []mhaItem
	for i := range runs {
		r := &runs[i]
		if r.KeyTo > r.KeyFrom && (r.Keys < 0 || r.Keys+r.KeyTo-r.KeyFrom > a.kv.tiles*kern.N) {
			panic(fmt.Sprintf("cpu: MHA: keys %d..%d from slot %d on in memory for %d", r.KeyFrom, r.KeyTo, r.Keys, a.kv.tiles*kern.N))
		}
		if r.Sel >= 0 {
			selectionOf("MHA", sel, device.SelectMask, r)
		}
		for r0 := 0; r0 < r.Rows; r0 += block {
			for h := range heads {
				items = append(items, mhaItem{r, h, r0, min(r0+block, r.Rows)})
			}
		}
	}
	d.parallel(len(items), func(ws *arena, i int) {
		it := &items[len(items)-1-i] // late rows see the most keys: first
		var mask *selection
		if it.run.Sel >= 0 {
			mask = sel.(*selection)
		}
		d.attend(ws, &a, it, mask)
	})
}

// attend computes one item.
func (d *Device) attend(ws *arena, a *mhaArgs, it *mhaItem, mask *selection) {
	e, run := &a.kv, it.run
	m := it.r1 - it.r0
	mr := d.height(m)
	head := e.dn + e.dr
	top := (run.Row + it.r0) * e.heads
	pq := ws.floats(d.packedLen(m, head))
	d.packRows(ws, pq, operand{x: a.q[(top+it.head)*head:], ld: e.heads * head}, 0, m, 0, head)

	panels := e.panels()
	lda := panels * kern.N
	acc := ws.floats(m * lda)
	clear(acc)
	lds := keyBlock + 2*kern.N + 16 // no two rows in the same cache sets
	s := ws.floats(mr * lds)
	states := make([]online, m)
	for i := range states {
		states[i].top = float32(math.Inf(-1))
	}
	_, last := visible(run, it.r1-1)
	for from := run.KeyFrom; from < last; {
		to := min((from/keyBlock+1)*keyBlock, last)
		for g := 0; g < m; g += mr {
			n := min(mr, m-g)
			_, seen := visible(run, it.r0+g+n-1)
			if seen <= from {
				continue
			}
			d.attendBlock(e, a.scale, it, mask, pq[g/mr*stride(mr)*head:], stride(mr), s, lds, acc[g*lda:], states[g:g+n], g, from, min(to, seen))
		}
		from = to
	}
	for i := range m {
		o := a.out[(top+i*e.heads+it.head)*e.dv:][:e.dv]
		a.lse[top+i*e.heads+it.head] = states[i].lse()
		copy(o, acc[i*lda:])
		if states[i].sum != 0 {
			d.k.Scale(o, 1/states[i].sum)
		}
	}
}

// attendBlock adds the keys [from, to), all in one block, to the rows
// g.. of an item, at most as many as the kernels take at once.
func (d *Device) attendBlock(e *expansion, scale float32, it *mhaItem, mask *selection, pq []float32, ldq int, s []float32, lds int, acc []float32, states []online, g, from, to int) {
	run, m := it.run, len(states)
	if mask != nil && !mask.any(run.Sel+it.r0+g, m, from, to) {
		return
	}
	slot := run.Keys + from - run.KeyFrom
	skip := slot % kern.N // columns of s before the first key
	keys := to - from
	tile := slot / kern.N
	zero(s, lds, m, (skip+keys+kern.N-1)/kern.N*kern.N)
	for j := 0; j < skip+keys; j += kern.N {
		d.k.Gemm(m, e.dn, pq, 1, ldq, e.keyTile(it.head, tile+j/kern.N), kern.N, s[j:], lds)
		if e.dr > 0 {
			d.k.Gemm(m, e.dr, pq[e.dn*ldq:], 1, ldq, e.ropeTile(tile+j/kern.N), kern.N, s[j:], lds)
		}
	}
	lda := e.panels() * kern.N
	for i := range m {
		r := it.r0 + g + i
		_, seen := visible(run, r)
		row := s[i*lds+skip:][:keys]
		n := min(seen, to) - from // keys of the block that the row sees
		if n <= 0 {
			clear(row)
			continue
		}
		if mask != nil {
			words := mask.mask[(run.Sel+r)*mask.words:][:mask.words]
			d.k.Mask(row[:n], words, from)
		}
		clear(row[n:])
		st := &states[i]
		high := d.k.Max(row[:n])
		if math.IsInf(float64(high), -1) {
			clear(row[:n])
			continue
		}
		t, factor := st.shift(high * scale)
		if st.sum != 0 && factor != 1 { // without a sum, acc is zero
			d.k.Scale(acc[i*lda:][:lda], factor)
			st.sum *= factor
		}
		st.top = t
		st.sum += d.k.Exp(row[:n], scale, t)
	}
	for p := range e.panels() {
		d.k.Gemm(m, keys, s[skip:], lds, 1, e.valuePanel(it.head, p, slot), kern.N, acc[p*kern.N:], lda)
	}
}
