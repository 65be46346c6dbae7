package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

// The host side of kernels/rows.cu. Structs named …Params mirror the kernels'.

// piece is how many elements a thread takes at a time: 8 where sizes and
// addresses allow 16-byte accesses, else 1.
func piece(cols int, addresses ...driver.Ptr) int {
	if cols%8 != 0 || !aligned(addresses...) {
		return 1
	}
	return 8
}

// aligned tells whether all addresses are multiples of 16 bytes.
func aligned(addresses ...driver.Ptr) bool {
	var all driver.Ptr
	for _, a := range addresses {
		all |= a
	}
	return all%16 == 0
}

// span covers the columns of a row, width to a thread: threads in a block, and
// blocks (chunks) for a row.
func span(cols, width int) (threads, chunks int) {
	n := divUp(cols, width)
	threads = min(256, roundUp(n, 32))
	return threads, divUp(n, threads)
}

type embedParams struct {
	Dst, Table, Tokens          driver.Ptr
	Cols, Chunks, Width, Stored int32
}

// Embed implements device.Device for tables in F32, BF16 and F16.
func (d *Device) Embed(dst, table device.Tensor) {
	tokens := d.geometry.step.Tokens
	want("Embed", "dst", dst, device.BF16, len(tokens), table.Cols)
	var stored int32 // enum TableType
	switch table.Type {
	case device.F32:
		stored = 0
	case device.BF16:
		stored = 1
	case device.F16:
		stored = 2
	default:
		panic(fmt.Sprintf("cuda: Embed: table is %s", shape(table)))
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= table.Rows {
			panic(fmt.Sprintf("cuda: Embed: token %d of row %d in table %s", t, i, shape(table)))
		}
	}
	p := embedParams{Dst: ptr(dst), Table: ptr(table), Tokens: d.tokens(), Cols: int32(table.Cols), Stored: stored}
	width := piece(table.Cols, p.Dst, p.Table)
	threads, chunks := span(table.Cols, width)
	p.Width, p.Chunks = int32(width), int32(chunks)
	launch(d, d.kernel("rows", "embed"), grid1(len(tokens)*chunks), block1(threads), 0, &p)
}

type gatherParams struct {
	Dst, Src, Rows driver.Ptr
	Bytes          int64
	Chunks, Width  int32
}

// Gather implements device.Device.
func (d *Device) Gather(dst, src device.Tensor, rows []int32) {
	want("Gather", "dst", dst, src.Type, len(rows), src.Cols)
	for _, r := range rows {
		if r < 0 || int(r) >= src.Rows {
			panic(fmt.Sprintf("cuda: Gather: row %d of src %s", r, shape(src)))
		}
	}
	if len(rows) == 0 {
		return
	}
	p := gatherParams{Dst: ptr(dst), Src: ptr(src), Bytes: int64(src.Cols * src.Type.Size()), Width: 16}
	for (p.Bytes|int64(p.Dst|p.Src))%int64(p.Width) != 0 {
		p.Width /= 2
	}
	if p.Width == 8 {
		p.Width = 4
	}
	p.Rows = d.stage(len(rows), func(dst []int32) { copy(dst, rows) })
	threads, chunks := span(int(p.Bytes), int(p.Width))
	p.Chunks = int32(chunks)
	launch(d, d.kernel("rows", "gather"), grid1(len(rows)*chunks), block1(threads), 0, &p)
}

type rmsNormParams struct {
	Dst, Src, Weight         driver.Ptr
	Rows, Cols, Warps, Block int32
	Eps                      float32
	_                        int32
}

// RMSNorm implements device.Device.
func (d *Device) RMSNorm(dst, src, weight device.Tensor, eps float32) {
	want("RMSNorm", "src", src, device.BF16, src.Rows, src.Cols)
	want("RMSNorm", "dst", dst, device.BF16, src.Rows, src.Cols)
	want("RMSNorm", "weight", weight, device.F32, 1, src.Cols)
	p := rmsNormParams{Dst: ptr(dst), Src: ptr(src), Weight: ptr(weight), Rows: int32(src.Rows), Cols: int32(src.Cols), Eps: eps}
	const perWarp, most = 512, 32 * 512 // elements in registers: of a warp, of a block
	if piece(src.Cols, p.Dst, p.Src, p.Weight) == 1 || src.Cols > most {
		launch(d, d.kernel("rows", "rms_norm_any"), grid1(src.Rows), block1(256), 0, &p)
		return
	}
	warps := divUp(src.Cols, perWarp)
	block := max(1, 8/warps)
	p.Warps, p.Block = int32(warps), int32(block)
	launch(d, d.kernel("rows", "rms_norm"), grid1(divUp(src.Rows, block)), block1(32*warps*block), 0, &p)
}

type swigluParams struct {
	Dst, Src               driver.Ptr
	Cols, Chunks, Width, _ int32
}

// SwiGLU implements device.Device.
func (d *Device) SwiGLU(dst, src device.Tensor) {
	want("SwiGLU", "dst", dst, device.BF16, src.Rows, dst.Cols)
	want("SwiGLU", "src", src, device.BF16, dst.Rows, 2*dst.Cols)
	p := swigluParams{Dst: ptr(dst), Src: ptr(src), Cols: int32(dst.Cols)}
	width := piece(dst.Cols, p.Dst, p.Src)
	threads, chunks := span(dst.Cols, width)
	p.Width, p.Chunks = int32(width), int32(chunks)
	launch(d, d.kernel("rows", "swiglu"), grid1(dst.Rows*chunks), block1(threads), 0, &p)
}
