package cpu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unsafe"

	"latent/device"
	"latent/device/cpu/kern"
)

// form says how the values of a packed matrix are stored and multiplied.
type form uint8

const (
	formF32  form = iota
	formBF16      // bf16 values, float32 arithmetic
	formPair      // bf16 values, VDPBF16PS with inputs rounded to bf16
	formF8        // e4m3 values and scales, float32 arithmetic
)

// packed is a weight [out, in] in panels of kern.N outputs (see kern). Panel j
// starts at j·stride values and j·scaleStride scales.
type packed struct {
	form        form
	out, in     int
	stride      int
	scaleStride int
	f32         []float32
	bf16        []uint16
	f8          []uint8
	scales      []float32
}

// panels returns the number of panels.
func (w *packed) panels() int { return (w.out + kern.N - 1) / kern.N }

// bytes returns the size of the packed values, a multiple of 64.
func (w *packed) bytes() int64 {
	n := int64(w.panels())
	switch w.form {
	case formF32:
		return n * int64(w.stride) * 4
	case formF8:
		return n * (int64(w.stride) + 4*int64(w.scaleStride))
	}
	return n * int64(w.stride) * 2
}

// layout returns a packed matrix without its memory.
func layout(f form, out, in int) packed {
	w := packed{form: f, out: out, in: in}
	switch f {
	case formF32:
		w.stride = kern.LenF32(in)
	case formBF16, formPair:
		w.stride = kern.LenBF16(in)
	case formF8:
		w.stride, w.scaleStride = kern.LenF8(in), kern.LenScales(in)
	}
	return w
}

// place gives w the first bytes of mem, which are zero, and returns the rest.
func (w *packed) place(mem []byte) []byte {
	n := w.bytes()
	b, rest := mem[:n:n], mem[n:]
	switch w.form {
	case formF32:
		w.f32 = cast[float32](b)
	case formF8:
		values := w.panels() * w.stride
		w.f8, w.scales = b[:values:values], cast[float32](b[values:])
	default:
		w.bf16 = cast[uint16](b)
	}
	return rest
}

// fill packs rows [from, to) of src as outputs lane, lane+1, … of panel j.
func (w *packed) fill(j, lane int, src device.MatrixSource, from, to int) error {
	switch w.form {
	case formF32:
		kern.PackF32(w.f32[j*w.stride:][:w.stride], lane, src, from, to)
	case formF8:
		return kern.PackF8(w.f8[j*w.stride:][:w.stride], w.scales[j*w.scaleStride:][:w.scaleStride], lane, src, from, to)
	default:
		kern.PackBF16(w.bf16[j*w.stride:][:w.stride], lane, src, from, to)
	}
	return nil
}

// checkSource reports what is wrong with the data of w.
func checkSource(w device.MatrixSource) error {
	switch w.Type {
	case device.F32, device.BF16, device.F16, device.F8E4M3:
	default:
		return fmt.Errorf("cpu: load %s: %v is no type of a weight; want float32, bfloat16, float16 or fp8_e4m3", w.Name, w.Type)
	}
	if w.Rows < 1 || w.Cols < 1 || len(w.Data) != w.Rows*w.Cols*w.Type.Size() {
		return fmt.Errorf("cpu: load %s: %d bytes for [%d, %d] %v", w.Name, len(w.Data), w.Rows, w.Cols, w.Type)
	}
	if w.Type != device.F8E4M3 {
		return nil
	}
	if n := blocks(w.Rows) * blocks(w.Cols); len(w.Scales) != n {
		return fmt.Errorf("cpu: load %s: %d scales for [%d, %d] in 128x128 blocks; want %d", w.Name, len(w.Scales), w.Rows, w.Cols, n)
	}
	for i, s := range w.Scales {
		if s != s || math.IsInf(float64(s), 0) {
			return fmt.Errorf("cpu: load %s: the scale of block %d is %v; is the checkpoint damaged?", w.Name, i, s)
		}
	}
	if i := findNaN(w.Data); i >= 0 {
		return fmt.Errorf("cpu: load %s: the weight at row %d, column %d is NaN; is the checkpoint damaged?", w.Name, i/w.Cols, i%w.Cols)
	}
	return nil
}

// findNaN returns the index of the first NaN among e4m3 codes, or −1.
func findNaN(codes []byte) int {
	const low, one, high = 0x7f7f7f7f7f7f7f7f, 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(codes); i += 8 {
		// Adding 1 to seven bits carries into the eighth if they are all set.
		if binary.LittleEndian.Uint64(codes[i:])&low+one&high != 0 {
			break
		}
	}
	for ; i < len(codes); i++ {
		if codes[i]&0x7f == 0x7f {
			return i
		}
	}
	return -1
}

func blocks(n int) int { return (n + kern.ScaleBlock - 1) / kern.ScaleBlock }

// fitsBF16 tells whether all values of w are bf16 values.
func fitsBF16(w device.MatrixSource) bool {
	switch w.Type {
	case device.BF16:
		return true
	case device.F8E4M3:
		// e4m3 has 4 significant bits; a power of two keeps them, if it leads
		// into no subnormals.
		for _, s := range w.Scales {
			if f, e := math.Frexp(float64(s)); f != 0.5 && s != 0 || e < -100 || e > 100 {
				return false
			}
		}
		return true
	}
	return false
}

