package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

// matmulType is the type of an activation or output.
func matmulType(t device.DType) driver.MatmulType {
	if t == device.F32 {
		return driver.MatmulF32
	}
	return driver.MatmulBF16
}

// Linear implements device.Device.
//
// Weights in bf16 go to cuBLASLt as they are. With FP8 weights, src is rounded
// to e4m3 in blocks of 128 columns and cuBLASLt multiplies scaled blocks; up to
// smallRows rows, and those left of multiples of 4, go through linear_small.cu,
// which does not round src.
func (d *Device) Linear(dst, src device.Tensor, w device.Matrix, add bool) {
	m, ok := w.(*matrix)
	if !ok {
		panic(fmt.Sprintf("cuda: Linear: weight is a %T", w))
	}
	if src.Type != device.BF16 || dst.Type != device.BF16 && dst.Type != device.F32 ||
		src.Cols != m.in || dst.Cols != m.out || dst.Rows != src.Rows {
		panic(fmt.Sprintf("cuda: Linear: dst %s, src %s against weight [%d, %d]", shape(dst), shape(src), m.out, m.in))
	}
	if src.Rows == 0 {
		return
	}
	if m.limbs == 0 {
		d.linearF8(dst, src, m, add)
		return
	}
	spec := weightSpec(driver.MatmulBF16, matmulType(dst.Type), src.Rows, m.out, m.in)
	// The smallest limb first: a bf16 dst in between rounds only what is small.
	for limb := m.limbs - 1; limb >= 0; limb-- {
		weight := m.mem.addr + driver.Ptr(2*int64(limb)*int64(m.out)*int64(m.in))
		d.products.queue(spec, driver.MatmulCall{A: weight, B: ptr(src), D: ptr(dst), Beta: beta(add)})
		add = true
	}
}

func beta(add bool) float32 {
	if add {
		return 1
	}
	return 0
}

const (
	// smallRows is how many rows linear_small.cu takes at once. From there on
	// tensor cores have enough to do with cuBLASLt's tiles.
	smallRows = 16
	// quantizedRows bounds the rows that are held rounded to e4m3.
	quantizedRows = 8192
)

func (d *Device) linearF8(dst, src device.Tensor, m *matrix, add bool) {
	rows := 0
	if src.Rows > smallRows {
		rows = src.Rows / 4 * 4
	}
	for from := 0; from < rows; from += quantizedRows {
		to := min(from+quantizedRows, rows)
		d.linearBlocks(dst.Slice(from, to), src.Slice(from, to), m, add)
	}
	if rows < src.Rows {
		d.linearSmall(dst.Slice(rows, src.Rows), src.Slice(rows, src.Rows), m, add)
	}
}

// linearBlocks rounds src to e4m3 and multiplies scaled blocks; its rows are a
// multiple of 4.
func (d *Device) linearBlocks(dst, src device.Tensor, m *matrix, add bool) {
	blocks := m.in / 128
	scalesAt := int64(roundUp(src.Rows*m.in, 256))
	codes := d.scratch("linear", scalesAt+4*int64(blocks*src.Rows))
	scales := codes + driver.Ptr(scalesAt)
	launch(d, d.kernel("quantize", "quantize_rows"), grid1(divUp(src.Rows*blocks, 16)), block1(256), 0, &quantizeParams{
		Src: ptr(src), Codes: codes, Scales: scales, Rows: int32(src.Rows), Cols: int32(m.in), Pitch: int32(src.Rows),
	})
	d.products.queue(weightSpec(driver.MatmulF8, matmulType(dst.Type), src.Rows, m.out, m.in), driver.MatmulCall{
		A: m.mem.addr, B: codes, D: ptr(dst), ScaleA: m.mem.addr + driver.Ptr(m.scales), ScaleB: scales, Beta: beta(add),
	})
}

// quantizeParams mirrors struct Quantize of quantize.cu.
type quantizeParams struct {
	Src, Codes, Scales driver.Ptr
	Rows, Cols, Pitch  int32
	_                  int32
}

// smallKernel is a kernel of linear_small.cu: so many outputs a block, up to so
// many rows.
type smallKernel struct {
	entry         string
	outputs, rows int
}

// chooseSmall returns the kernel for a number of rows, of which it may take
// fewer. A block reads all of src, so the more rows there are, the more outputs
// it should have; with few rows the smallest blocks fill the device best.
func chooseSmall(rows, outputs int) smallKernel {
	switch {
	case rows > 8 && outputs%64 == 0:
		return smallKernel{"linear_small_64_16", 64, 16}
	case rows > 4 && outputs%32 == 0:
		return smallKernel{"linear_small_32_8", 32, 8}
	}
	return smallKernel{"linear_small_16_8", 16, 8}
}

// splitSmall returns how many blocks, a cluster, share the columns of a weight:
// enough to have two for each multiprocessor, few enough that each of their 8
// warps has a block of 128 columns.
func (d *Device) splitSmall(tiles, blocks int) int {
	split := 1
	for split < 8 && tiles*split < 2*d.info.Workers && blocks >= 2*split*8 {
		split *= 2
	}
	return split
}

// linearSmall multiplies a few rows without rounding src.
func (d *Device) linearSmall(dst, src device.Tensor, m *matrix, add bool) {
	k := chooseSmall(src.Rows, m.out)
	for from := 0; from < src.Rows; from += k.rows {
		to := min(from+k.rows, src.Rows)
		tiles := m.out / k.outputs
		split := uint32(d.splitSmall(tiles, m.in/128))
		l := driver.Launch{
			Function: d.kernel("linear_small", k.entry),
			Grid:     [3]uint32{uint32(tiles), split, 1}, Block: block1(256), Cluster: [3]uint32{1, split, 1},
		}
		launchWith(d, &l, &linearSmallParams{
			Src: ptr(src.Slice(from, to)), Weight: m.mem.addr, Scales: m.mem.addr + driver.Ptr(m.scales), Dst: ptr(dst.Slice(from, to)),
			Rows: int32(to - from), Cols: int32(m.in), Outputs: int32(m.out), Pitch: int32(m.scalePitch()),
			F32: flag(dst.Type == device.F32), Add: flag(add),
		})
	}
}

// linearSmallParams mirrors struct LinearSmall of linear_small.cu.
type linearSmallParams struct {
	Src, Weight, Scales, Dst   driver.Ptr
	Rows, Cols, Outputs, Pitch int32
	F32, Add                   int32
}

func flag(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
