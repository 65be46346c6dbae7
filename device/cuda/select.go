package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

// What topk.cu is compiled with.
const (
	topkBins    = 4096
	topkList    = 2048
	topkThreads = 512
	// topkWide is the size of blocks when there are too few rows to fill the GPU.
	topkWide = 1024
	// sharedMost is the shared memory that a block can have.
	sharedMost = 232448
)

type topkParams struct {
	Scores, Rows, Runs, Out, Extents driver.Ptr
	Columns, Pitch                   int64
	TopK, Cached, Mask, Skip         int32
}

// SelectTopK implements device.Device.
func (d *Device) SelectTopK(sel device.Selection, scores device.Tensor, topk int, runs []device.Run) {
	l := d.list("SelectTopK", runs)
	want("SelectTopK", "scores", scores, device.F32, l.numRows, scores.Cols)
	s, ok := sel.(*selection)
	if !ok || topk < 1 || s.form == device.SelectIndices && topk > s.topk {
		panic(fmt.Sprintf("cuda: SelectTopK: top %d into %T", topk, sel))
	}
	for i := range runs {
		r := &runs[i]
		selectionOf("SelectTopK", sel, s.form, r)
		if to := visibleKeys(r); to > scores.Cols || s.form == device.SelectMask && to > s.keys {
			panic(fmt.Sprintf("cuda: SelectTopK: %d visible keys in scores %s", to, shape(scores)))
		}
	}
	if l.numRows == 0 {
		return
	}
	threads := topkThreads
	if l.numRows <= d.info.Workers {
		threads = topkWide
	}
	shared, cached := topkShared(threads, scores.Cols)
	p := topkParams{
		Scores: ptr(scores), Rows: l.rows, Runs: l.runs, Out: s.row(0), Columns: int64(scores.Cols), Pitch: int64(s.pitch()),
		TopK: int32(topk), Cached: int32(cached),
	}
	if s.form == device.SelectMask {
		p.Mask, p.Extents = 1, s.extents()
	} else {
		p.Skip = int32(min(d.skipIdentity, topk))
	}
	launch(d, d.kernel(fmt.Sprintf("topk_%d", threads), "topk"), grid1(l.numRows), block1(threads), shared, &p)
}

// topkShared returns the shared memory of a block for rows of so many scores, and
// of how many of them the upper halves fit.
func topkShared(threads, columns int) (bytes, cached int) {
	fixed := 4*(topkBins+topkList+2*threads/32) + 16
	cached = min(roundUp(columns, maskTile), (sharedMost-fixed)/2/maskTile*maskTile)
	return fixed + 2*cached, cached
}

// visibleKeys is the number of keys that the last row of a run sees.
func visibleKeys(r *device.Run) int { return max(0, min(r.KeyTo, r.Pos+r.Rows)) }
