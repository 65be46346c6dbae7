package cpu

import (
	"latent/device/cpu/kern"
)

// operand is a matrix of activations: row i is x[r·ld:], where r is rows[i], or
// i if rows is nil.
type operand struct {
	x    []float32
	ld   int
	rows []int32
}

func (a *operand) row(i int) []float32 {
	if a.rows != nil {
		i = int(a.rows[i])
	}
	return a.x[i*a.ld:]
}

const (
	// depth is how many k are unpacked and multiplied at once: rows of a block
	// of A and a panel of B of this depth share the first-level cache.
	depth = 256
	// fewDepth is the same for few rows, which read weights only once.
	fewDepth = 2048
)

// tiling divides products with a weight into items: blocks of rows times groups
// of an even number of panels (or what remains).
type tiling struct {
	rows, out            int
	rowBlock, panelBlock int
	rowBlocks, groups    int
}

// few returns the number of rows up to which a product reads the packed weights
// directly, several times if need be, instead of unpacking them to float32
// first (measured on Cascade Lake).
func (w *packed) few() int {
	if w.form == formBF16 {
		return 16
	}
	return 4
}

// items returns the number of items.
func (t *tiling) items() int { return t.rowBlocks * t.groups }

// item returns the rows [r0, r1) and the panels [p0, p1) of item i.
func (t *tiling) item(i int) (r0, r1, p0, p1 int) {
	r0, p0 = i%t.rowBlocks*t.rowBlock, i/t.rowBlocks*t.panelBlock
	return r0, min(r0+t.rowBlock, t.rows), p0, min(p0+t.panelBlock, (t.out+kern.N-1)/kern.N)
}

// tile chooses a tiling for rows of activations and w, which is one of a number
// of similar products in a parallel loop.
func (d *Device) tile(rows int, w *packed, products int) tiling {
	t := tiling{rows: rows, out: w.out}
	panels, threads := w.panels(), d.team.size()
	if rows <= w.few() {
		// Bound by reading w: all products together have eight items a thread,
		// of 32 KiB or more.
		want := (8*threads + products - 1) / products
		size := int(w.bytes()) / panels
		t.rowBlock = max(1, rows)
		t.panelBlock = (max(1, (32<<10)/size, (panels+want-1)/want) + 1) &^ 1
	} else {
		// Bound by arithmetic: unpacking pays with many rows, packing the
		// activations with many panels. All products together have four items a
		// thread.
		want := (4*threads + products - 1) / products
		t.panelBlock, t.rowBlock = 32, d.rowBlock(rows, 16)
		items := func() int {
			return (rows + t.rowBlock - 1) / t.rowBlock * ((panels + t.panelBlock - 1) / t.panelBlock)
		}
		for t.panelBlock > 4 && items() < want {
			t.panelBlock /= 2
		}
		for n := 8; n >= 2 && items() < want; n /= 2 {
			t.rowBlock = d.rowBlock(rows, n)
		}
	}
	t.rowBlocks = (rows + t.rowBlock - 1) / t.rowBlock
	t.groups = (panels + t.panelBlock - 1) / t.panelBlock
	return t
}

// rowBlock divides rows evenly into blocks of at most n times what the kernels
// take at once.
func (d *Device) rowBlock(rows, n int) int {
	most := n * d.k.Rows
	count := (rows + most - 1) / most
	return min(most, ((rows+count-1)/count+d.k.Rows-1)/d.k.Rows*d.k.Rows)
}

// multiply adds rows [r0, r1) of a times the panels [p0, p1) of w to y: row r0
// and the first output of panel p0 are y[0].
func (d *Device) multiply(ws *arena, w *packed, a operand, r0, r1, p0, p1 int, y []float32, ldy int) {
	n := min(w.out, p1*kern.N) - p0*kern.N
	switch {
	case n <= 0 || r0 >= r1:
	case w.form == formPair:
		d.multiplyPairs(ws, w, a, r0, r1, p0, n, y, ldy)
	case r1-r0 <= w.few():
		d.multiplyFew(ws, w, a, r0, r1, p0, n, y, ldy)
	default:
		d.multiplyMany(ws, w, a, r0, r1, p0, n, y, ldy)
	}
}

// multiplyFew reads the packed weights directly.
func (d *Device) multiplyFew(ws *arena, w *packed, a operand, r0, r1, p0, n int, y []float32, ldy int) {
	m := r1 - r0
	x, ldx := a.row(r0), a.ld
	if a.rows != nil && m > 1 {
		x, ldx = ws.floats(m*w.in), w.in
		for i := range m {
			copy(x[i*ldx:][:w.in], a.row(r0+i))
		}
	}
	for k0 := 0; k0 < w.in; k0 += fewDepth {
		k1 := min(k0+fewDepth, w.in)
		switch w.form {
		case formF32:
			d.k.PanelF32(m, n, k0, k1, x, ldx, w.f32[p0*w.stride:], w.stride, y, ldy)
		case formBF16:
			d.k.PanelBF16(m, n, k0, k1, x, ldx, w.bf16[p0*w.stride:], w.stride, y, ldy)
		case formF8:
			d.k.PanelF8(m, n, k0, k1, x, ldx, w.f8[p0*w.stride:], w.stride, w.scales[p0*w.scaleStride:], w.scaleStride, y, ldy)
		}
	}
}