// fitsF8 tells whether kern's f8 panels can hold w.
func fitsF8(w device.MatrixSource) bool {
	if w.Type != device.F8E4M3 {
		return false
	}
	for _, s := range w.Scales {
		if !(s >= 0 && s < 128) {
			return false
		}
	}
	return true
}

// chooseForm returns the narrowest form for parts that arithmetic allows. Types
// that no narrow form holds exactly become float32, or bf16 where arithmetic
// may round to it; except F16, which keeps its 11 bits.
func (d *Device) chooseForm(arithmetic device.DType, parts []device.MatrixSource) form {
	narrow := formBF16
	if arithmetic == device.BF16 && d.k.GemmBF16 != nil {
		narrow = formPair
	}
	f8, bf16 := true, true
	for _, p := range parts {
		f8 = f8 && fitsF8(p)
		bf16 = bf16 && (fitsBF16(p) || arithmetic == device.BF16 && p.Type != device.F16)
	}
	switch {
	case f8:
		return formF8
	case bf16:
		return narrow
	}
	return formF32
}

// stack is a matrix to pack: the rows of its parts, one part after the other, or
// with alternate their panels in turns (all parts have the same rows).
type stack struct {
	parts     []device.MatrixSource
	alternate bool
}

// layout returns the stack's packed matrix, without memory.
func (s *stack) layout(f form) (packed, error) {
	out, in := 0, s.parts[0].Cols
	for _, p := range s.parts {
		if p.Cols != in {
			return packed{}, fmt.Errorf("cpu: load %s: %d columns under %s with %d", p.Name, p.Cols, s.parts[0].Name, in)
		}
		if s.alternate {
			out += (p.Rows + kern.N - 1) / kern.N * kern.N
		} else {
			out += p.Rows
		}
	}
	return layout(f, out, in), nil
}

// fill packs panel j of w.
func (s *stack) fill(w *packed, j int) error {
	if s.alternate {
		p := s.parts[j%len(s.parts)]
		j0 := j / len(s.parts) * kern.N
		return w.fill(j, 0, p, j0, min(j0+kern.N, p.Rows))
	}
	top := 0 // output of the first row of the part
	for _, p := range s.parts {
		from, to := max(j*kern.N, top), min((j+1)*kern.N, top+p.Rows)
		if from < to {
			if err := w.fill(j, from-j*kern.N, p, from-top, to-top); err != nil {
				return err
			}
		}
		top += p.Rows
	}
	return nil
}

// pack checks and packs matrices into one block of memory.
func (d *Device) pack(arithmetic device.DType, matrices []stack) ([]packed, error) {
	if arithmetic != device.F32 && arithmetic != device.BF16 {
		panic(fmt.Sprintf("cpu: load: arithmetic in %v", arithmetic))
	}
	var sources []device.MatrixSource
	for _, m := range matrices {
		sources = append(sources, m.parts...)
	}
	errs := make([]error, len(sources))
	d.parallel(len(sources), func(_ *arena, i int) { errs[i] = checkSource(sources[i]) })
	if err := first(errs); err != nil {
		return nil, err
	}
	// Panels of all matrices are packed in one parallel loop.
	type panel struct{ matrix, index int }
	var todo []panel
	var size int64
	ws := make([]packed, len(matrices))
	for i := range matrices {
		w, err := matrices[i].layout(d.chooseForm(arithmetic, matrices[i].parts))
		if err != nil {
			return nil, err
		}
		ws[i] = w
		size += w.bytes()
		for j := range w.panels() {
			todo = append(todo, panel{i, j})
		}
	}
	mem, err := d.alloc(size)
	if err != nil {
		return nil, fmt.Errorf("cpu: load %s: %w", sources[0].Name, err)
	}
	rest := mem.data
	for i := range ws {
		rest = ws[i].place(rest)
	}
	errs = make([]error, len(todo))
	d.parallel(len(todo), func(_ *arena, i int) {
		errs[i] = matrices[todo[i].matrix].fill(&ws[todo[i].matrix], todo[i].index)
	})
	if err := first(errs); err != nil {
		mem.Free()
		return nil, fmt.Errorf("cpu: load: %w", err)
	}
	return ws, nil
}

func first(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// matrix implements device.Matrix.
type matrix struct{ packed }

func (m *matrix) Rows() int    { return m.out }
func (m *matrix) Cols() int    { return m.in }
func (m *matrix) Bytes() int64 { return m.bytes() }

// LoadMatrix implements device.Device.
func (d *Device) LoadMatrix(arithmetic device.DType, parts ...device.MatrixSource) (device.Matrix, error) {
	if len(parts) == 0 {
		return nil, errors.New("cpu: load: a matrix without parts")
	}
	ws, err := d.pack(arithmetic, []stack{{parts: parts}})
	if err != nil {
		return nil, err
	}
	return &matrix{ws[0]}, nil
}

// words views floats as 32-bit words.
func words(f []float32) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(f))), len(f))
}
