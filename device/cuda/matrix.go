package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"latent/device"
	"latent/device/cuda/driver"
)

// matrix implements device.Matrix: a weight [out, in] row-major.
//
// As bf16 it is the sum of one to three matrices, one after the other in memory.
// One rounds; more make it exact, for weights whose products must not round
// below float32: bf16 times bf16 is exact in float32, and so are the products
// with every limb.
//
// As e4m3 it keeps the checkpoint's codes. Their scales follow,
// [⌈out/128⌉][⌈in/128⌉ rounded up to 4], which is cuBLASLt's order.
type matrix struct {
	out, in int
	mem     *memory
	limbs   int // 0 for e4m3

	// Of e4m3 only.
	scales int64            // where the scales begin
	tiles  driver.TensorMap // of smallOutputs rows
}

func (m *matrix) Rows() int    { return m.out }
func (m *matrix) Cols() int    { return m.in }
func (m *matrix) Bytes() int64 { return m.mem.bytes }

// scalePitch is the number of scales stored for 128 rows.
func (m *matrix) scalePitch() int { return roundUp(m.in/128, 4) }

// LoadMatrix implements device.Device. FP8 weights keep their codes if their
// blocks are whole, see fitsF8. All others become bf16: rounded, if arithmetic
// is in BF16, or exact.
func (d *Device) LoadMatrix(arithmetic device.DType, parts ...device.MatrixSource) (device.Matrix, error) {
	if len(parts) == 0 {
		return nil, errors.New("cuda: load: a matrix without parts")
	}
	m := &matrix{in: parts[0].Cols}
	for i := range parts {
		p := &parts[i]
		if err := checkSource(p); err != nil {
			return nil, err
		}
		if p.Cols != m.in {
			return nil, fmt.Errorf("cuda: load %s: %d columns under %s with %d", p.Name, p.Cols, parts[0].Name, m.in)
		}
		m.out += p.Rows
	}
	var bytes int64
	switch arithmetic {
	case device.BF16:
		if d.products.blockScales && fitsF8(parts) {
			m.scales = int64(roundUp(m.out*m.in, 256))
			bytes = m.scales + 4*int64(divUp(m.out, 128)*m.scalePitch())
			break
		}
		m.limbs = 1
	case device.F32:
		for i := range parts {
			m.limbs = max(m.limbs, exactLimbs(parts[i].Type))
		}
	default:
		panic(fmt.Sprintf("cuda: load: arithmetic in %v", arithmetic))
	}
	bytes += 2 * int64(m.limbs) * int64(m.out) * int64(m.in)
	var err error
	if m.mem, err = d.alloc(bytes); err != nil {
		return nil, fmt.Errorf("cuda: load %s: %w", parts[0].Name, err)
	}
	if err := d.fill(m, parts); err != nil {
		m.mem.Free()
		return nil, err
	}
	if m.limbs == 0 {
		if m.tiles, err = d.f8Map(m.mem.addr, m.out, m.in, smallOutputs); err != nil {
			m.mem.Free()
			return nil, fmt.Errorf("cuda: load %s: %w", parts[0].Name, err)
		}
	}
	return m, nil
}

// fitsF8 tells whether FP8 parts can be multiplied as they are: that takes whole
// blocks of columns, blocks of rows that do not straddle parts, and for cuBLASLt
// outputs of a multiple of 16 bytes.
func fitsF8(parts []device.MatrixSource) bool {
	for i := range parts {
		unit := 128
		if i == len(parts)-1 {
			unit = 8
		}
		if p := &parts[i]; p.Type != device.F8E4M3 || p.Cols%128 != 0 || p.Rows%unit != 0 {
			return false
		}
	}
	return true
}

// exactLimbs is the number of bf16 values whose sum is any value of a type,
// scaled by a float32 and rounded to one for FP8.
func exactLimbs(t device.DType) int {
	switch t {
	case device.BF16:
		return 1
	case device.F16:
		return 2
	}
	return 3
}

// checkSource reports what is wrong with a weight, but for NaN among its codes,
// which findNaN looks for.
func checkSource(w *device.MatrixSource) error {
	switch w.Type {
	case device.F32, device.BF16, device.F16, device.F8E4M3:
	default:
		return fmt.Errorf("cuda: load %s: %v is no type of a weight; want float32, bfloat16, float16 or fp8_e4m3", w.Name, w.Type)
	}
	if w.Rows < 1 || w.Cols < 1 || len(w.Data) != w.Rows*w.Cols*w.Type.Size() {
		return fmt.Errorf("cuda: load %s: %d bytes for [%d, %d] %v", w.Name, len(w.Data), w.Rows, w.Cols, w.Type)
	}
	if w.Type != device.F8E4M3 {
		return nil
	}
	if n := divUp(w.Rows, 128) * divUp(w.Cols, 128); len(w.Scales) != n {
		return fmt.Errorf("cuda: load %s: %d scales for [%d, %d] in 128x128 blocks; want %d", w.Name, len(w.Scales), w.Rows, w.Cols, n)
	}
	for i, s := range w.Scales {
		if s != s || math.IsInf(float64(s), 0) {
			return fmt.Errorf("cuda: load %s: the scale of block %d is %v; is the checkpoint damaged?", w.Name, i, s)
		}
	}
	return nil
}

