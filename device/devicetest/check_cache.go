package devicetest

import (
	"fmt"
	"reflect"

	"latent/device"
)

// storeLatents draws and stores latents and rope keys for every position of
// every sequence and returns what the cache then holds, by sequence and
// position. The step of the new tokens is current afterwards.
func (s *scene) storeLatents(cache device.Cache, layer int, d dims) [][]record {
	e := s.e
	eps := pick(e, 1e-6, 1e-5)
	w := e.blockWeights(d.R)
	weight := e.tensor(device.F32, d.R, w)
	rope, rot := e.rope(s.context(), d.dr, e.rng.IntN(2) == 0)
	records := make([][]record, len(s.step.Seqs))
	s.store(func(step *device.Step) {
		var u []float64
		for _, q := range step.Seqs {
			i := s.owner(q)
			for p := q.Prefix; p < q.Context(); p++ {
				records[i] = append(records[i], clearly(func() (record, bool) {
					// Small rows are where eps shows.
					row := e.normal(e.act, d.R+d.dr, pick(e, 1e-3, 1, 5))
					r, sure := specLatent(e.format, row, w, float64(float32(eps)), rot, p)
					if sure {
						u = append(u, row...)
					}
					return r, sure
				}))
			}
		}
		e.dev.StoreLatent(cache, layer, e.tensor(e.act, d.R+d.dr, u).Tensor, weight.Tensor, float32(eps), rope)
	})
	return records
}

// readLatents reads the cached latents of a layer back and compares them with
// records. There is no operation for it, but attention to a single key returns
// that key's latent, and its log-sum-exp is the score; with the d-th unit vector
// as the rope part of head d's query that is element d of the rope key.
func (s *scene) readLatents(cache device.Cache, layer int, d dims, records [][]record) error {
	e := s.e
	heads, width := d.dr, d.R+d.dr
	for i, q := range s.step.Seqs {
		qa := make([]float64, heads*width)
		for h := range heads {
			qa[h*width+d.R+h] = 1
		}
		in := e.tensor(e.act, heads*width, qa)
		z, lse := e.alloc(e.act, 1, heads*d.R), e.alloc(device.F32, 1, heads)
		for p, r := range records[i] {
			e.dev.MLA(z.Tensor, lse.Tensor, in.Tensor, cache, layer, nil, 1, []device.Run{{
				Seq: i, Row: q.Row + q.Rows - 1, Rows: 1, Pos: q.Context() - 1, KeyFrom: p, KeyTo: p + 1, Sel: -1,
			}})
			what := fmt.Sprintf("%v layer %d sequence %d position %d of %d+%d", d, layer, i, p, q.Prefix, q.Rows)
			gotZ := z.read()
			for h := range heads {
				if err := e.compare(what+": latent", gotZ[h*d.R:(h+1)*d.R], r.c, make([]float64, d.R), d.R); err != nil {
					return err
				}
			}
			ones := make([]float64, d.dr)
			for j := range ones {
				ones[j] = 1
			}
			if err := e.compare(what+": rope key", lse.read(), r.rope, ones, d.dr); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkStoreLatent(e *env) error {
	for _, d := range []dims{oddDims(), realDims(), blockDims()} {
		s := e.newScene(shape{62, 4}, shape{0, 3}, shape{64, 1})
		if d.R > 100 {
			s = e.newScene(shape{3, 2}, shape{0, 1})
		}
		cache := s.newCache(d)
		layer := e.between(0, 2)
		records := s.storeLatents(cache, layer, d)
		if err := s.readLatents(cache, layer, d, records); err != nil {
			return err
		}
	}
	return nil
}

// checkCache: a cache is what was asked for, and its layers, its sequences and
// its two kinds of content do not overwrite each other.
func checkCache(e *env) error {
	d := oddDims()
	s := e.newScene(shape{2, 3}, shape{0, 1}, shape{63, 2})
	cache := s.newCache(d)
	want := device.CacheSpec{
		Format: e.format, Pages: s.pages, Layers: 3, Indexed: []int{0, 2},
		Latent: d.R, Rope: d.dr, IndexDim: d.Di,
	}
	if got := cache.Spec(); !reflect.DeepEqual(got, want) {
		return fmt.Errorf("cache says %+v, asked for %+v", got, want)
	}
	if need := int64(s.pages*device.PageTokens) * want.TokenBytes(); cache.Bytes() < need {
		return fmt.Errorf("cache has %d bytes, its records take %d", cache.Bytes(), need)
	}
	var records [3][][]record
	var keys [3][][][]float64
	for _, layer := range e.rng.Perm(3) {
		records[layer] = s.storeLatents(cache, layer, d)
		if layer != 1 {
			keys[layer] = s.storeIndexKeys(cache, layer, d)
		}
	}
	for layer := range 3 {
		if err := s.readLatents(cache, layer, d, records[layer]); err != nil {
			return err
		}
		if layer == 1 {
			continue
		}
		if err := s.indexScores(cache, layer, d, keys[layer], s.wholeRuns()); err != nil {
			return fmt.Errorf("layer %d: %w", layer, err)
		}
	}
	return nil
}
