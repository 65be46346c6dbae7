package devicetest

import (
	"fmt"
	"math"

	"latent/device"
)

// experts draws the experts of a layer.
func (e *env) experts(t device.DType, count, d, inner int) (device.Experts, []expert) {
	sources, decoded := make([]device.ExpertSource, count), make([]expert, count)
	in, out := 1/math.Sqrt(float64(d)), 1/math.Sqrt(float64(inner))
	for i := range count {
		sources[i].Gate, decoded[i].gate = e.matrix(t, inner, d, in)
		sources[i].Up, decoded[i].up = e.matrix(t, inner, d, in)
		sources[i].Down, decoded[i].down = e.matrix(t, d, inner, out)
	}
	return must(e.dev.LoadExperts(e.arithmetic, sources)), decoded
}

// routes draws chosen experts for each row, different ones within a row, and
// their weights. Few experts are in use, so that some have many rows and some
// have none.
func (e *env) routes(rows, count, choose int) (ids []int32, weights []float64) {
	used := e.rng.Perm(count)[:e.between(choose, count)]
	for range rows {
		for _, j := range e.rng.Perm(len(used))[:choose] {
			ids = append(ids, int32(used[j]))
			weights = append(weights, roundType(device.F32, e.rng.Float64()))
		}
	}
	return ids, weights
}

func checkMoE(e *env) error {
	for _, t := range storedTypes {
		for _, size := range []struct{ count, choose, d, inner int }{
			{8, 3, 64, 40}, {5, 1, 72, 24}, {6, 2, 136, 130}, {3, 3, e.between(1, 50), e.between(1, 50)},
		} {
			loaded, decoded := e.experts(t, size.count, size.d, size.inner)
			if loaded.Count() != size.count || loaded.Bytes() <= 0 {
				return fmt.Errorf("%d experts say they are %d in %d bytes", size.count, loaded.Count(), loaded.Bytes())
			}
			for _, rows := range []int{1, pick(e, 2, 5, 16, 33)} {
				ids, weights := e.routes(rows, size.count, size.choose)
				src := e.normal(e.act, rows*size.d, 1)
				want := e.normal(e.act, rows*size.d, 1)
				dst := e.tensor(e.act, size.d, want)
				mag := magnitudes(want)
				for r := range rows {
					for j := r * size.choose; j < (r+1)*size.choose; j++ {
						y, m := decoded[ids[j]].apply(src[r*size.d : (r+1)*size.d])
						for i := range y {
							want[r*size.d+i] += weights[j] * y[i]
							mag[r*size.d+i] += weights[j] * m[i]
						}
					}
				}
				e.dev.MoE(dst.Tensor, e.tensor(e.act, size.d, src).Tensor, e.ints(size.choose, ids).Tensor,
					e.tensor(device.F32, size.choose, weights).Tensor, loaded)
				what := fmt.Sprintf("%v experts %+v, %d rows", t, size, rows)
				tolerance := func(int) float64 { return e.toleranceOf(t) }
				if err := compareWithin(what, dst.read(), want, mag, size.d, tolerance); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
