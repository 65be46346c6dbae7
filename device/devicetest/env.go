package devicetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"latent/device"
)

// env is what a check works with: the device, its random numbers and the
// configuration it runs for.
type env struct {
	dev         device.Device
	rng         *rand.Rand
	arithmetic  device.DType
	act         device.DType // type of activation tensors
	tolerance   float64
	f8Tolerance float64 // of products with FP8 weights
	format      device.CacheFormat
	opaque      bool // see Options.OpaqueIndexQuery
	free        []interface{ Free() }
}

// failure is an error that ends a check from within a helper; [Check.Run]
// recovers it.
type failure struct{ error }

// must ends the check if err is not nil.
func must[T any](v T, err error) T {
	if err != nil {
		panic(failure{err})
	}
	return v
}

// release frees what the check allocated.
func (e *env) release() {
	for _, f := range e.free {
		f.Free()
	}
}

// buffer is a tensor between two guard rows of the same memory. Everything
// that has not been written holds a NaN pattern.
type buffer struct {
	device.Tensor
	e     *env
	whole device.Tensor
}

// poison is the pattern of memory that nothing has written: NaN in every
// floating point type, and no value that an operation stores.
func poison(t device.DType) []byte {
	switch t.Size() {
	case 4:
		return []byte{0xad, 0xde, 0xc5, 0x7f}
	case 2:
		return []byte{0xde, 0x7f}
	}
	return []byte{0x7f}
}

// alloc makes a poisoned tensor.
func (e *env) alloc(t device.DType, rows, cols int) buffer {
	bytesAll := int64(rows+2) * int64(cols) * int64(t.Size())
	mem := must(e.dev.Alloc(bytesAll))
	e.free = append(e.free, mem)
	whole := device.Tensor{Type: t, Rows: rows + 2, Cols: cols, Mem: mem}
	e.dev.Upload(whole, bytes.Repeat(poison(t), (rows+2)*cols))
	return buffer{whole.Slice(1, rows+1), e, whole}
}

// tensor makes a tensor that holds values, rounded to t.
func (e *env) tensor(t device.DType, cols int, values []float64) buffer {
	b := e.alloc(t, len(values)/cols, cols)
	b.fill(values)
	return b
}

// ints makes an I32 tensor.
func (e *env) ints(cols int, values []int32) buffer {
	b := e.alloc(device.I32, len(values)/cols, cols)
	data := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(data[4*i:], uint32(v))
	}
	e.dev.Upload(b.Tensor, data)
	return b
}

// fill writes values to the whole tensor.
func (b buffer) fill(values []float64) {
	b.e.dev.Upload(b.Tensor, encode(b.Type, values))
}

// poison makes the tensor as new.
func (b buffer) poison() {
	b.e.dev.Upload(b.Tensor, bytes.Repeat(poison(b.Type), b.Rows*b.Cols))
}

// raw reads the tensor back and checks that its guard rows are untouched.
func (b buffer) raw() []byte {
	data := make([]byte, b.whole.Bytes())
	if err := b.e.dev.Download(data, b.whole); err != nil {
		panic(failure{fmt.Errorf("download: %w", err)})
	}
	row := b.Cols * b.Type.Size()
	guard := bytes.Repeat(poison(b.Type), b.Cols)
	if !bytes.Equal(data[:row], guard) || !bytes.Equal(data[len(data)-row:], guard) {
		panic(failure{fmt.Errorf("memory around a [%d, %d] %v tensor was written", b.Rows, b.Cols, b.Type)})
	}
	return data[row : len(data)-row]
}

// read returns the elements.
func (b buffer) read() []float64 {
	data := b.raw()
	values := make([]float64, b.Rows*b.Cols)
	for i := range values {
		switch b.Type {
		case device.F32:
			values[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
		case device.BF16:
			values[i] = float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(data[2*i:])) << 16))
		case device.I32:
			values[i] = float64(int32(binary.LittleEndian.Uint32(data[4*i:])))
		default:
			panic("devicetest: no reading of " + b.Type.String())
		}
	}
	return values
}

