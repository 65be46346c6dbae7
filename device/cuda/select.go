package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

// What topk.cu is compiled with.
const (
	topkThreads        = 512
	topkClusterThreads = 1024
	topkClusterMost    = 8
	// topkShared is sizeof(Shared) at 1024 threads; bitmaps follow.
	topkShared = 4*(4096+2*4096+2*32) + 48
)

type topkParams struct {
	Scores, Rows, Runs, Out, Extents driver.Ptr
	Columns, Pitch                   int64
	TopK, Mask, Words, _             int32
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
	blocks := topkBlocks(l.numRows, scores.Cols, d.info.Workers)
	words := divUp(scores.Cols, blocks*maskTile) * maskTile / 32
	p := topkParams{
		Scores: ptr(scores), Rows: l.rows, Runs: l.runs, Out: s.row(0), Columns: int64(scores.Cols), Pitch: int64(s.pitch()),
		TopK: int32(topk), Words: int32(words),
	}
	if s.form == device.SelectMask {
		p.Mask, p.Extents = 1, s.extents()
	}
	run := driver.Launch{Grid: grid1(l.numRows * blocks), Shared: uint32(topkShared + 2*4*words)}
	if blocks == 1 {
		run.Function, run.Block = d.kernel("topk", "topk"), block1(topkThreads)
	} else {
		run.Function, run.Block, run.Cluster = d.kernel("topk_cluster", "topk"), block1(topkClusterThreads), block1(blocks)
	}
	launchWith(d, &run, &p)
}

// topkBlocks is the number of blocks for a row: more than one where there are few
// rows, of at least 32768 keys each. Below, a block alone is faster (H200: 16 us
// for one row of 32768 keys, 18 us for four blocks; 22 against 30 us for 131072).
func topkBlocks(rows, columns, multiprocessors int) int {
	blocks := 1
	for blocks < topkClusterMost && 2*blocks*rows <= multiprocessors && columns >= 2*blocks*32768 {
		blocks *= 2
	}
	return blocks
}

// visibleKeys is the number of keys that the last row of a run sees.
func visibleKeys(r *device.Run) int { return max(0, min(r.KeyTo, r.Pos+r.Rows)) }
