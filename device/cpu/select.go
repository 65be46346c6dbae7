package cpu

import (
	"fmt"
	"math"
	"math/bits"
	"unsafe"

	"latent/device"
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
		s.choose(ws, items[i].run.Sel+items[i].row, in[i*scores.Cols:][:to], topk)
	})
}

// choose selects the min(topk, len(scores)) best of scores for row r. It reads
// the scores three times: a histogram of the 11 leading bits of their ranks
// finds the bin that the last selected score is in, the exact threshold is found
// among the members of that bin, and what lies above the threshold is written in
// order.
func (s *selection) choose(ws *arena, r int, scores []float32, topk int) {
	out := picks{}
	if s.form == device.SelectMask {
		out.mask = s.mask[r*s.words:][:s.words]
		clear(out.mask)
	} else {
		out.indices = s.indices[r*s.topk:][:s.topk]
		defer func() {
			for i := out.n; i < s.topk; i++ {
				out.indices[i] = -1
			}
		}()
	}
	if len(scores) <= topk {
		for p := range scores {
			out.add(p)
		}
		return
	}
	above, equal := threshold(ws, scores, topk)
	for p, x := range scores {
		k := rank(x)
		if k < above {
			continue
		}
		if k == above {
			if equal == 0 {
				continue
			}
			equal--
		}
		out.add(p)
	}
}

// picks collects selected positions in either form.
type picks struct {
	indices []int32
	n       int
	mask    []uint64
}

func (o *picks) add(p int) {
	if o.mask != nil {
		o.mask[p/64] |= 1 << (p % 64)
		return
	}
	o.indices[o.n] = int32(p)
	o.n++
}

// rank maps scores to integers in their order: −0 equals +0, and NaN is below
// everything.
func rank(x float32) uint32 {
	b := math.Float32bits(x)
	if b == 1<<31 {
		b = 0
	}
	if x != x {
		return 0
	}
	// Negative numbers: all bits flipped; others: the sign bit set.
	return b ^ (uint32(int32(b)>>31) | 1<<31)
}

// threshold returns the rank of the topk-th best score, and how many scores of
// exactly that rank are selected.
func threshold(ws *arena, scores []float32, topk int) (at uint32, equal int) {
	const lead = 11
	var bins [1 << lead]int32
	for _, x := range scores {
		bins[rank(x)>>(32-lead)]++
	}
	want := int32(topk)
	b := len(bins) - 1
	for ; bins[b] < want; b-- {
		want -= bins[b]
	}
	members := unsigned(ws.ints(int(bins[b])))
	n := 0
	for _, x := range scores {
		if k := rank(x); k>>(32-lead) == uint32(b) {
			members[n] = k
			n++
		}
	}
	// The remaining 21 bits, one at a time from the top: keep the half that
	// holds the want-th best.
	at = uint32(b) << (32 - lead)
	for bit := uint32(1) << (32 - lead - 1); bit != 0; bit >>= 1 {
		ones := int32(0)
		for _, k := range members {
			if k&bit != 0 {
				ones++
			}
		}
		keep := bit
		if ones < want {
			want -= ones
			keep = 0
		}
		at |= keep
		n = 0
		for _, k := range members {
			if k&bit == keep {
				members[n] = k
				n++
			}
		}
		members = members[:n]
	}
	return at, int(want)
}

func unsigned(x []int32) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}
