package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

type mergeParams struct {
	Out, LSE, Part, PartLSE, Rows driver.Ptr
	Count, Heads, Width, Vector   int32
}

// MergeLSE implements device.Device, see kernels/rows.cu.
func (d *Device) MergeLSE(out, lse, part, partLSE device.Tensor, runs []device.Run) {
	heads := lse.Cols
	want("MergeLSE", "out", out, device.BF16, lse.Rows, out.Cols)
	want("MergeLSE", "lse", lse, device.F32, out.Rows, heads)
	want("MergeLSE", "part", part, device.BF16, out.Rows, out.Cols)
	want("MergeLSE", "partLSE", partLSE, device.F32, out.Rows, heads)
	if heads == 0 || out.Cols%heads != 0 {
		panic(fmt.Sprintf("cuda: MergeLSE: out %s with lse %s", shape(out), shape(lse)))
	}
	l := d.list("MergeLSE", runs)
	p := mergeParams{
		Out: ptr(out), LSE: ptr(lse), Part: ptr(part), PartLSE: ptr(partLSE), Rows: l.rows,
		Count: int32(l.numRows * heads), Heads: int32(heads), Width: int32(out.Cols / heads),
	}
	if piece(int(p.Width), p.Out, p.Part) == 8 {
		p.Vector = 1
	}
	const items = 16 // of a block
	launch(d, d.kernel("rows", "merge_lse"), grid1(divUp(l.numRows*heads, items)), block1(256), 0, &p)
}
