package cpu

import (
	"fmt"

	"latent/device"
	"latent/device/cpu/kern"
)

// Linear implements device.Device.
func (d *Device) Linear(dst, src device.Tensor, w device.Matrix, add bool) {
	m, ok := w.(*matrix)
	if !ok {
		panic(fmt.Sprintf("cpu: Linear: weight is a %T", w))
	}
	if src.Cols != m.in || dst.Cols != m.out || dst.Rows != src.Rows {
		panic(fmt.Sprintf("cpu: Linear: dst %s, src %s against weight [%d, %d]", shape(dst), shape(src), m.out, m.in))
	}
	out, in := floats("Linear", "dst", dst), floats("Linear", "src", src)
	if src.Rows == 0 {
		return
	}
	t := d.tile(src.Rows, &m.packed, 1)
	d.parallel(t.items(), func(ws *arena, item int) {
		r0, r1, p0, p1 := t.item(item)
		y := out[r0*m.out+p0*kern.N:]
		if !add {
			zero(y, m.out, r1-r0, min(m.out, p1*kern.N)-p0*kern.N)
		}
		d.multiply(ws, &m.packed, operand{x: in, ld: m.in}, r0, r1, p0, p1, y, m.out)
	})
}