// untouched checks that the rows r with skipped(r) still hold poison.
func (b buffer) untouched(what string, skipped func(r int) bool) error {
	data := b.raw()
	row := b.Cols * b.Type.Size()
	want := bytes.Repeat(poison(b.Type), b.Cols)
	for r := range b.Rows {
		if skipped(r) && !bytes.Equal(data[r*row:(r+1)*row], want) {
			return fmt.Errorf("%s: row %d belongs to no run and was written", what, r)
		}
	}
	return nil
}

// toleranceOf returns what the products with weights stored in type t are
// allowed.
func (e *env) toleranceOf(t device.DType) float64 {
	if t == device.F8E4M3 {
		return e.f8Tolerance
	}
	return e.tolerance
}

// encode stores values as little-endian elements of type t, which must be able
// to hold them exactly or is rounded to.
func encode(t device.DType, values []float64) []byte {
	data := make([]byte, 0, len(values)*t.Size())
	for _, v := range values {
		switch t {
		case device.F32:
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(v)))
		case device.BF16:
			data = binary.LittleEndian.AppendUint16(data, uint16(math.Float32bits(float32(roundBF16(v)))>>16))
		case device.F16:
			data = binary.LittleEndian.AppendUint16(data, encodeF16(v))
		default:
			panic("devicetest: no encoding of " + t.String())
		}
	}
	return data
}

// encodeF16 stores a number smaller than 65504 as float16.
func encodeF16(v float64) uint16 {
	sign := uint16(0)
	if math.Signbit(v) {
		sign, v = 0x8000, -v
	}
	v = roundTo(v, 10, -14)
	if v < 0x1p-14 {
		return sign | uint16(v*0x1p24)
	}
	f, e := math.Frexp(v)
	return sign | uint16(e+14)<<10 | uint16((2*f-1)*1024)
}

// normal draws n normal numbers with standard deviation sigma, rounded to t.
func (e *env) normal(t device.DType, n int, sigma float64) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = roundType(t, e.rng.NormFloat64()*sigma)
	}
	return v
}

// between draws a number in [from, to].
func (e *env) between(from, to int) int { return from + e.rng.IntN(to-from+1) }

// pick draws one of values.
func pick[T any](e *env, values ...T) T { return values[e.rng.IntN(len(values))] }

// clearly draws with draw until it reports that float32 arithmetic cannot round
// the drawn values differently from float64.
func clearly[T any](draw func() (T, bool)) T {
	for range 10000 {
		if v, ok := draw(); ok {
			return v
		}
	}
	panic("devicetest: no input with a clear rounding found")
}

// compare checks got [·, cols] against want: every error is at most tolerance
// times the size of the element and of its terms.
func (e *env) compare(what string, got, want, mag []float64, cols int) error {
	return compareWithin(what, got, want, mag, cols, func(int) float64 { return e.tolerance })
}

// compareWithin compares with a tolerance for each column.
func compareWithin(what string, got, want, mag []float64, cols int, tolerance func(col int) float64) error {
	worst, at := 1.0, -1
	for i := range want {
		if got[i] == want[i] {
			continue // also for ±Inf
		}
		ratio := math.Abs(got[i]-want[i]) / (tolerance(i%cols) * (math.Abs(want[i]) + mag[i]))
		if math.IsNaN(ratio) {
			ratio = math.Inf(1)
		}
		if ratio > worst {
			worst, at = ratio, i
		}
	}
	if at < 0 {
		return nil
	}
	return fmt.Errorf("%s: row %d column %d is %g, want %g; the error is %.3g times the allowed one",
		what, at/cols, at%cols, got[at], want[at], worst)
}

// same checks that got [·, cols] equals want exactly; NaN equals NaN.
func same(what string, got, want []float64, cols int) error {
	for i := range want {
		if got[i] != want[i] && !(math.IsNaN(got[i]) && math.IsNaN(want[i])) {
			return fmt.Errorf("%s: row %d column %d is %g, want exactly %g", what, i/cols, i%cols, got[i], want[i])
		}
	}
	return nil
}