// multiplyPairs rounds the activations to bf16.
func (d *Device) multiplyPairs(ws *arena, w *packed, a operand, r0, r1, p0, n int, y []float32, ldy int) {
	m, pairs := r1-r0, (w.in+1)/2
	lda := pairs + 16 // no two rows of a block in the same cache sets
	x := words(ws.floats(m * lda))
	for i := range m {
		d.k.PairsBF16(x[i*lda:][:pairs], a.row(r0 + i)[:w.in])
	}
	d.k.GemmBF16(m, n, pairs, x, lda, 1, w.bf16[p0*w.stride:], w.stride, y, ldy)
}

// multiplyMany packs the activations and unpacks the weights, depth values of k
// at a time.
func (d *Device) multiplyMany(ws *arena, w *packed, a operand, r0, r1, p0, n int, y []float32, ldy int) {
	m := r1 - r0
	pa := ws.floats(d.packedLen(m, min(depth, w.in)))
	var b []float32
	if w.form != formF32 {
		b = ws.floats(min(depth, w.in) * kern.N)
	}
	for k0 := 0; k0 < w.in; k0 += depth {
		k1 := min(k0+depth, w.in)
		d.packRows(ws, pa, a, r0, r1, k0, k1)
		for j := 0; j < n; j += kern.N {
			panel := p0 + j/kern.N
			d.product(m, min(kern.N, n-j), k1-k0, pa, d.unpack(b, w, panel, k0, k1), kern.N, y[j:], ldy)
		}
	}
}

// unpack returns k in [k0, k1) of a panel as [k1−k0, 32] floats, in b unless
// they are stored like that. k0 is a multiple of kern.ScaleBlock.
func (d *Device) unpack(b []float32, w *packed, panel, k0, k1 int) []float32 {
	switch w.form {
	case formF32:
		return w.f32[panel*w.stride+k0*kern.N:]
	case formF8:
		d.k.UnpackF8(b, w.f8[panel*w.stride:], w.scales[panel*w.scaleStride:], k0, k1)
	default:
		d.k.UnpackBF16(b, w.bf16[panel*w.stride:], k0, k1)
	}
	return b
}

// height returns the rows of a block of packed rows: at most what the kernels
// take at once, and such that the last of m rows are not left to a small block,
// which is as slow as a large one.
func (d *Device) height(m int) int {
	n := (m + d.k.Rows - 1) / d.k.Rows
	return (m + n - 1) / n
}

// stride returns the distance of consecutive k in a block of packed rows of
// height h: transposing works on blocks of 8 rows.
func stride(h int) int { return (h + 7) &^ 7 }

// packedLen returns the length of m packed rows of k values.
func (d *Device) packedLen(m, k int) int {
	h := d.height(m)
	return (m + h - 1) / h * stride(h) * k
}

// packRows writes columns [k0, k1) of rows [r0, r1) of a to dst in blocks of
// height h rows, each [k1−k0][stride(h)], for product.
func (d *Device) packRows(ws *arena, dst []float32, a operand, r0, r1, k0, k1 int) {
	h, k := d.height(r1-r0), k1-k0
	s := stride(h)
	var rows []float32
	for r := r0; r < r1; r += h {
		src, ld := a.row(r)[k0:], a.ld
		// Rows after the block may be anything, but must exist.
		if a.rows != nil || len(src) < (s-1)*ld+k {
			if rows == nil {
				rows = ws.floats(s * k)
			}
			for i := range min(h, r1-r) {
				copy(rows[i*k:][:k], a.row(r + i)[k0:])
			}
			src, ld = rows, k
		}
		d.k.Transpose(dst, s, src, ld, s, k)
		dst = dst[s*k:]
	}
}

// product adds A·B to C [m, n], n <= 32, for A packed by packRows.
func (d *Device) product(m, n, k int, pa, b []float32, ldb int, c []float32, ldc int) {
	h := d.height(m)
	s := stride(h)
	for i := 0; i < m; i += h {
		if n == kern.N {
			d.k.Gemm(min(h, m-i), k, pa, 1, s, b, ldb, c[i*ldc:], ldc)
		} else {
			d.k.GemmN(min(h, m-i), n, k, pa, 1, s, b, ldb, c[i*ldc:], ldc)
		}
		pa = pa[s*k:]
	}
}

// zero clears n columns of m rows.
func zero(y []float32, ldy, m, n int) {
	for i := range m {
		clear(y[i*ldy:][:n])
	}
}
