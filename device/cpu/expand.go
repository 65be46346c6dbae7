package cpu

import (
	"fmt"

	"latent/device"
	"latent/device/cpu/kern"
)

// expansion is the layout of expanded keys and values in a block of memory. Keys
// stand in slots; 32 consecutive slots from a multiple of 32 form a tile.
//
//	rope    [tiles][dr][32]        the shared rope keys
//	keys    [H][tiles][dn][32]     per head, panels of the product q·kᵀ
//	values  [H][⌈dv/32⌉][slots][32]  per head, panels of the product p·v
//
// tiles is what fits the memory, so that ExpandKV and MHA agree on it.
type expansion struct {
	tiles, heads, dn, dr, dv int
	rope, keys, values       []float32
}

// tileFloats returns the floats of one tile.
func (w *kvb) tileFloats(rope int) int {
	return kern.N * int(KVBytesPerKey(len(w.k), w.nope, rope, w.value)) / 4
}

// KVBytesPerKey returns the bytes that an expanded key takes in a model with
// these head sizes: what KVBytes says for many keys, without weights.
func KVBytesPerKey(heads, nope, rope, value int) int64 {
	dv := (value + kern.N - 1) / kern.N * kern.N
	return 4 * int64(rope+heads*(nope+dv))
}

// KVBytes implements device.Device.
func (d *Device) KVBytes(w device.KVB, rope, keys int) int64 {
	return 4 * int64(kvbOf("KVBytes", w).tileFloats(rope)) * int64((keys+kern.N-1)/kern.N)
}

// newExpansion lays out mem.
func newExpansion(op string, mem device.Memory, w *kvb, rope int) expansion {
	m, ok := mem.(*memory)
	if !ok {
		panic(fmt.Sprintf("cpu: %s: kv is a %T", op, mem))
	}
	f := cast[float32](m.data)
	e := expansion{tiles: len(f) / w.tileFloats(rope), heads: len(w.k), dn: w.nope, dr: rope, dv: w.value}
	n := e.tiles * kern.N
	e.rope, f = f[:n*rope], f[n*rope:]
	e.keys, f = f[:n*e.heads*e.dn], f[n*e.heads*e.dn:]
	e.values = f[:n*e.heads*e.panels()*kern.N]
	return e
}

// panels returns the panels of a head's values.
func (e *expansion) panels() int { return (e.dv + kern.N - 1) / kern.N }

// ropeTile returns the rope keys of a tile, [dr][32].
func (e *expansion) ropeTile(tile int) []float32 { return e.rope[tile*e.dr*kern.N:] }

// keyTile returns the keys of a head in a tile, [dn][32].
func (e *expansion) keyTile(head, tile int) []float32 {
	return e.keys[(head*e.tiles+tile)*e.dn*kern.N:]
}

// valuePanel returns panel p of a head's values from a slot on, [·][32].
func (e *expansion) valuePanel(head, p, slot int) []float32 {
	return e.values[((head*e.panels()+p)*e.tiles*kern.N+slot)*kern.N:]
}

// piece is a part of a key range that is expanded at once: n cached positions
// from pos on, to slots from slot on. Their latents, packed for products, are at
// c in the shared arena.
type piece struct {
	seq          *device.Seq
	pos, slot, n int
	c            []float32
}

