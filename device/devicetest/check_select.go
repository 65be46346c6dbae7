package devicetest

import (
	"fmt"
	"math"
	"slices"

	"latent/device"
)

// drawScores draws the index scores of one row in one of several ways: all
// different, many ties, all tied, zeros of both signs, and with NaN and
// infinities.
func (e *env) drawScores(n int) []float64 {
	scores := make([]float64, n)
	kind := e.rng.IntN(5)
	for i := range scores {
		switch kind {
		case 0:
			scores[i] = e.rng.NormFloat64()
		case 1:
			scores[i] = float64(e.between(-2, 2))
		case 2:
			scores[i] = 1.5
		case 3:
			scores[i] = pick(e, 0, math.Copysign(0, -1), 1, -1)
		case 4:
			scores[i] = pick(e, math.NaN(), math.Copysign(math.NaN(), -1), math.Inf(-1), math.Inf(1), 0, e.rng.NormFloat64())
		}
		scores[i] = float64(float32(scores[i]))
	}
	return scores
}

// selections draws scores and selects the top keys of every row of runs in
// both forms. It gives the runs rows of the selection, with gaps, and returns
// the sets by selection row.
func (s *scene) selections(runs []device.Run, topk int) (mask, indices device.Selection, sets [][]int32) {
	e := s.e
	rows := 0
	full := slices.Clone(runs) // selection looks at all keys, whatever chunk a run attends to
	for i := range runs {
		rows += e.between(0, 2)
		runs[i].Sel, full[i].Sel = rows, rows
		full[i].KeyFrom, full[i].KeyTo = 0, s.step.Seqs[runs[i].Seq].Context()
		rows += runs[i].Rows
	}
	sets = make([][]int32, rows)
	columns := s.context() + e.between(0, 5)
	var scores []float64
	eachRow(full, func(_ int, run device.Run, i int) {
		_, to := visible(run, i)
		row := e.drawScores(to)
		sets[run.Sel+i] = specTopK(row, topk)
		for range columns - to { // undefined: what must not be looked at
			row = append(row, pick(e, 1e30, math.NaN(), math.Inf(1)))
		}
		scores = append(scores, row...)
	})
	in := e.tensor(device.F32, columns, scores)
	var sel [2]device.Selection
	for i, form := range []device.SelectionForm{device.SelectMask, device.SelectIndices} {
		sel[i] = must(e.dev.NewSelection(form, rows, s.context(), topk))
		e.free = append(e.free, sel[i])
		e.dev.SelectTopK(sel[i], in.Tensor, topk, full)
	}
	return sel[0], sel[1], sets
}

// checkSelectTopK compares both forms with the total order of the
// specification, for K around the context lengths.
func checkSelectTopK(e *env) error {
	s := e.newScene(shape{0, 65}, shape{63, 1}, shape{62, 3}, shape{0, e.between(1, 30)}, shape{190, 4})
	e.dev.Begin(&s.step)
	for _, topk := range []int{1, 3, 16, 63, 64, 65, 500, e.between(1, 100)} {
		runs := s.someRuns()
		mask, indices, sets := s.selections(runs, topk)
		if err := compareSelections(mask, indices, sets, runs); err != nil {
			return fmt.Errorf("top %d: %w", topk, err)
		}
		// Select again for some runs: other rows stay.
		again := runs[:e.between(1, len(runs))]
		var scores []float64
		columns := s.context()
		eachRow(again, func(_ int, run device.Run, i int) {
			_, to := visible(run, i)
			row := e.drawScores(to)
			sets[run.Sel+i] = specTopK(row, topk)
			scores = append(scores, append(row, make([]float64, columns-to)...)...)
		})
		in := e.tensor(device.F32, columns, scores)
		e.dev.SelectTopK(mask, in.Tensor, topk, again)
		e.dev.SelectTopK(indices, in.Tensor, topk, again)
		if err := compareSelections(mask, indices, sets, runs); err != nil {
			return fmt.Errorf("top %d, %d of %d runs selected again: %w", topk, len(again), len(runs), err)
		}
	}
	return e.selectMany()
}

// selectMany selects from many keys: the real K, at and around the real switch
// from all keys to the best ones, and with whole rows tied.
func (e *env) selectMany() error {
	const topk = 2048
	for _, context := range []int{topk - 1, topk, topk + 1, 5000} {
		s := e.newScene(shape{context - 2, 2})
		e.dev.Begin(&s.step)
		runs := s.wholeRuns()
		mask, indices, sets := s.selections(runs, topk)
		if err := compareSelections(mask, indices, sets, runs); err != nil {
			return fmt.Errorf("top %d, %d keys: %w", topk, context, err)
		}
	}
	return nil
}

func compareSelections(mask, indices device.Selection, sets [][]int32, runs []device.Run) error {
	if mask.Form() != device.SelectMask || indices.Form() != device.SelectIndices {
		return fmt.Errorf("forms are %v and %v", mask.Form(), indices.Form())
	}
	if mask.Rows() != len(sets) || indices.Rows() != len(sets) {
		return fmt.Errorf("selections of %d rows say %d and %d", len(sets), mask.Rows(), indices.Rows())
	}
	var err error
	eachRow(runs, func(_ int, run device.Run, i int) {
		for _, sel := range []device.Selection{mask, indices} {
			if got, want := sel.Positions(run.Sel+i), sets[run.Sel+i]; err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("form %d row %d (position %d): selected %v, want %v", sel.Form(), run.Sel+i, run.Pos+i, got, want)
			}
		}
	})
	return err
}