// fill uploads the parts of a matrix.
func (d *Device) fill(m *matrix, parts []device.MatrixSource) error {
	row := 0
	for i := range parts {
		p := &parts[i]
		var err error
		if m.limbs == 0 {
			err = d.fillF8(m, p, row)
		} else {
			err = d.fillBF16(m, p, row)
		}
		if err != nil {
			return err
		}
		row += p.Rows
	}
	return nil
}

// fillF8 uploads codes and scales.
func (d *Device) fillF8(m *matrix, p *device.MatrixSource, row int) error {
	at := m.mem.addr + driver.Ptr(row*m.in)
	d.exec.UploadBytes(at, p.Data)
	blocks, pitch := m.in/128, m.scalePitch()
	scales := make([]byte, 0, 4*divUp(p.Rows, 128)*pitch)
	for b := range divUp(p.Rows, 128) {
		scales = floatBytes(scales, p.Scales[b*blocks:(b+1)*blocks]...)
		scales = append(scales, make([]byte, 4*(pitch-blocks))...)
	}
	d.exec.UploadBytes(m.mem.addr+driver.Ptr(m.scales)+driver.Ptr(4*(row/128)*pitch), scales)
	return d.findNaN(p, at)
}

// convertBytes is how much of a weight is on the device in its stored type at a
// time, on its way to bf16.
const convertBytes = 64 << 20

// fillBF16 uploads a part in pieces and converts them.
func (d *Device) fillBF16(m *matrix, p *device.MatrixSource, row int) error {
	if p.Type == device.BF16 && m.limbs == 1 {
		d.exec.UploadBytes(m.mem.addr+driver.Ptr(2*row*m.in), p.Data)
		return nil
	}
	rowBytes := p.Cols * p.Type.Size()
	// Pieces begin at multiples of 128 rows, where blocks of scales do.
	most := max(128, convertBytes/rowBytes/128*128)
	scalesAt := int64(roundUp(min(most, p.Rows)*rowBytes, 256))
	stage, err := d.alloc(scalesAt + 4*int64(len(p.Scales)))
	if err != nil {
		return fmt.Errorf("cuda: load %s: %w", p.Name, err)
	}
	defer stage.Free()
	if len(p.Scales) > 0 {
		d.exec.UploadBytes(stage.addr+driver.Ptr(scalesAt), floatBytes(nil, p.Scales...))
	}
	for from := 0; from < p.Rows; from += most {
		rows := min(most, p.Rows-from)
		piece := *p
		piece.Rows, piece.Data = rows, p.Data[from*rowBytes:(from+rows)*rowBytes]
		d.exec.UploadBytes(stage.addr, piece.Data)
		if err := d.findNaN(&piece, stage.addr); err != nil {
			return err
		}
		launch(d, d.kernel("convert", "convert_weight"), grid1(rows), block1(256), 0, &convertParams{
			Src: stage.addr, Scales: stage.addr + driver.Ptr(scalesAt),
			Dst:    m.mem.addr + driver.Ptr(2*(row+from)*m.in),
			Stride: int64(m.out) * int64(m.in),
			Rows:   int32(rows), Cols: int32(m.in), Row0: int32(from),
			Type: storedType[p.Type], Limbs: int32(m.limbs),
		})
	}
	return nil
}

// storedType numbers types as convert.cu does.
var storedType = map[device.DType]int32{device.F32: 0, device.BF16: 1, device.F16: 2, device.F8E4M3: 3}

// convertParams mirrors struct Convert of convert.cu.
type convertParams struct {
	Src, Scales, Dst driver.Ptr
	Stride           int64
	Rows, Cols, Row0 int32
	Type, Limbs      int32
	_                int32
}

// findNaN looks for NaN in the FP8 codes of w, which are at codes.
func (d *Device) findNaN(w *device.MatrixSource, codes driver.Ptr) error {
	if w.Type != device.F8E4M3 {
		return nil
	}
	const none = ^uint64(0)
	place := d.scratch("find NaN", 8)
	d.exec.Fill(place, 0xff, 8)
	n := len(w.Data)
	launch(d, d.kernel("convert", "find_nan"), grid1(min(divUp(n, 256), 4096)), block1(256), 0, &findNaNParams{codes, place, int64(n)})
	var b [8]byte
	if err := d.exec.Download(b[:], place); err != nil {
		return fmt.Errorf("cuda: load %s: %w", w.Name, err)
	}
	if i := binary.LittleEndian.Uint64(b[:]); i != none {
		return fmt.Errorf("cuda: load %s: the weight at row %d, column %d is NaN; is the checkpoint damaged?", w.Name, i/uint64(w.Cols), i%uint64(w.Cols))
	}
	return nil
}

// findNaNParams mirrors struct FindNaN of convert.cu.
type findNaNParams struct {
	Codes, Place driver.Ptr
	N            int64
}