// ExpandKV implements device.Device: first the latents of all pieces are
// converted and packed, and the rope keys stored; then every head's weights are
// unpacked once for each piece.
func (d *Device) ExpandKV(kv device.Memory, ca device.Cache, layer int, kw device.KVB, ranges []device.KeyRange) {
	c, w := cacheOf("ExpandKV", ca, layer), kvbOf("ExpandKV", kw)
	if c.spec.Latent != w.latent {
		panic(fmt.Sprintf("cpu: ExpandKV: cached latents of %d for kv_b of %d", c.spec.Latent, w.latent))
	}
	e := newExpansion("ExpandKV", kv, w, c.spec.Rope)
	most := max(1, 224/d.k.Rows) * d.k.Rows
	d.shared.reset()
	var pieces []piece
	for _, r := range ranges {
		if r.Seq < 0 || r.Seq >= len(d.step.Seqs) || r.From < 0 || r.From > r.To || r.To > d.step.Seqs[r.Seq].Context() ||
			r.Keys < 0 || r.Keys+r.To-r.From > e.tiles*kern.N {
			panic(fmt.Sprintf("cpu: ExpandKV: range %+v of %d sequences, memory for %d keys", r, len(d.step.Seqs), e.tiles*kern.N))
		}
		for from := r.From; from < r.To; from += most {
			n := min(most, r.To-from)
			pieces = append(pieces, piece{
				seq: &d.step.Seqs[r.Seq], pos: from, slot: r.Keys + from - r.From, n: n,
				c: d.shared.floats(d.packedLen(n, w.latent)),
			})
		}
	}
	d.parallel(len(pieces), func(ws *arena, i int) {
		p := &pieces[i]
		width := c.width()
		rows := ws.floats(p.n * width)
		d.loadRecords(rows, width, c, layer, p.seq, p.pos, p.n)
		d.packRows(ws, p.c, operand{x: rows, ld: width}, 0, p.n, 0, w.latent)
		if c.spec.Rope > 0 {
			d.storeTiles(e.ropeTile, c.spec.Rope, 0, rows[w.latent:], width, p.slot, p.n, c.spec.Rope)
		}
	})
	d.parallel(len(pieces)*e.heads, func(ws *arena, i int) {
		p, h := &pieces[i/e.heads], i%e.heads
		d.expandKeys(ws, &e, w, h, p)
		d.expandValues(ws, &e, w, h, p)
	})
}

// storeTiles writes src [n, cols], one row for each key, to dimensions
// dim.. of the tiles [size][32] of slots slot...
func (d *Device) storeTiles(tile func(int) []float32, size, dim int, src []float32, ld, slot, n, cols int) {
	for i := 0; i < n; {
		lane := (slot + i) % kern.N
		m := min(kern.N-lane, n-i)
		t := tile((slot + i) / kern.N)[:size*kern.N]
		d.k.Transpose(t[dim*kern.N+lane:], kern.N, src[i*ld:], ld, m, cols)
		i += m
	}
}

// expandKeys computes W_K·c of a piece for one head, 32 dimensions at a time:
// columns i0.. of the weight [R, dn] are gathered from its panels as [R][32].
func (d *Device) expandKeys(ws *arena, e *expansion, w *kvb, h int, p *piece) {
	k := &w.k[h]
	flat := ws.floats(w.nope * kern.N * k.panels()) // all panels, [dn][32] each
	for j := range k.panels() {
		copyPanel(flat[j*w.nope*kern.N:][:w.nope*kern.N], d.unpack(flat[j*w.nope*kern.N:], k, j, 0, w.nope))
	}
	b, c := ws.floats(w.latent*kern.N), ws.floats(p.n*kern.N)
	for i0 := 0; i0 < w.nope; i0 += kern.N {
		dims := min(kern.N, w.nope-i0)
		for j := range k.panels() {
			d.k.Transpose(b[j*kern.N*kern.N:], kern.N, flat[(j*w.nope+i0)*kern.N:], kern.N, dims, min(kern.N, w.latent-j*kern.N))
		}
		zero(c, kern.N, p.n, dims)
		d.product(p.n, dims, w.latent, p.c, b, kern.N, c, kern.N)
		d.storeTiles(func(t int) []float32 { return e.keyTile(h, t) }, e.dn, i0, c, kern.N, p.slot, p.n, dims)
	}
}

// copyPanel copies an unpacked panel, unless it was unpacked in place.
func copyPanel(dst, src []float32) {
	if &dst[0] != &src[0] {
		copy(dst, src)
	}
}

// expandValues computes W_V·c of a piece for one head. Lanes past dv become
// zero, as the weight's panels are.
func (d *Device) expandValues(ws *arena, e *expansion, w *kvb, h int, p *piece) {
	buf := ws.floats(w.latent * kern.N)
	for j := range e.panels() {
		b := d.unpack(buf, &w.v[h], j, 0, w.latent)
		v := e.valuePanel(h, j, p.slot)
		zero(v, kern.N, p.n, kern.N)
		d.product(p.n, kern.N, w.latent, p.c, b, kern.N, v, kern.N)
	}
}
