package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

// kvb implements device.KVB: kv_b_proj as bf16 [H·(dn+dv), R], row-major as in
// the checkpoint. Per head the first dn rows make keys (W_K), the next dv rows
// values (W_V); all three uses read it in place.
type kvb struct {
	heads, nope, value, latent int
	mem                        *memory
}

func (w *kvb) Heads() int   { return w.heads }
func (w *kvb) Nope() int    { return w.nope }
func (w *kvb) Value() int   { return w.value }
func (w *kvb) Latent() int  { return w.latent }
func (w *kvb) Bytes() int64 { return w.mem.bytes }

// headElements is how many elements of kv_b belong to a head.
func (w *kvb) headElements() int64 { return int64(w.nope+w.value) * int64(w.latent) }

func kvbOf(op string, w device.KVB) *kvb {
	k, ok := w.(*kvb)
	if !ok {
		panic(fmt.Sprintf("cuda: %s: kv_b is a %T", op, w))
	}
	return k
}

// LoadKVB implements device.Device.
func (d *Device) LoadKVB(arithmetic device.DType, heads, nope, value int, w device.MatrixSource) (device.KVB, error) {
	if err := wantBF16("load "+w.Name, arithmetic); err != nil {
		return nil, err
	}
	if err := checkSource(&w); err != nil {
		return nil, err
	}
	if w.Rows != heads*(nope+value) {
		return nil, fmt.Errorf("cuda: load %s: %d rows for %d heads of %d+%d", w.Name, w.Rows, heads, nope, value)
	}
	m := &matrix{out: w.Rows, in: w.Cols, limbs: 1}
	var err error
	if m.mem, err = d.alloc(2 * int64(w.Rows) * int64(w.Cols)); err != nil {
		return nil, fmt.Errorf("cuda: load %s: %w", w.Name, err)
	}
	if err := d.fillBF16(m, &w, 0); err != nil {
		m.mem.Free()
		return nil, err
	}
	return &kvb{heads: heads, nope: nope, value: value, latent: w.Cols, mem: m.mem}, nil
}

// consecutive tells whether the rows of runs follow one another in the step,
// and the first of them. A captured step keeps the answer.
func consecutive(runs []device.Run) (first int, ok bool) {
	next := -1
	for i := range runs {
		r := &runs[i]
		switch {
		case r.Rows == 0:
			continue
		case next < 0:
			first = r.Row
		case r.Row != next:
			return 0, false
		}
		next = r.Row + r.Rows
	}
	return first, true
}

// Absorb implements device.Device: a product for each head, with the columns of
// a head for rows, and a copy of the rope part. Rows of q that do not follow one
// another are gathered first.
func (d *Device) Absorb(dst, q device.Tensor, w device.KVB, runs []device.Run) {
	b := kvbOf("Absorb", w)
	n := device.RunRows(runs)
	rope := q.Cols/b.heads - b.nope
	want("Absorb", "q", q, device.BF16, len(d.geometry.step.Tokens), b.heads*(b.nope+rope))
	want("Absorb", "dst", dst, device.BF16, n, b.heads*(b.latent+rope))
	if n == 0 {
		return
	}
	l := d.list("Absorb", runs)
	width, in := b.nope+rope, ptr(q) // of a head in the product's right operand
	var gathered driver.Ptr
	if first, ok := consecutive(runs); ok {
		in += driver.Ptr(2 * int64(first) * int64(q.Cols))
	} else {
		width = b.nope
		gathered = d.scratch("absorb", 2*int64(n)*int64(b.heads*b.nope))
		in = gathered
	}
	launch(d, d.kernel("absorb", "absorb_rows"), [3]uint32{uint32(n), rowBlocks(n, b.heads*(b.nope+rope)), 1}, block1(256), 0, &absorbParams{
		Q: ptr(q), QA: ptr(dst), Gathered: gathered, Rows: l.rows,
		Heads: int32(b.heads), Nope: int32(b.nope), Rope: int32(rope), Latent: int32(b.latent),
	})
	d.products.queue(driver.MatmulSpec{
		A: driver.MatmulOperand{Type: driver.MatmulBF16, Rows: b.latent, Cols: b.nope, Lead: b.latent, Stride: b.headElements()},
		B: driver.MatmulOperand{Type: driver.MatmulBF16, Rows: b.nope, Cols: n, Lead: b.heads * width, Stride: int64(width)},
		D: driver.MatmulOperand{Type: driver.MatmulBF16, Rows: b.latent, Cols: n, Lead: b.heads * (b.latent + rope), Stride: int64(b.latent + rope)},

		Batch: b.heads,
	}, driver.MatmulCall{A: b.mem.addr, B: in, D: ptr(dst)})
}

// rowBlocks is how many blocks of 256 threads share a row in a kernel that
// copies rows of cols elements: more when there are few rows.
func rowBlocks(rows, cols int) uint32 {
	return uint32(max(1, min(divUp(cols, 2048), divUp(1024, rows))))
}

// absorbParams mirrors struct Absorb of absorb.cu.
type absorbParams struct {
	Q, QA, Gathered, Rows     driver.Ptr
	Heads, Nope, Rope, Latent int32
}

// Unabsorb implements device.Device. Rows of out that do not follow one another
// are scattered from a scratch.
func (d *Device) Unabsorb(out, z device.Tensor, w device.KVB, runs []device.Run) {
	b := kvbOf("Unabsorb", w)
	n := device.RunRows(runs)
	want("Unabsorb", "z", z, device.BF16, n, b.heads*b.latent)
	want("Unabsorb", "out", out, device.BF16, len(d.geometry.step.Tokens), b.heads*b.value)
	if n == 0 {
		return
	}
	l := d.list("Unabsorb", runs)
	first, inPlace := consecutive(runs)
	dst := ptr(out) + driver.Ptr(2*int64(first)*int64(out.Cols))
	if !inPlace {
		dst = d.scratch("absorb", 2*int64(n)*int64(out.Cols))
	}
	d.products.queue(driver.MatmulSpec{
		TransposeA: true,

		A: driver.MatmulOperand{Type: driver.MatmulBF16, Rows: b.latent, Cols: b.value, Lead: b.latent, Stride: b.headElements()},
		B: driver.MatmulOperand{Type: driver.MatmulBF16, Rows: b.latent, Cols: n, Lead: z.Cols, Stride: int64(b.latent)},
		D: driver.MatmulOperand{Type: driver.MatmulBF16, Rows: b.value, Cols: n, Lead: out.Cols, Stride: int64(b.value)},

		Batch: b.heads,
	}, driver.MatmulCall{A: b.mem.addr + driver.Ptr(2*b.nope*b.latent), B: ptr(z), D: dst})
	if !inPlace {
		launch(d, d.kernel("absorb", "scatter_rows"), [3]uint32{uint32(n), rowBlocks(n, out.Cols), 1}, block1(256), 0, &scatterParams{
			Src: dst, Dst: ptr(out), Rows: l.rows, Cols: int32(out.Cols),
		})
	}
}

// scatterParams mirrors struct Scatter of absorb.cu.
type scatterParams struct {
	Src, Dst, Rows driver.Ptr
	Cols, _        int32
}
