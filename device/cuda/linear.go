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
// Weights in bf16 go to cuBLASLt. With FP8 weights, src is rounded to e4m3 in
// blocks of 128 columns; scaled blocks are multiplied by linear_small.cu if rows
// are few, else by cuBLASLt, which leaves rows beyond a multiple of 4 to the
// former.
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

// quantizedRows bounds the rows that are held rounded to e4m3.
const quantizedRows = 8192

// takesSmall tells whether linear_small.cu is faster than cuBLASLt's scaled
// products: that needs 15 µs for few outputs, however few the rows.
func takesSmall(rows, outputs int) bool { return rows <= 64 || rows <= 128 && outputs <= 2048 }

func (d *Device) linearF8(dst, src device.Tensor, m *matrix, add bool) {
	if !aligned(ptr(src), ptr(dst)) {
		panic(fmt.Sprintf("cuda: Linear: dst %s or src %s is not at a multiple of 16 bytes", shape(dst), shape(src)))
	}
	rows := 0
	if !takesSmall(src.Rows, m.out) {
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

// quantize rounds src to e4m3, in memory that the next call takes again. The
// scales are [cols/128][pitch].
func (d *Device) quantize(src device.Tensor, pitch int) (codes, scales driver.Ptr) {
	blocks := src.Cols / 128
	scalesAt := int64(roundUp(src.Rows*src.Cols, 256))
	codes = d.scratch("linear", scalesAt+4*int64(blocks*pitch))
	scales = codes + driver.Ptr(scalesAt)
	dependent(d, d.kernel("quantize", "quantize_rows"), grid1(divUp(src.Rows*blocks, 16)), block1(256), 0, &quantizeParams{
		Src: ptr(src), Codes: codes, Scales: scales, Rows: int32(src.Rows), Cols: int32(src.Cols), Pitch: int32(pitch),
	})
	return codes, scales
}

// quantizeParams mirrors struct Quantize of quantize.cu.
type quantizeParams struct {
	Src, Codes, Scales driver.Ptr
	Rows, Cols, Pitch  int32
	_                  int32
}

// linearBlocks multiplies with cuBLASLt; the rows are a multiple of 4.
func (d *Device) linearBlocks(dst, src device.Tensor, m *matrix, add bool) {
	codes, scales := d.quantize(src, src.Rows)
	d.products.queue(weightSpec(driver.MatmulF8, matmulType(dst.Type), src.Rows, m.out, m.in), driver.MatmulCall{
		A: m.mem.addr, B: codes, D: ptr(dst), ScaleA: m.mem.addr + driver.Ptr(m.scales), ScaleB: scales, Beta: beta(add),
	})
}

// smallKernel is a kernel of linear_small.cu.
type smallKernel struct {
	entry  string
	rows   int // at most
	stages int
	blocks int // on a multiprocessor
}

var smallKernels = []smallKernel{
	{"linear_small_8", 8, 8, 3}, {"linear_small_16", 16, 7, 3}, {"linear_small_32", 32, 5, 3},
	{"linear_small_64", 64, 4, 3}, {"linear_small_128", 128, 4, 2},
}

const (
	smallOutputs = 64 // of a block
	smallThreads = 160
)

// shared is the size of struct Shared.
func (k *smallKernel) shared() int {
	return roundUp(k.stages*((smallOutputs+k.rows)*128+4*k.rows+16), 1024)
}

// split returns how many blocks, a cluster, share the columns of a weight: as
// many as run at a time, if each gets some to pipeline.
func (k *smallKernel) split(tiles, blocks, multiprocessors int) int {
	const least = 4 // blocks of 128 columns
	return max(1, min(8, k.blocks*multiprocessors/tiles, blocks/least))
}

// linearSmall multiplies up to 128 rows with linear_small.cu.
func (d *Device) linearSmall(dst, src device.Tensor, m *matrix, add bool) {
	k := &smallKernels[0]
	for i := 1; k.rows < src.Rows; i++ {
		k = &smallKernels[i]
	}
	codes, scales := d.quantize(src, k.rows)
	tiles := divUp(m.out, smallOutputs)
	split := uint32(k.split(tiles, m.in/128, d.info.Workers))
	l := driver.Launch{
		Function: d.kernel("linear_small", k.entry), Shared: uint32(k.shared()),
		Grid: [3]uint32{uint32(tiles), split, 1}, Block: block1(smallThreads), Cluster: [3]uint32{1, split, 1}, Dependent: true,
	}
	launchWith(d, &l, &linearSmallParams{
		Weight: m.tiles, Src: d.codesMap(codes, src.Rows, m.in, k.rows),
		WeightScales: m.mem.addr + driver.Ptr(m.scales), SrcScales: scales, Dst: ptr(dst),
		Rows: int32(src.Rows), Cols: int32(m.in), Outputs: int32(m.out), WeightPitch: int32(m.scalePitch()), SrcPitch: int32(k.rows),
		F32: flag(dst.Type == device.F32), Add: flag(add),
	})
}

// linearSmallParams mirrors struct LinearSmall of linear_small.cu.
type linearSmallParams struct {
	Weight, Src                  driver.TensorMap
	WeightScales, SrcScales, Dst driver.Ptr
	Rows, Cols, Outputs          int32
	WeightPitch, SrcPitch        int32
	F32, Add                     int32
	_                            [12]byte
}

// codesKey identifies a map of rounded inputs.
type codesKey struct {
	codes           driver.Ptr
	rows, cols, box int
}

// codesMap describes rounded inputs to the copy engine. Steps repeat the same
// few, so they are kept.
func (d *Device) codesMap(codes driver.Ptr, rows, cols, box int) driver.TensorMap {
	const most = 1024
	key := codesKey{codes, rows, cols, box}
	m, ok := d.codesMaps[key]
	if !ok && d.err == nil {
		var err error
		if m, err = d.f8Map(codes, rows, cols, box); err != nil {
			d.fail(err)
		}
		if len(d.codesMaps) == most {
			clear(d.codesMaps)
		}
		d.codesMaps[key] = m
	}
	return m
}

// f8Map describes a matrix of e4m3 in pieces of box rows by 128 columns.
func (d *Device) f8Map(base driver.Ptr, rows, cols, box int) (driver.TensorMap, error) {
	return driver.EncodeTensorMap(d.cuda, driver.TensorMapSpec{
		Type: driver.Map8, Base: base, Dims: []uint64{uint64(cols), uint64(rows)}, Strides: []uint64{uint64(cols)},
		Box: []uint32{128, uint32(box)}, Swizzle: 128,
	})
}

func flag(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
