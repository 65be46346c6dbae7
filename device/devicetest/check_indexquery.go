package devicetest

import (
	"fmt"
	"math"

	"latent/device"
)

func checkIndexQuery(e *env) error {
	for _, d := range []dims{oddDims(), realDims(), blockDims()} {
		check := e.indexQuery
		if e.opaque {
			check = e.opaqueIndexQuery
		}
		if err := check(d); err != nil {
			return err
		}
	}
	if e.format == device.CacheF8 {
		return e.quantVectors()
	}
	return nil
}

// indexQuery looks at the tensors that IndexQuery leaves.
func (e *env) indexQuery(d dims) error {
	s := e.newScene(shape{5, e.between(1, 9)}, shape{63, 3}, shape{0, 2}, shape{64, 4})
	e.dev.Begin(&s.step)
	runs := s.someRuns()
	x := s.drawIndexQuery(d, runs)
	q, weights, want := x.prepare(e, s.newCache(d), e.normal(device.F32, device.RunRows(runs)*d.Hi, 1))
	if err := e.compare(d.String()+": weights", weights.read(), want, make([]float64, len(want)), d.Hi); err != nil {
		return err
	}
	if e.format == device.CacheF8 { // e4m3 times a power of two: exact in any type
		return same(d.String()+": query", q.read(), x.want, d.Hi*d.Di)
	}
	return e.compare(d.String()+": query", q.read(), x.want, x.wantMag, d.Hi*d.Di)
}

// opaqueIndexQuery looks at queries through their scores, one head at a time:
// the others have no weight.
func (e *env) opaqueIndexQuery(d dims) error {
	u := e.newUnitKeys(d, shape{2 * d.Di, e.between(1, 3)}, shape{2*d.Di + e.between(1, 70), e.between(1, 4)})
	runs := u.someRuns()
	x := u.drawIndexQuery(d, runs)
	n := device.RunRows(runs)
	for h := range d.Hi {
		w := make([]float64, n*d.Hi)
		for i := range n {
			w[i*d.Hi+h] = roundType(device.F32, e.rng.NormFloat64())
		}
		q, weights, wantWeights := x.prepare(e, u.cache, w)
		var want, mag []float64
		for i := range n {
			w := wantWeights[i*d.Hi+h]
			for j := range d.Di {
				at := (i*d.Hi+h)*d.Di + j
				want, mag = append(want, w*x.want[at]), append(mag, math.Abs(w)*x.wantMag[at])
			}
		}
		tolerance := e.tolerance
		if e.format == device.CacheF8 { // only the product with the weight is rounded
			tolerance, mag = 1e-6, make([]float64, len(mag))
		}
		what := fmt.Sprintf("%v: weighted query of head %d", d, h)
		if err := compareWithin(what, u.read(q, weights, runs), want, mag, d.Di, func(int) float64 { return tolerance }); err != nil {
			return err
		}
	}
	return nil
}

// unitKeys is a scene whose sequences hold the unit vectors as index keys: e_j
// at position 2j and -e_j at 2j+1. A query's scores are then its elements.
type unitKeys struct {
	*scene
	dims
	cache device.Cache
	layer int
}

// newUnitKeys stores the keys. All sequences have at least 2·Di positions.
// LayerNorm with a weight of 0 leaves the bias, a rotation by nothing leaves
// that, and the Hadamard transform is its own inverse.
func (e *env) newUnitKeys(d dims, shapes ...shape) *unitKeys {
	u := &unitKeys{scene: e.newScene(shapes...), dims: d, layer: pick(e, 0, 2)}
	u.cache = u.newCache(d)
	rope := e.unturned(2*d.Di, d.dr)
	n := len(shapes)
	k := e.tensor(e.act, d.Di, e.normal(e.act, n*d.Di, 1))
	weight, bias := e.tensor(device.F32, d.Di, make([]float64, d.Di)), e.alloc(device.F32, 1, d.Di)
	steps := make([]device.Step, 2*d.Di)
	for p := range steps {
		for _, q := range u.step.Seqs {
			addSeq(&steps[p], p, 1, q.Pages[:pagesFor(p+1)])
		}
		key := make([]float64, d.Di)
		key[p/2] = 1 - 2*float64(p%2)
		if e.format == device.CacheF8 {
			key, _ = hadamard(key, key)
		}
		bias.fill(key)
		e.dev.Begin(&steps[p])
		e.dev.StoreIndexKey(u.cache, u.layer, k.Tensor, weight.Tensor, bias.Tensor, 1e-6, rope)
	}
	e.dev.Begin(&u.step)
	return u
}

