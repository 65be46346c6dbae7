package devicetest

import (
	"fmt"

	"latent/device"
)

func checkRopeQuery(e *env) error {
	for _, d := range []dims{oddDims(), realDims(), blockDims()} {
		for _, interleaved := range []bool{false, true} {
			s := e.newScene(shape{5, e.between(1, 9)}, shape{63, 2}, shape{0, 1}, shape{64, 3})
			rope, rot := e.rope(s.context(), d.dr, interleaved)
			w := d.dn + d.dr
			q := e.normal(e.act, s.rows()*d.H*w, 1)
			b := e.tensor(e.act, d.H*w, q)
			e.dev.Begin(&s.step)
			e.dev.RopeQuery(b.Tensor, d.H, rope)
			mag := make([]float64, len(q)) // the part without positions stays as it is
			for r, p := range s.step.Positions {
				for h := range d.H {
					from := (r*d.H+h)*w + d.dn
					part, size := q[from:from+d.dr], mag[from:from+d.dr]
					copy(size, magnitudes(part))
					rot.rotate(part, int(p))
					rot.spread(size)
				}
			}
			got := b.read()
			for i := range got {
				if i%w < d.dn && got[i] != q[i] {
					return fmt.Errorf("%v: row %d column %d has no position and changed", d, i/(d.H*w), i%(d.H*w))
				}
			}
			if err := e.compare(fmt.Sprintf("%v interleaved=%t", d, interleaved), got, q, mag, d.H*w); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkRopeVectors turns the pairs of (1, 2, 3, 4) by a right angle and by none.
func checkRopeVectors(e *env) error {
	s := e.newScene(shape{1, 1})
	rope := device.Rope{
		Cos: e.tensor(device.F32, 2, []float64{1, 1, 0, 1}).Tensor,
		Sin: e.tensor(device.F32, 2, []float64{0, 0, 1, 0}).Tensor,
	}
	for _, v := range []struct {
		interleaved bool
		want        []float64
	}{
		{true, []float64{9, -2, 1, 3, 4}},
		{false, []float64{9, -3, 2, 1, 4}},
	} {
		rope.Interleaved = v.interleaved
		q := e.tensor(e.act, 5, []float64{9, 1, 2, 3, 4})
		e.dev.Begin(&s.step)
		e.dev.RopeQuery(q.Tensor, 1, rope)
		if err := same(fmt.Sprintf("interleaved=%t", v.interleaved), q.read(), v.want, 5); err != nil {
			return err
		}
	}
	return nil
}
