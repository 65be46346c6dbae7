package cpu

import (
	"fmt"

	"latent/device"
)

// rotation is a table of rotations, by position.
type rotation struct {
	cos, sin    []float32 // [positions, dr/2]
	dr          int
	positions   int
	interleaved bool
}

func newRotation(op string, rope device.Rope) rotation {
	wantShape(op, "sin table", rope.Sin, rope.Cos.Rows, rope.Cos.Cols)
	return rotation{
		cos: floats(op, "cos table", rope.Cos), sin: floats(op, "sin table", rope.Sin),
		dr: 2 * rope.Cos.Cols, positions: rope.Cos.Rows, interleaved: rope.Interleaved,
	}
}

// apply rotates x [dr] by a position.
func (r *rotation) apply(x []float32, pos int32) {
	half := r.dr / 2
	if pos < 0 || int(pos) >= r.positions {
		panic(fmt.Sprintf("cpu: position %d in a rope table of %d", pos, r.positions))
	}
	c, s := r.cos[int(pos)*half:][:half], r.sin[int(pos)*half:][:half]
	// Products are rounded before they are added on every platform.
	if r.interleaved {
		x = x[:2*half]
		for i, c := range c {
			a, b := x[2*i], x[2*i+1]
			x[2*i] = float32(a*c) - float32(b*s[i])
			x[2*i+1] = float32(b*c) + float32(a*s[i])
		}
		return
	}
	lo, hi := x[:half], x[half:][:half]
	for i, c := range c {
		a, b := lo[i], hi[i]
		lo[i] = float32(a*c) - float32(b*s[i])
		hi[i] = float32(b*c) + float32(a*s[i])
	}
}

// RopeQuery implements device.Device.
func (d *Device) RopeQuery(q device.Tensor, heads int, rope device.Rope) {
	rot := newRotation("RopeQuery", rope)
	if q.Rows != len(d.step.Tokens) || heads < 1 || q.Cols%heads != 0 || q.Cols/heads < rot.dr {
		panic(fmt.Sprintf("cpu: RopeQuery: q %s of %d heads with rope of %d in a step of %d rows", shape(q), heads, rot.dr, len(d.step.Tokens)))
	}
	x := floats("RopeQuery", "q", q)
	n := q.Cols / heads
	d.overRows(q.Rows, 4*heads*rot.dr, func(_ *arena, from, to int) {
		for i := from; i < to; i++ {
			for h := range heads {
				rot.apply(x[(i*heads+h+1)*n-rot.dr:][:rot.dr], d.step.Positions[i])
			}
		}
	})
}
