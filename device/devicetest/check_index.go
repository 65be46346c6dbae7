package devicetest

import (
	"fmt"
	"math"

	"latent/device"
)

// storeIndexKeys draws and stores an index key for every position of every
// sequence and returns what the cache then holds.
func (s *scene) storeIndexKeys(cache device.Cache, layer int, d dims) [][][]float64 {
	e := s.e
	const eps = 1e-6
	w, b := e.normal(device.F32, d.Di, 1), e.normal(device.F32, d.Di, 1)
	weight, bias := e.tensor(device.F32, d.Di, w), e.tensor(device.F32, d.Di, b)
	rope, rot := e.rope(s.context(), d.dr, e.rng.IntN(2) == 0)
	keys := make([][][]float64, len(s.step.Seqs))
	s.store(func(step *device.Step) {
		var k []float64
		for _, q := range step.Seqs {
			i := s.owner(q)
			for p := q.Prefix; p < q.Context(); p++ {
				keys[i] = append(keys[i], clearly(func() ([]float64, bool) {
					row := e.normal(e.act, d.Di, pick(e, 1e-3, 1, 5))
					if e.rng.IntN(2) == 0 { // a mean, which LayerNorm takes away
						for j := range row {
							row[j] = roundType(e.act, row[j]+1)
						}
					}
					key, sure := specIndexKey(e.format, row, w, b, float64(float32(eps)), rot, p)
					if sure {
						k = append(k, row...)
					}
					return key, sure
				}))
			}
		}
		e.dev.StoreIndexKey(cache, layer, e.tensor(e.act, d.Di, k).Tensor, weight.Tensor, bias.Tensor, eps, rope)
	})
	return keys
}

// indexQuery is a prepared indexer query for the rows of some runs: on the
// device and as it must be.
type indexQuery struct {
	q, weights    buffer
	want, wantMag []float64 // [n, Hi·Di]
	wantWeights   []float64 // [n, Hi]
}

// indexQuery draws queries and prepares them with IndexQuery.
func (s *scene) indexQuery(cache device.Cache, d dims, runs []device.Run) indexQuery {
	e := s.e
	scale := float32(1 / math.Sqrt(float64(d.Hi*d.Di)))
	rope, rot := e.rope(s.context(), d.dr, e.rng.IntN(2) == 0)
	n := device.RunRows(runs)
	w := e.normal(device.F32, n*d.Hi, 1)
	x := indexQuery{wantWeights: make([]float64, len(w))}
	for i := range w {
		x.wantWeights[i] = float64(float32(w[i]) * scale)
	}
	var q []float64
	eachRow(runs, func(_ int, run device.Run, i int) {
		for range d.Hi {
			clearly(func() (struct{}, bool) {
				head := e.normal(e.act, d.Di, pick(e, 0.1, 1, 5))
				want, mag, sure := specIndexQuery(e.format, head, rot, run.Pos+i)
				if sure {
					q = append(q, head...)
					x.want, x.wantMag = append(x.want, want...), append(x.wantMag, mag...)
				}
				return struct{}{}, sure
			})
		}
	})
	x.q, x.weights = e.tensor(e.act, d.Hi*d.Di, q), e.tensor(device.F32, d.Hi, w)
	e.dev.IndexQuery(cache, x.q.Tensor, x.weights.Tensor, scale, rope, runs)
	return x
}

// indexScores checks the scores of all visible keys of runs.
func (s *scene) indexScores(cache device.Cache, layer int, d dims, keys [][][]float64, runs []device.Run) error {
	e := s.e
	x := s.indexQuery(cache, d, runs)
	columns := s.context() + e.between(0, 5)
	scores := e.alloc(device.F32, device.RunRows(runs), columns)
	e.dev.IndexScores(scores.Tensor, x.q.Tensor, x.weights.Tensor, cache, layer, runs)
	got := scores.read()
	var err error
	eachRow(runs, func(n int, run device.Run, i int) {
		_, to := visible(run, i)
		want, mag := make([]float64, to), make([]float64, to)
		for p := range to {
			want[p], mag[p] = specIndexScore(x.want[n*d.Hi*d.Di:(n+1)*d.Hi*d.Di], x.wantWeights[n*d.Hi:(n+1)*d.Hi], keys[run.Seq][p])
		}
		if err == nil {
			err = e.compare(fmt.Sprintf("%v run %+v row %d", d, run, i), got[n*columns:n*columns+to], want, mag, to)
		}
	})
	return err
}

func checkIndexQuery(e *env) error {
	for _, d := range []dims{oddDims(), realDims(), blockDims()} {
		s := e.newScene(shape{5, e.between(1, 9)}, shape{63, 3}, shape{0, 2}, shape{64, 4})
		e.dev.Begin(&s.step)
		x := s.indexQuery(s.newCache(d), d, s.someRuns())
		if err := e.compare(d.String()+": weights", x.weights.read(), x.wantWeights, make([]float64, len(x.wantWeights)), d.Hi); err != nil {
			return err
		}
		got := x.q.read()
		if e.format == device.CacheF8 { // e4m3 times a power of two: exact in any type
			if err := same(d.String()+": query", got, x.want, d.Hi*d.Di); err != nil {
				return err
			}
			continue
		}
		if err := e.compare(d.String()+": query", got, x.want, x.wantMag, d.Hi*d.Di); err != nil {
			return err
		}
	}
	if e.format == device.CacheF8 {
		return e.quantVectors()
	}
	return nil
}

// quantVectors rounds heads whose largest element lies at or next to a power of
// two times 448, where a logarithm picks the wrong scale. A rotation by nothing
// and a size that is no power of two leave just the rounding.
func (e *env) quantVectors() error {
	d := oddDims()
	s := e.newScene(shape{0, 1})
	cache := s.newCache(d)
	e.dev.Begin(&s.step)
	one, zero := make([]float64, d.dr/2), make([]float64, d.dr/2)
	for i := range one {
		one[i] = 1
	}
	rope := device.Rope{Cos: e.tensor(device.F32, d.dr/2, one).Tensor, Sin: e.tensor(device.F32, d.dr/2, zero).Tensor}
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
		in := e.tensor(e.act, d.Di, q)
		e.dev.IndexQuery(cache, in.Tensor, e.tensor(device.F32, 1, []float64{1}).Tensor, 1, rope, s.wholeRuns())
		if err := same(fmt.Sprintf("head with largest element %g", v.amax), in.read(), want, d.Di); err != nil {
			return err
		}
	}
	return nil
}

func checkIndexScores(e *env) error {
	for _, d := range []dims{oddDims(), realDims(), blockDims()} {
		s := e.newScene(shape{0, 65}, shape{63, 2}, shape{37, e.between(1, 20)}, shape{130, 3}, shape{0, 1})
		cache := s.newCache(d)
		layer := pick(e, 0, 2)
		keys := s.storeIndexKeys(cache, layer, d)
		runs := s.someRuns()
		for i := range runs { // sometimes not all keys
			if r := &runs[i]; e.rng.IntN(3) == 0 {
				r.KeyTo = e.between(1, r.KeyTo)
			}
		}
		if err := s.indexScores(cache, layer, d, keys, runs); err != nil {
			return err
		}
	}
	return nil
}
