package cuda

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"latent/device"
	"latent/device/cuda/driver"
)

// maskTile is the number of keys of a tile of a mask.
const maskTile = 128

// selection implements device.Selection in one block of memory.
//
// Indices are i32 [rows, topk]: the selected positions, ascending, then −1.
//
// A mask is u32 [rows, tiles, 4] for tiles of 128 keys, in the order of the
// accumulators of a matrix product: bit 2i+b of word t of tile j is key
// 128j + 8i + 2t + b (i < 16, t < 4, b < 2). Selecting for a run writes all tiles
// up to the last key that any row of the run sees, so that rows may be read
// together; extents, i32 [rows] behind the mask, keeps that number for Positions.
type selection struct {
	dev              *Device
	form             device.SelectionForm
	rows, keys, topk int
	mem              *memory
}

// NewSelection implements device.Device. Nothing is selected in it.
func (d *Device) NewSelection(form device.SelectionForm, rows, keys, topk int) (device.Selection, error) {
	if rows < 0 || keys < 0 || topk < 1 {
		panic(fmt.Sprintf("cuda: NewSelection: %d of %d keys for %d rows", topk, keys, rows))
	}
	s := &selection{dev: d, form: form, rows: rows, keys: keys, topk: topk}
	bytes, empty := 4*int64(rows)*int64(s.pitch()), byte(0xff) // −1
	if form == device.SelectMask {
		bytes, empty = bytes+4*int64(rows), 0
	}
	var err error
	if s.mem, err = d.alloc(bytes); err != nil {
		return nil, fmt.Errorf("cuda: selection for %d rows of %d keys: %w", rows, keys, err)
	}
	if bytes > 0 {
		d.exec.Fill(s.mem.addr, empty, bytes)
	}
	return s, nil
}

func (s *selection) Form() device.SelectionForm { return s.form }
func (s *selection) Rows() int                  { return s.rows }
func (s *selection) Free()                      { s.mem.Free() }

// pitch returns the words of a row.
func (s *selection) pitch() int {
	if s.form == device.SelectMask {
		return 4 * divUp(s.keys, maskTile)
	}
	return s.topk
}

// row returns the address of a row.
func (s *selection) row(r int) driver.Ptr { return s.mem.addr + driver.Ptr(4*r*s.pitch()) }

// extents returns the address of a mask's numbers of keys.
func (s *selection) extents() driver.Ptr { return s.row(s.rows) }

// Positions implements device.Selection.
func (s *selection) Positions(r int) []int32 {
	if s.form == device.SelectIndices {
		positions := s.download(s.row(r), s.topk)
		if n := slices.Index(positions, -1); n >= 0 {
			positions = positions[:n]
		}
		return positions
	}
	extent := int(s.download(s.extents()+driver.Ptr(4*r), 1)[0])
	words := s.download(s.row(r), 4*divUp(extent, maskTile))
	var positions []int32
	for i, w := range words {
		for w := uint32(w); w != 0; w &= w - 1 {
			bit := bits.TrailingZeros32(w)
			positions = append(positions, int32(i/4*maskTile+bit/2*8+i%4*2+bit%2))
		}
	}
	slices.Sort(positions)
	return positions
}

// download reads n words. After a failure, which Sync will report, it returns
// none.
func (s *selection) download(from driver.Ptr, n int) []int32 {
	data := make([]byte, 4*n)
	if n == 0 || s.dev.err != nil {
		return make([]int32, 0)
	}
	if err := s.dev.exec.Download(data, from); err != nil {
		s.dev.fail(err)
		return make([]int32, 0)
	}
	words := make([]int32, n)
	for i := range words {
		words[i] = int32(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return words
}

// selectionOf checks a selection that the rows of run refer to.
func selectionOf(op string, sel device.Selection, form device.SelectionForm, run *device.Run) *selection {
	s, ok := sel.(*selection)
	if !ok || s.form != form {
		panic(fmt.Sprintf("cuda: %s: selection %T does not fit", op, sel))
	}
	if run.Sel < 0 || run.Sel+run.Rows > s.rows {
		panic(fmt.Sprintf("cuda: %s: rows [%d, %d) of a selection with %d", op, run.Sel, run.Sel+run.Rows, s.rows))
	}
	return s
}
