package devicetest

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"latent/device"
)

// sameAlone computes all of n rows in one call of op and then rows alone and a
// few together, in another order: every row must be the same bit for bit. op
// returns the result of each of the given rows.
func (e *env) sameAlone(what string, n int, op func(rows []int) [][]byte) error {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	want := op(all)
	few := e.rng.Perm(n)[:e.between(2, min(n, 5))]
	for _, rows := range [][]int{{0}, {n - 1}, {e.rng.IntN(n)}, few} {
		for i, got := range op(rows) {
			if !bytes.Equal(got, want[rows[i]]) {
				return fmt.Errorf("%s: row %d differs when computed with %d rows instead of %d", what, rows[i], len(rows), n)
			}
		}
	}
	return nil
}

// split returns the rows of a tensor as they are stored.
func (b buffer) split() [][]byte {
	data := b.raw()
	row := b.Cols * b.Type.Size()
	rows := make([][]byte, b.Rows)
	for r := range rows {
		rows[r] = data[r*row : (r+1)*row]
	}
	return rows
}

// take copies rows of [·, cols] values.
func take(values []float64, cols int, rows []int) []float64 {
	var out []float64
	for _, r := range rows {
		out = append(out, values[r*cols:(r+1)*cols]...)
	}
	return out
}

// checkInvariantRows checks the operations that treat rows one by one.
func checkInvariantRows(e *env) error {
	const n = 37
	for _, cols := range []int{48, e.between(3, 300)} {
		src := e.normal(e.act, n*cols, 1)
		weight := e.tensor(device.F32, cols, e.normal(device.F32, cols, 1))
		err := e.sameAlone("RMSNorm", n, func(rows []int) [][]byte {
			dst := e.alloc(e.act, len(rows), cols)
			e.dev.RMSNorm(dst.Tensor, e.tensor(e.act, cols, take(src, cols, rows)).Tensor, weight.Tensor, 1e-6)
			return dst.split()
		})
		if err != nil {
			return err
		}
		pairs := e.normal(e.act, n*2*cols, 1)
		err = e.sameAlone("SwiGLU", n, func(rows []int) [][]byte {
			dst := e.alloc(e.act, len(rows), cols)
			e.dev.SwiGLU(dst.Tensor, e.tensor(e.act, 2*cols, take(pairs, 2*cols, rows)).Tensor)
			return dst.split()
		})
		if err != nil {
			return err
		}
	}
	for _, r := range routers() {
		logits := e.normal(device.F32, n*r.experts, 1)
		bias := e.tensor(device.F32, r.experts, e.normal(device.F32, r.experts, 0.1))
		err := e.sameAlone("Route", n, func(rows []int) [][]byte {
			ids, weights := e.alloc(device.I32, len(rows), r.Choose), e.alloc(device.F32, len(rows), r.Choose)
			e.dev.Route(ids.Tensor, weights.Tensor, e.tensor(device.F32, r.experts, take(logits, r.experts, rows)).Tensor, bias.Tensor, r.Router)
			out := weights.split()
			for i, id := range ids.split() {
				out[i] = append(bytes.Clone(out[i]), id...)
			}
			return out
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func checkInvariantLinear(e *env) error {
	for _, t := range storedTypes {
		for _, cols := range []int{72, e.between(2, 700)} {
			n := 70
			src, _ := e.matrix(t, e.between(1, 200), cols, 1/math.Sqrt(float64(cols)))
			w := must(e.dev.LoadMatrix(e.arithmetic, src))
			x := e.normal(e.act, n*cols, 1)
			before := e.normal(device.F32, n*w.Rows(), 1)
			for _, add := range []bool{false, true} {
				what := fmt.Sprintf("%v matrix [%d, %d], add=%t", t, w.Rows(), cols, add)
				err := e.sameAlone(what, n, func(rows []int) [][]byte {
					dst := e.tensor(device.F32, w.Rows(), take(before, w.Rows(), rows))
					e.dev.Linear(dst.Tensor, e.tensor(e.act, cols, take(x, cols, rows)).Tensor, w, add)
					return dst.split()
				})
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func checkInvariantMoE(e *env) error {
	const n, count, choose, d, inner = 40, 6, 2, 72, 56
	for _, t := range storedTypes {
		experts, _ := e.experts(t, count, d, inner)
		ids, weights := e.routes(n, count, choose)
		x, before := e.normal(e.act, n*d, 1), e.normal(e.act, n*d, 1)
		err := e.sameAlone(t.String()+" experts", n, func(rows []int) [][]byte {
			var some []int32
			for _, r := range rows {
				some = append(some, ids[r*choose:(r+1)*choose]...)
			}
			dst := e.tensor(e.act, d, take(before, d, rows))
			e.dev.MoE(dst.Tensor, e.tensor(e.act, d, take(x, d, rows)).Tensor, e.ints(choose, some).Tensor,
				e.tensor(device.F32, choose, take(weights, choose, rows)).Tensor, experts)
			return dst.split()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// only returns the step in which each of the given rows is a sequence of its
// own, all before it cached.
func (s *scene) only(rows []int) *scene {
	alone := &scene{e: s.e, pages: s.pages}
	for _, r := range rows {
		for _, q := range s.step.Seqs {
			if r >= q.Row && r < q.Row+q.Rows {
				p := q.Prefix + r - q.Row
				addSeq(&alone.step, p, 1, q.Pages[:pagesFor(p+1)])
			}
		}
	}
	return alone
}

// alone returns the scene to compute rows in: the whole one, sequences in one
// run, when all rows are asked for.
func (s *scene) alone(rows []int) *scene {
	if len(rows) == s.rows() && slices.IsSorted(rows) {
		return s
	}
	return s.only(rows)
}

// checkInvariantAttention checks rotation, selection, both forms of attention
// and the merge: rows of a ragged batch against rows alone.
func checkInvariantAttention(e *env) error {
	for _, l := range []*layer{
		e.newScene(shape{0, 25}, shape{63, 2}, shape{70, 1}).newLayer(oddDims()),
		e.newScene(shape{3, 3}, shape{61, 2}).newLayer(realDims()),
	} {
		rope, _ := e.rope(l.context(), l.dr, true)
		in := invariantInputs{
			q:       l.queries(l.rows(), l.dn+l.dr),
			part:    e.normal(e.act, l.rows()*l.H*l.dv, 1),
			partLSE: e.normal(device.F32, l.rows()*l.H, 1),
			rope:    rope,
		}
		for range l.rows() {
			in.scores = append(in.scores, e.drawScores(l.context())...)
		}
		for _, form := range []string{"mha", "mha-masked", "mla", "mla-sparse"} {
			err := e.sameAlone(fmt.Sprintf("%s %v", form, l.dims), l.rows(), func(rows []int) [][]byte {
				return l.invariantRows(form, rows, in)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// invariantInputs are inputs for all rows of a scene.
type invariantInputs struct {
	q             []float64 // [T, H·(dn+dr)]
	scores        []float64 // [T, context]
	part, partLSE []float64 // [T, H·dv], [T, H]
	rope          device.Rope
}

// invariantRows computes rows in one of the forms and merges another partial
// attention into them.
func (l *layer) invariantRows(form string, rows []int, inputs invariantInputs) [][]byte {
	e, sub := l.e, *l
	sub.scene = l.alone(rows)
	e.dev.Begin(&sub.step)
	w, n, runs := l.H*(l.dn+l.dr), len(rows), sub.wholeRuns()
	q := e.tensor(e.act, w, take(inputs.q, w, rows))
	e.dev.RopeQuery(q.Tensor, l.H, inputs.rope)
	var sel [2]device.Selection
	if form == "mha-masked" || form == "mla-sparse" {
		for i := range runs {
			runs[i].Sel = runs[i].Row
		}
		scores := e.tensor(device.F32, l.context(), take(inputs.scores, l.context(), rows))
		for i, f := range []device.SelectionForm{device.SelectMask, device.SelectIndices} {
			const topk = 10
			sel[i] = must(e.dev.NewSelection(f, n, l.context(), topk))
			e.free = append(e.free, sel[i])
			e.dev.SelectTopK(sel[i], scores.Tensor, topk, runs)
		}
	}
	var out, lse buffer
	if form == "mha" || form == "mha-masked" {
		out, lse = sub.mha(q, runs, sel[0])
	} else {
		out, lse = sub.mla(q, runs, sel[1])
	}
	got := lse.split()
	part := e.tensor(e.act, l.H*l.dv, take(inputs.part, l.H*l.dv, rows))
	partLSE := e.tensor(device.F32, l.H, take(inputs.partLSE, l.H, rows))
	e.dev.MergeLSE(out.Tensor, lse.Tensor, part.Tensor, partLSE.Tensor, runs)
	merged := lse.split()
	for i, x := range out.split() {
		got[i] = slices.Concat(got[i], merged[i], x)
	}
	return got
}

// checkInvariantCache stores latents and index keys, in one step and in
// several, and reads them with fixed queries.
func checkInvariantCache(e *env) error {
	for _, d := range []dims{oddDims(), blockDims(), realDims()} {
		s := e.newScene(shape{0, 9}, shape{62, 3}, shape{5, 1})
		cache := s.newCache(d)
		rope, _ := e.rope(s.context(), d.dr, false)
		u := e.normal(e.act, s.rows()*(d.R+d.dr), 1)
		weight := e.tensor(device.F32, d.R, e.normal(device.F32, d.R, 1))
		qa := e.normal(e.act, d.R+d.dr, 1)
		err := e.sameAlone("StoreLatent "+d.String(), s.rows(), func(rows []int) [][]byte {
			e.dev.Begin(&s.alone(rows).step)
			in := e.tensor(e.act, d.R+d.dr, take(u, d.R+d.dr, rows))
			e.dev.StoreLatent(cache, 1, in.Tensor, weight.Tensor, 1e-6, rope)
			var got [][]byte
			only := s.only(rows)
			e.dev.Begin(&only.step)
			for _, run := range only.wholeRuns() { // each key alone
				run.KeyFrom = run.Pos
				z, lse := e.alloc(e.act, 1, d.R), e.alloc(device.F32, 1, 1)
				e.dev.MLA(z.Tensor, lse.Tensor, e.tensor(e.act, d.R+d.dr, qa).Tensor, cache, 1, nil, 1, []device.Run{run})
				got = append(got, slices.Concat(z.raw(), lse.raw()))
			}
			return got
		})
		if err != nil {
			return err
		}
		k := e.normal(e.act, s.rows()*d.Di, 1)
		norm, bias := e.tensor(device.F32, d.Di, e.normal(device.F32, d.Di, 1)), e.tensor(device.F32, d.Di, e.normal(device.F32, d.Di, 1))
		q, w := e.normal(e.act, s.rows()*d.Hi*d.Di, 1), e.normal(device.F32, s.rows()*d.Hi, 1)
		err = e.sameAlone("StoreIndexKey, IndexQuery, IndexScores "+d.String(), s.rows(), func(rows []int) [][]byte {
			sub := s.alone(rows)
			e.dev.Begin(&sub.step)
			in := e.tensor(e.act, d.Di, take(k, d.Di, rows))
			e.dev.StoreIndexKey(cache, 2, in.Tensor, norm.Tensor, bias.Tensor, 1e-6, rope)
			query := e.tensor(e.act, d.Hi*d.Di, take(q, d.Hi*d.Di, rows))
			weights := e.tensor(device.F32, d.Hi, take(w, d.Hi, rows))
			runs := sub.wholeRuns()
			e.dev.IndexQuery(cache, query.Tensor, weights.Tensor, 0.1, rope, runs)
			scores := e.alloc(device.F32, len(rows), s.context())
			e.dev.IndexScores(scores.Tensor, query.Tensor, weights.Tensor, cache, 2, runs)
			got := slices.Concat(nil, query.split())
			x := scores.split()
			for i, p := range sub.step.Positions { // just the row's own key: no other need be stored
				got[i] = slices.Concat(got[i], weights.split()[i], x[i][4*p:4*p+4])
			}
			return got
		})
		if err != nil {
			return err
		}
	}
	return nil
}
