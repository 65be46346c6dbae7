package device

import "fmt"

// DType is the type of the elements of a tensor or a weight.
type DType uint8

// The element types. F8E4M3 is the "fn" variant: no infinities, largest
// magnitude 448.
const (
	Invalid DType = iota
	F32
	BF16
	F16
	F8E4M3
	I32
	U32
)

// Size returns the size of one element in bytes.
func (t DType) Size() int {
	switch t {
	case F32, I32, U32:
		return 4
	case BF16, F16:
		return 2
	case F8E4M3:
		return 1
	}
	panic(fmt.Sprintf("device: size of %v", t))
}

func (t DType) String() string {
	switch t {
	case F32:
		return "float32"
	case BF16:
		return "bfloat16"
	case F16:
		return "float16"
	case F8E4M3:
		return "fp8_e4m3"
	case I32:
		return "int32"
	case U32:
		return "uint32"
	}
	return fmt.Sprintf("DType(%d)", uint8(t))
}

// Memory is a block of device memory. It belongs to the device that made it
// and is understood by that device only.
type Memory interface {
	// Bytes returns the size of the block.
	Bytes() int64
	// Free gives the block back. Using it afterwards is a bug. On a CPU this
	// may leave the work to the garbage collector.
	Free()
}

// Tensor is a row-major view of device memory: Rows x Cols elements, rows
// following one another without gaps.
type Tensor struct {
	Type       DType
	Rows, Cols int
	Mem        Memory
	Offset     int64 // bytes from the start of Mem to the first element
}

// Bytes returns the size of the view in bytes.
func (t Tensor) Bytes() int64 { return int64(t.Rows) * int64(t.Cols) * int64(t.Type.Size()) }

// Slice returns rows [from, to) of t, sharing its memory.
func (t Tensor) Slice(from, to int) Tensor {
	if from < 0 || to < from || to > t.Rows {
		panic(fmt.Sprintf("device: slice [%d:%d) of a tensor with %d rows", from, to, t.Rows))
	}
	t.Offset += int64(from) * int64(t.Cols) * int64(t.Type.Size())
	t.Rows = to - from
	return t
}

// Reshape returns the elements of t as rows x cols.
func (t Tensor) Reshape(rows, cols int) Tensor {
	if rows*cols != t.Rows*t.Cols {
		panic(fmt.Sprintf("device: reshape [%d, %d] to [%d, %d]", t.Rows, t.Cols, rows, cols))
	}
	t.Rows, t.Cols = rows, cols
	return t
}