// someRuns are runs that see the unit keys only.
func (u *unitKeys) someRuns() []device.Run {
	runs := u.scene.someRuns()
	for i := range runs {
		runs[i].KeyTo = 2 * u.Di
	}
	return runs
}

// read returns the sum over the heads of weight times query [n, Di], of
// prepared queries of which one head has a weight.
func (u *unitKeys) read(q, weights buffer, runs []device.Run) []float64 {
	e := u.e
	columns := 2 * u.Di
	scores := e.alloc(device.F32, device.RunRows(runs), columns)
	e.dev.IndexScores(scores.Tensor, q.Tensor, weights.Tensor, u.cache, u.layer, runs)
	s := scores.read()
	sums := make([]float64, len(s)/2)
	for i := range sums {
		sums[i] = s[2*i] - s[2*i+1]
	}
	return sums
}

// unturned is a table of rotations that leaves everything as it is.
func (e *env) unturned(n, dr int) device.Rope {
	one, zero := make([]float64, n*dr/2), make([]float64, n*dr/2)
	for i := range one {
		one[i] = 1
	}
	return device.Rope{Cos: e.tensor(device.F32, dr/2, one).Tensor, Sin: e.tensor(device.F32, dr/2, zero).Tensor}
}

// quantVectors rounds heads whose largest element lies at or next to a power of
// two times 448, where a logarithm picks the wrong scale. A rotation by nothing
// and a size that is no power of two leave just the rounding.
func (e *env) quantVectors() error {
	d := oddDims()
	u := e.newUnitKeys(d, shape{2 * d.Di, 1})
	rope := e.unturned(u.context(), d.dr)
	runs := u.wholeRuns()
	runs[0].KeyTo = 2 * d.Di
	for _, v := range []struct {
		amax     float64
		exponent int
	}{
		{448, 0}, {447, 0}, {449, 1}, {224, -1}, {1.75, -8}, {1, -8}, {0.875, -9}, {0.5, -9}, {0, -22},
		{3.5, -7}, {7, -6}, {14, -5}, {28, -4}, {56, -3}, {112, -2}, {896, 1}, {0x1.cp-5, -13}, {0x1.cp-7, -15}, {0x1.cp-11, -19},
	} {
		if roundType(e.act, v.amax) != v.amax {
			continue
		}
		scale := math.Ldexp(1, v.exponent)
		q, want := make([]float64, d.Di), make([]float64, d.Di)
		for i := range q {
			// Codes, and halfway between two codes.
			q[i] = pick(e, 1.0, -1) * min(v.amax, scale*pick(e, 0, 1, 1.0625, 1.1875, 208, 0x1p-9, 0x1p-10, 0x3p-10, 0x5p-10))
			if i == 0 {
				q[i] = -v.amax
			}
			want[i] = roundE4M3(q[i]/scale) * scale
		}
		in, weight := e.tensor(e.act, d.Di, q), e.tensor(device.F32, 1, []float64{1})
		e.dev.IndexQuery(u.cache, in.Tensor, weight.Tensor, 1, rope, runs)
		got := u.read(in, weight, runs)
		if !e.opaque {
			got = in.read()
		}
		if err := same(fmt.Sprintf("head with largest element %g", v.amax), got, want, d.Di); err != nil {
			return err
		}
	}
	return nil
}
