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

// indexQuery is an indexer query for the rows of some runs: as drawn, and as
// IndexQuery must prepare it.
type indexQuery struct {
	q             []float64 // [n, Hi·Di]
	want, wantMag []float64 // [n, Hi·Di]
	scale         float32
	rope          device.Rope
	runs          []device.Run
}

// drawIndexQuery draws queries for the rows of runs.
func (s *scene) drawIndexQuery(d dims, runs []device.Run) indexQuery {
	e := s.e
	x := indexQuery{scale: float32(1 / math.Sqrt(float64(d.Hi*d.Di))), runs: runs}
	var rot rotations
	x.rope, rot = e.rope(s.context(), d.dr, e.rng.IntN(2) == 0)
	eachRow(runs, func(_ int, run device.Run, i int) {
		for range d.Hi {
			clearly(func() (struct{}, bool) {
				head := e.normal(e.act, d.Di, pick(e, 0.1, 1, 5))
				want, mag, sure := specIndexQuery(e.format, head, rot, run.Pos+i)
				if sure {
					x.q = append(x.q, head...)
					x.want, x.wantMag = append(x.want, want...), append(x.wantMag, mag...)
				}
				return struct{}{}, sure
			})
		}
	})
	return x
}

// prepare has the device prepare the queries with weights w [n, Hi], and
// returns both tensors and what the weights must then stand for.
func (x *indexQuery) prepare(e *env, cache device.Cache, w []float64) (q, weights buffer, want []float64) {
	n := device.RunRows(x.runs)
	q, weights = e.tensor(e.act, len(x.q)/n, x.q), e.tensor(device.F32, len(w)/n, w)
	e.dev.IndexQuery(cache, q.Tensor, weights.Tensor, x.scale, x.rope, x.runs)
	for _, w := range w {
		want = append(want, float64(float32(w)*x.scale))
	}
	return q, weights, want
}

// indexScores checks the scores of all visible keys of runs.
func (s *scene) indexScores(cache device.Cache, layer int, d dims, keys [][][]float64, runs []device.Run) error {
	e := s.e
	x := s.drawIndexQuery(d, runs)
	q, weights, wantWeights := x.prepare(e, cache, e.normal(device.F32, device.RunRows(runs)*d.Hi, 1))
	columns := s.context() + e.between(0, 5)
	scores := e.alloc(device.F32, device.RunRows(runs), columns)
	e.dev.IndexScores(scores.Tensor, q.Tensor, weights.Tensor, cache, layer, runs)
	got := scores.read()
	var err error
	eachRow(runs, func(n int, run device.Run, i int) {
		_, to := visible(run, i)
		want, mag := make([]float64, to), make([]float64, to)
		for p := range to {
			want[p], mag[p] = specIndexScore(x.want[n*d.Hi*d.Di:(n+1)*d.Hi*d.Di], wantWeights[n*d.Hi:(n+1)*d.Hi], keys[run.Seq][p])
		}
		if err == nil {
			err = e.compare(fmt.Sprintf("%v run %+v row %d", d, run, i), got[n*columns:n*columns+to], want, mag, to)
		}
	})
	return err
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
