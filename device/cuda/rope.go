package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

// rotation mirrors struct Rope of kernels/vec.cuh.
type rotation struct {
	Cos, Sin          driver.Ptr
	Half, Interleaved int32
}

// rotation checks a table of rotations, and that it has all positions of the
// step.
func (d *Device) rotation(op string, rope device.Rope) rotation {
	want(op, "cos table", rope.Cos, device.F32, rope.Cos.Rows, rope.Cos.Cols)
	want(op, "sin table", rope.Sin, device.F32, rope.Cos.Rows, rope.Cos.Cols)
	for _, p := range d.geometry.step.Positions {
		if p < 0 || int(p) >= rope.Cos.Rows {
			panic(fmt.Sprintf("cuda: %s: position %d in a rope table of %d", op, p, rope.Cos.Rows))
		}
	}
	r := rotation{Cos: ptr(rope.Cos), Sin: ptr(rope.Sin), Half: int32(rope.Cos.Cols)}
	if rope.Interleaved {
		r.Interleaved = 1
	}
	return r
}

// dim returns dr, the number of elements rotated.
func (r rotation) dim() int { return 2 * int(r.Half) }

// aligned tells whether every position's rotations can be read 16 bytes at a
// time.
func (r rotation) aligned() bool { return r.Half%4 == 0 && aligned(r.Cos, r.Sin) }

type ropeQueryParams struct {
	Q, Positions              driver.Ptr
	Rope                      rotation
	Heads, Width, Per, Chunks int32
}

// RopeQuery implements device.Device, see kernels/rope.cu.
func (d *Device) RopeQuery(q device.Tensor, heads int, rope device.Rope) {
	rot := d.rotation("RopeQuery", rope)
	want("RopeQuery", "q", q, device.BF16, len(d.geometry.step.Tokens), q.Cols)
	if heads < 1 || q.Cols%heads != 0 || q.Cols/heads < rot.dim() {
		panic(fmt.Sprintf("cuda: RopeQuery: q %s of %d heads with rope of %d", shape(q), heads, rot.dim()))
	}
	if rot.Half == 0 {
		return
	}
	p := ropeQueryParams{Q: ptr(q), Positions: d.positions(), Rope: rot, Heads: int32(heads), Width: int32(q.Cols / heads)}
	kernel, elements := "rope_query", 8 // of a head, for a thread
	if rot.Interleaved == 0 {
		elements = 16
	}
	if piece(int(p.Width), p.Q) == 1 || !rot.aligned() || rot.dim()%elements != 0 {
		kernel, elements = "rope_query_any", 2
	}
	p.Per = int32(rot.dim() / elements)
	threads, chunks := span(heads*int(p.Per), 1)
	p.Chunks = int32(chunks)
	launch(d, d.kernel("rope", kernel), grid1(q.Rows*chunks), block1(threads), 0, &p)
}

type indexQueryParams struct {
	Q, Weights, Rows driver.Ptr
	Rope             rotation
	Heads, Dim       int32
	Scale            float32
	F8               int32
}

// indexHead are the dimensions of an indexer head that have fast kernels.
const (
	indexHeadDim  = 128
	indexHeadRope = 64
)

// IndexQuery implements device.Device, see kernels/rope.cu for what q and
// weights then hold. Rows that see no keys stay as they are.
func (d *Device) IndexQuery(ca device.Cache, q, weights device.Tensor, scale float32, rope device.Rope, runs []device.Run) {
	c := cacheOf("IndexQuery", ca)
	l := d.list("IndexQuery", runs)
	heads, n := weights.Cols, c.spec.IndexDim
	want("IndexQuery", "q", q, device.BF16, l.numRows, heads*n)
	want("IndexQuery", "weights", weights, device.F32, l.numRows, heads)
	rot := d.rotation("IndexQuery", rope)
	if rot.dim() > n {
		panic(fmt.Sprintf("cuda: IndexQuery: rope of %d elements for heads of %d", rot.dim(), n))
	}
	p := indexQueryParams{Q: ptr(q), Weights: ptr(weights), Rows: l.rows, Rope: rot, Heads: int32(heads), Dim: int32(n), Scale: scale}
	if c.spec.Format == device.CacheF8 {
		p.F8 = 1
	}
	const perWarp, most = 4, 128 // heads
	if n == indexHeadDim && rot.dim() == indexHeadRope && heads <= most && aligned(p.Q) && rot.aligned() {
		launch(d, d.kernel("rope", "index_query"), grid1(l.numRows), block1(32*divUp(heads, perWarp)), 0, &p)
		return
	}
	const warps = 4
	shared := warps * n * 4
	if p.F8 != 0 {
		shared += heads * n
	}
	launch(d, d.kernel("rope", "index_query_any"), grid1(l.numRows), block1(32*warps), shared, &p)
}
