package cpu

import (
	"fmt"
	"math"
	"math/bits"

	"latent/device"
	"latent/device/cpu/kern"
)

// selection implements device.Selection.
type selection struct {
	form       device.SelectionForm
	rows, topk int
	words      int
	indices    []int32  // [rows, topk], ascending, padded with −1
	mask       []uint64 // [rows, words], bit p%64 of word p/64 for position p
}

// NewSelection implements device.Device.
func (d *Device) NewSelection(form device.SelectionForm, rows, keys, topk int) (device.Selection, error) {
	if rows < 0 || keys < 0 || topk < 1 {
		panic(fmt.Sprintf("cpu: NewSelection: %d of %d keys for %d rows", topk, keys, rows))
	}
	s := &selection{form: form, rows: rows, topk: topk, words: (keys + 63) / 64}
	if form == device.SelectMask {
		s.mask = make([]uint64, rows*s.words)
	} else {
		s.indices = make([]int32, rows*topk)
	}
	return s, nil
}

func (s *selection) Form() device.SelectionForm { return s.form }
func (s *selection) Rows() int                  { return s.rows }
func (s *selection) Free()                      { s.indices, s.mask = nil, nil }

func (s *selection) Positions(r int) []int32 {
	if s.form == device.SelectIndices {
		return append([]int32(nil), s.selected(r)...)
	}
	var p []int32
	for i, w := range s.mask[r*s.words:][:s.words] {
		for ; w != 0; w &= w - 1 {
			p = append(p, int32(64*i+bits.TrailingZeros64(w)))
		}
	}
	return p
}

// selected returns the positions of row r of an index selection.
func (s *selection) selected(r int) []int32 {
	p := s.indices[r*s.topk:][:s.topk]
	n := len(p)
	for n > 0 && p[n-1] < 0 {
		n--
	}
	return p[:n]
}

// any tells whether a mask has one of the positions [from, to), at least one, in
// n rows from row r on.
func (s *selection) any(r, n, from, to int) bool {
	first, last := from/64, (to-1)/64
	low, high := ^uint64(0)<<(from%64), ^uint64(0)>>(63-(to-1)%64)
	for ; n > 0; n-- {
		words := s.mask[r*s.words:][:s.words]
		for i := first; i <= last; i++ {
			w := words[i]
			if i == first {
				w &= low
			}
			if i == last {
				w &= high
			}
			if w != 0 {
				return true
			}
		}
		r++
	}
	return false
}

// selectionOf checks a selection that the rows of run refer to.
func selectionOf(op string, sel device.Selection, form device.SelectionForm, run *device.Run) *selection {
	s, ok := sel.(*selection)
	if !ok || s.form != form {
		panic(fmt.Sprintf("cpu: %s: selection %T does not fit", op, sel))
	}
	if run.Sel < 0 || run.Sel+run.Rows > s.rows {
		panic(fmt.Sprintf("cpu: %s: rows [%d, %d) of a selection with %d", op, run.Sel, run.Sel+run.Rows, s.rows))
	}
	return s
}

// SelectTopK implements device.Device.
func (d *Device) SelectTopK(sel device.Selection, scores device.Tensor, topk int, runs []device.Run) {
	rows := d.rowsOf("SelectTopK", runs)
	wantShape("SelectTopK", "scores", scores, len(rows), scores.Cols)
	in := floats("SelectTopK", "scores", scores)
	s, ok := sel.(*selection)
	if !ok || s.form == device.SelectIndices && topk > s.topk {
		panic(fmt.Sprintf("cpu: SelectTopK: top %d into %T", topk, sel))
	}
	type item struct {
		run *device.Run
		row int // of the run
	}
	items := make([]item, 0, len(rows))
	for i := range runs {
		selectionOf("SelectTopK", sel, s.form, &runs[i])
		for r := range runs[i].Rows {
			items = append(items, item{&runs[i], r})
		}
	}
	d.parallel(len(items), func(ws *arena, i int) {
		_, to := visible(items[i].run, items[i].row)
		if to > scores.Cols || s.form == device.SelectMask && to > 64*s.words {
			panic(fmt.Sprintf("cpu: SelectTopK: %d visible keys in scores %s", to, shape(scores)))
		}
		s.choose(d.k, ws, items[i].run.Sel+items[i].row, in[i*scores.Cols:][:to], topk)
	})
}

// choose selects the min(topk, len(scores)) best of scores for row r.
func (s *selection) choose(k *kern.Kernels, ws *arena, r int, scores []float32, topk int) {
	list := ws.ints(len(scores))
	list = list[:best(k, list, scores, topk)]
	if s.form == device.SelectMask {
		mask := s.mask[r*s.words:][:s.words]
		clear(mask)
		for _, p := range list {
			mask[p/64] |= 1 << (p % 64)
		}
		return
	}
	out := s.indices[r*s.topk:][:s.topk]
	for i := copy(out, list); i < len(out); i++ {
		out[i] = -1
	}
}

// best writes the positions of the topk best scores to list, ascending, and
// returns how many there are; list has room for all positions. It finds the
// topk-th best score by bisection over all float32 values, which takes 32 counts
// at vector speed.
func best(k *kern.Kernels, list []int32, scores []float32, topk int) int {
	if len(scores) <= topk {
		for i := range list {
			list[i] = int32(i)
		}
		return len(scores)
	}
	inf := float32(math.Inf(-1))
	lo, hi := order(inf), order(-inf)
	if numbers := k.CountGreater(scores, inf); numbers < topk {
		return fewNumbers(list, scores, topk-numbers)
	}
	// Fewer than topk scores are above hi, topk or more are above lo.
	for hi-lo > 1 {
		mid := lo + (hi-lo)/2
		if k.CountGreater(scores, value(mid)) < topk {
			hi = mid
		} else {
			lo = mid
		}
	}
	last := value(hi)
	n := k.IndexGreater(list, scores, value(lo), 0)
	// Among the scores equal to the last, lower positions are chosen first.
	if n == topk {
		return n
	}
	equal := topk - k.CountGreater(scores, last)
	n = 0
	for _, p := range list {
		if scores[p] == last {
			if equal == 0 {
				continue
			}
			equal--
		}
		list[n] = p
		n++
		if n == topk {
			break
		}
	}
	return n
}

// fewNumbers is best for scores with fewer than topk above −Inf: those, and then
// missing others, first −Inf, then NaN.
func fewNumbers(list []int32, scores []float32, missing int) int {
	inf := float32(math.Inf(-1))
	infinite := 0
	for _, x := range scores {
		if x == inf {
			infinite++
		}
	}
	infinite = min(infinite, missing)
	nan := missing - infinite
	n := 0
	for p, x := range scores {
		switch {
		case x == inf:
			if infinite == 0 {
				continue
			}
			infinite--
		case x != x:
			if nan == 0 {
				continue
			}
			nan--
		}
		list[n] = int32(p)
		n++
	}
	return n
}

// order maps float32 numbers to integers in their order, and value maps back.
// −0 is one below +0; comparisons of values treat them as equal.
func order(x float32) uint32 {
	b := math.Float32bits(x)
	if b>>31 == 1 {
		return ^b
	}
	return b | 1<<31
}

func value(o uint32) float32 {
	if o>>31 == 1 {
		return math.Float32frombits(o &^ (1 << 31))
	}
	return math.Float32frombits(^o)
}
