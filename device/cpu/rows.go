package cpu

import (
	"fmt"
	"math"

	"latent/device"
)

// Embed implements device.Device for tables in F32, BF16 and F16.
func (d *Device) Embed(dst, table device.Tensor) {
	tokens := d.step.Tokens
	wantShape("Embed", "dst", dst, len(tokens), table.Cols)
	out := floats("Embed", "dst", dst)
	n := table.Cols
	src := tensorBytes("Embed", "table", table)
	var row func(dst []float32, r int)
	switch table.Type {
	case device.F32:
		t := cast[float32](src)
		row = func(dst []float32, r int) { copy(dst, t[r*n:][:n]) }
	case device.BF16:
		t := cast[uint16](src)
		row = func(dst []float32, r int) { d.k.F32FromBF16(dst, t[r*n:][:n]) }
	case device.F16:
		t := cast[uint16](src)
		row = func(dst []float32, r int) { d.k.F32FromF16(dst, t[r*n:][:n]) }
	default:
		panic(fmt.Sprintf("cpu: Embed: table is %s", shape(table)))
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= table.Rows {
			panic(fmt.Sprintf("cpu: Embed: token %d of row %d in table %s", t, i, shape(table)))
		}
	}
	d.overRows(len(tokens), n, func(_ *arena, from, to int) {
		for i := from; i < to; i++ {
			row(out[i*n:][:n], int(tokens[i]))
		}
	})
}

// Gather implements device.Device.
func (d *Device) Gather(dst, src device.Tensor, rows []int32) {
	wantShape("Gather", "dst", dst, len(rows), src.Cols)
	if dst.Type != src.Type {
		panic(fmt.Sprintf("cpu: Gather: %s from %s", shape(dst), shape(src)))
	}
	out, in := tensorBytes("Gather", "dst", dst), tensorBytes("Gather", "src", src)
	n := src.Cols * src.Type.Size()
	for i, r := range rows {
		if r < 0 || int(r) >= src.Rows {
			panic(fmt.Sprintf("cpu: Gather: row %d of src %s", r, shape(src)))
		}
		copy(out[i*n:][:n], in[int(r)*n:][:n])
	}
}

// RMSNorm implements device.Device.
func (d *Device) RMSNorm(dst, src, weight device.Tensor, eps float32) {
	wantShape("RMSNorm", "dst", dst, src.Rows, src.Cols)
	wantShape("RMSNorm", "weight", weight, 1, src.Cols)
	out, in, w := floats("RMSNorm", "dst", dst), floats("RMSNorm", "src", src), floats("RMSNorm", "weight", weight)
	n := src.Cols
	d.overRows(src.Rows, 4*n, func(_ *arena, from, to int) {
		for i := from; i < to; i++ {
			d.rmsNorm(out[i*n:][:n], in[i*n:][:n], w, eps)
		}
	})
}

// rmsNorm writes x·w/sqrt(mean(x²)+eps) to dst, which may be x.
func (d *Device) rmsNorm(dst, x, w []float32, eps float32) {
	mean := float64(d.k.SumSquares(x)) / float64(len(x))
	d.k.ScaleMul(dst, float32(1/math.Sqrt(mean+float64(eps))), x, w)
}

// SwiGLU implements device.Device.
func (d *Device) SwiGLU(dst, src device.Tensor) {
	if src.Cols != 2*dst.Cols || src.Rows != dst.Rows {
		panic(fmt.Sprintf("cpu: SwiGLU: %s from %s", shape(dst), shape(src)))
	}
	out, in := floats("SwiGLU", "dst", dst), floats("SwiGLU", "src", src)
	n := dst.Cols
	d.overRows(dst.Rows, 16*n, func(_ *arena, from, to int) {
		for i := from; i < to; i++ {
			d.k.SiluMul(out[i*n:][:n], in[2*i*n:][:n], in[(2*i+1)*n:][:n])
		}
	})
}
