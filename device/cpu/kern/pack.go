package kern

import (
	"encoding/binary"
	"fmt"
	"math"

	"latent/device"
)

// LenF32, LenBF16 and LenF8 return the elements of a panel over k inputs,
// LenScales those of the scales of an f8 panel.
func LenF32(k int) int    { return k * N }
func LenBF16(k int) int   { return (k + 1) / 2 * 2 * N }
func LenF8(k int) int     { return k * N }
func LenScales(k int) int { return (k + ScaleBlock - 1) / ScaleBlock * N }

// maxScale bounds the scales of an f8 panel: the kernels multiply them by 2^8,
// and by weights up to 448, which must not overflow.
const maxScale = 0x1p110

// PackF32 writes rows [from, to) of w, of any type, to the outputs lane,
// lane+1, ... of an f32 panel. It leaves other outputs as they are, so a panel
// starts as zeros and may be filled from several sources.
func PackF32(panel []float32, lane int, w device.MatrixSource, from, to int) {
	checkLanes(lane, from, to)
	var block [N][ScaleBlock]float32
	for k := 0; k < w.Cols; k += ScaleBlock {
		n := min(ScaleBlock, w.Cols-k)
		for r := from; r < to; r++ {
			readRow(block[r-from][:n], w, r, k)
		}
		scatter(panel[k*N+lane:], N, &block, to-from, n)
	}
}

// PackBF16 is PackF32 for a bf16 panel. Values that are not bf16 are rounded
// to nearest, ties to even.
func PackBF16(panel []uint16, lane int, w device.MatrixSource, from, to int) {
	checkLanes(lane, from, to)
	var block [N][ScaleBlock]uint16
	var wide [ScaleBlock]float32
	for k := 0; k < w.Cols; k += ScaleBlock {
		n := min(ScaleBlock, w.Cols-k)
		for r := from; r < to; r++ {
			row := block[r-from][:n]
			if n < ScaleBlock {
				block[r-from][n] = 0
			}
			if w.Type == device.BF16 {
				src := w.Data[2*(r*w.Cols+k):]
				for i := range row {
					row[i] = binary.LittleEndian.Uint16(src[2*i:])
				}
				continue
			}
			readRow(wide[:n], w, r, k)
			goBF16FromF32(row, wide[:n])
		}
		for p := 0; p < n; p += 2 { // beyond an odd end, block is zero
			d := panel[(k+p)*N+2*lane:][:2*(to-from)]
			for j := range len(d) / 2 {
				row := &block[j]
				d[2*j], d[2*j+1] = row[p], row[p+1]
			}
		}
	}
}

// PackF8 is PackF32 for an f8 panel and its scales. An e4m3 source keeps its
// bytes and scales; other types are rounded, with one power-of-two scale
// (device.QuantScale) per output and ScaleBlock inputs. It refuses NaN, and
// scales that are not in [0, 2^110): the kernels do not represent them.
func PackF8(panel []uint8, scales []float32, lane int, w device.MatrixSource, from, to int) error {
	checkLanes(lane, from, to)
	var block [N][ScaleBlock]uint8
	var wide [ScaleBlock]float32
	for k := 0; k < w.Cols; k += ScaleBlock {
		n := min(ScaleBlock, w.Cols-k)
		for r := from; r < to; r++ {
			row, scale := block[r-from][:n], float32(0)
			if w.Type == device.F8E4M3 {
				copy(row, w.Data[r*w.Cols+k:])
				scale = blockScale(w, r, k)
			} else {
				readRow(wide[:n], w, r, k)
				scale = device.QuantScale(goAbsMax(wide[:n]))
				goF8FromF32(row, wide[:n], 1/scale)
			}
			if !(scale >= 0 && scale < maxScale) {
				return fmt.Errorf("kern: %s: the scale of row %d, column %d is %v; fp8 panels need scales in [0, 2^110)", w.Name, r, k, scale)
			}
			if i := indexNaN(row); i >= 0 {
				return fmt.Errorf("kern: %s: the weight at row %d, column %d is NaN; is the checkpoint damaged?", w.Name, r, k+i)
			}
			scales[k/ScaleBlock*N+lane+r-from] = scale
		}
		scatter(panel[k*N+lane:], N, &block, to-from, n)
	}
	return nil
}

// scatter writes the first n columns of the first rows rows of block as rows of
// dst, ld apart.
func scatter[T any](dst []T, ld int, block *[N][ScaleBlock]T, rows, n int) {
	p := 0
	for ; p+4 <= n; p += 4 {
		d0, d1 := dst[p*ld:][:rows], dst[(p+1)*ld:][:rows]
		d2, d3 := dst[(p+2)*ld:][:rows], dst[(p+3)*ld:][:rows]
		for j := range d0 {
			v := (*[4]T)(block[j%N][p:])
			d0[j], d1[j], d2[j], d3[j] = v[0], v[1], v[2], v[3]
		}
	}
	for ; p < n; p++ {
		d := dst[p*ld:][:rows]
		for j := range d {
			d[j] = block[j%N][p]
		}
	}
}

// indexNaN returns the index of the first NaN in e4m3 row, or -1. Only 7f has
// the high bit when one is added to the low seven, so eight are tested at once.
func indexNaN(row []uint8) int {
	const low, one, high = 0x7f7f7f7f7f7f7f7f, 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(row); i += 8 {
		if (binary.LittleEndian.Uint64(row[i:])&low+one)&high != 0 {
			break
		}
	}
	for ; i < len(row); i++ {
		if row[i]&0x7f == 0x7f {
			return i
		}
	}
	return -1
}

func checkLanes(lane, from, to int) {
	if lane < 0 || from > to || lane+to-from > N {
		panic(fmt.Sprintf("kern: rows [%d, %d) do not fit outputs %d.. of a panel", from, to, lane))
	}
}

// blockScale returns the multiplier of an e4m3 matrix at (row, col).
func blockScale(w device.MatrixSource, row, col int) float32 {
	return w.Scales[row/ScaleBlock*((w.Cols+ScaleBlock-1)/ScaleBlock)+col/ScaleBlock]
}

// readRow writes elements (row, col..) of w to dst. They lie in one scale block.
func readRow(dst []float32, w device.MatrixSource, row, col int) {
	src := w.Data[(row*w.Cols+col)*w.Type.Size():][:len(dst)*w.Type.Size()]
	switch w.Type {
	case device.F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case device.BF16:
		for i := range dst {
			dst[i] = device.F32FromBF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case device.F16:
		for i := range dst {
			dst[i] = device.F32FromF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case device.F8E4M3:
		goF32FromF8(dst, src, blockScale(w, row, col))
	default:
		panic(fmt.Sprintf("kern: %s has type %v, which is no weight", w.Name, w.Type))
	}
}
