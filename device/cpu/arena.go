package cpu

import "unsafe"

// arena hands out scratch memory that lives until the next reset. It grows to
// what its users needed at most between two resets, so that steady use does not
// allocate. Memory is 64-byte aligned and not cleared.
type arena struct {
	buf  []float32
	used int
}

// reset takes everything back.
func (a *arena) reset() {
	if a.used > len(a.buf) {
		a.buf = alignedFloats(a.used)
	}
	a.used = 0
}

// floats returns n floats.
func (a *arena) floats(n int) []float32 {
	from := a.used
	a.used += (n + 15) &^ 15
	if a.used > len(a.buf) {
		return alignedFloats(n)
	}
	return a.buf[from : from+n : from+n]
}

// ints returns n 32-bit integers.
func (a *arena) ints(n int) []int32 {
	f := a.floats(n)
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(f))), n)
}

// alignedFloats allocates n floats at a multiple of 64 bytes.
func alignedFloats(n int) []float32 {
	b := alignedBytes(4 * int64(n))
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// alignedBytes allocates n bytes of garbage-collected memory at a multiple of
// 64 bytes.
func alignedBytes(n int64) []byte {
	b := make([]byte, n+63)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & 63
	return b[skip : int64(skip)+n : int64(skip)+n]
}
