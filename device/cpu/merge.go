package cpu

import (
	"fmt"
	"math"

	"latent/device"
)

// MergeLSE implements device.Device.
func (d *Device) MergeLSE(out, lse, part, partLSE device.Tensor, runs []device.Run) {
	rows := d.rowsOf("MergeLSE", runs)
	heads := lse.Cols
	wantShape("MergeLSE", "part", part, out.Rows, out.Cols)
	wantShape("MergeLSE", "partLSE", partLSE, lse.Rows, heads)
	if heads == 0 || out.Cols%heads != 0 || lse.Rows != out.Rows {
		panic(fmt.Sprintf("cpu: MergeLSE: out %s with lse %s", shape(out), shape(lse)))
	}
	o, p := floats("MergeLSE", "out", out), floats("MergeLSE", "part", part)
	ol, pl := floats("MergeLSE", "lse", lse), floats("MergeLSE", "partLSE", partLSE)
	n := out.Cols / heads
	d.overRows(len(rows), 2*out.Cols, func(_ *arena, from, to int) {
		for _, r := range rows[from:to] {
			for h := range heads {
				i := int(r)*heads + h
				ol[i] = d.mergeLSE(o[i*n:][:n], p[i*n:][:n], ol[i], pl[i])
			}
		}
	})
}

// mergeLSE makes out, with log-sum-exp a, the attention over the union of its
// keys and those of part, with log-sum-exp b, and returns the union's.
func (d *Device) mergeLSE(out, part []float32, a, b float32) float32 {
	if math.IsInf(float64(b), -1) {
		return a
	}
	if math.IsInf(float64(a), -1) {
		copy(out, part)
		return b
	}
	top := max(a, b)
	wa, wb := math.Exp(float64(a)-float64(top)), math.Exp(float64(b)-float64(top))
	sum := wa + wb
	d.k.Scale(out, float32(wa/sum))
	d.k.Axpy(out, float32(wb/sum), part)
	return float32(float64(top) + math.Log(sum))
}
