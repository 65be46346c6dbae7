package cpu

import (
	"fmt"
	"unsafe"

	"latent/device"
)

// mapFrom is the size from which memory is mapped from the system instead of
// taken from the Go heap: such blocks profit from huge pages, and giving them
// back does not wait for the garbage collector.
const mapFrom = 4 << 20

// memory is a block of memory owned by a Device, 64-byte aligned.
type memory struct {
	dev    *Device
	data   []byte
	mapped bool
}

func (m *memory) Bytes() int64 { return int64(len(m.data)) }

func (m *memory) Free() {
	if m.data == nil {
		return
	}
	if m.mapped {
		unmapMemory(m.data)
		delete(m.dev.mapped, m)
	}
	m.data = nil
}

// alloc returns a block of zeroed memory.
func (d *Device) alloc(bytes int64) (*memory, error) {
	if bytes < 0 {
		panic(fmt.Sprintf("cpu: Alloc: %d bytes", bytes))
	}
	if bytes < mapFrom {
		return &memory{dev: d, data: alignedBytes(bytes)}, nil
	}
	data, mapped, err := mapMemory(bytes)
	if err != nil {
		return nil, fmt.Errorf("cpu: allocate %d MiB: %w", bytes>>20, err)
	}
	m := &memory{dev: d, data: data, mapped: mapped}
	if mapped {
		d.mapped[m] = struct{}{}
	}
	return m, nil
}

// Alloc implements device.Device.
func (d *Device) Alloc(bytes int64) (device.Memory, error) {
	m, err := d.alloc(bytes)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Upload implements device.Device.
func (d *Device) Upload(dst device.Tensor, src []byte) {
	b := tensorBytes("Upload", "dst", dst)
	if len(b) != len(src) {
		panic(fmt.Sprintf("cpu: Upload: %d bytes to %s", len(src), shape(dst)))
	}
	copy(b, src)
}

// Download implements device.Device.
func (d *Device) Download(dst []byte, src device.Tensor) error {
	b := tensorBytes("Download", "src", src)
	if len(b) != len(dst) {
		panic(fmt.Sprintf("cpu: Download: %s to %d bytes", shape(src), len(dst)))
	}
	copy(dst, b)
	return nil
}

// shape formats the type and shape of a tensor for messages.
func shape(t device.Tensor) string { return fmt.Sprintf("%v [%d, %d]", t.Type, t.Rows, t.Cols) }

// tensorBytes returns the elements of t as bytes.
func tensorBytes(op, name string, t device.Tensor) []byte {
	m, ok := t.Mem.(*memory)
	if !ok {
		panic(fmt.Sprintf("cpu: %s: %s %s is not in this device's memory (%T)", op, name, shape(t), t.Mem))
	}
	n := t.Bytes()
	if t.Offset < 0 || n < 0 || t.Offset+n > int64(len(m.data)) {
		panic(fmt.Sprintf("cpu: %s: %s %s at %d exceeds its memory of %d bytes", op, name, shape(t), t.Offset, len(m.data)))
	}
	return m.data[t.Offset : t.Offset+n : t.Offset+n]
}

// floats returns the elements of an F32 tensor.
func floats(op, name string, t device.Tensor) []float32 {
	if t.Type != device.F32 {
		panic(fmt.Sprintf("cpu: %s: %s is %s, want float32", op, name, shape(t)))
	}
	return cast[float32](tensorBytes(op, name, t))
}

// ints returns the elements of an I32 tensor.
func ints(op, name string, t device.Tensor) []int32 {
	if t.Type != device.I32 {
		panic(fmt.Sprintf("cpu: %s: %s is %s, want int32", op, name, shape(t)))
	}
	return cast[int32](tensorBytes(op, name, t))
}

// cast views bytes as values of T; the bytes must be aligned for it.
func cast[T float32 | int32 | uint16 | uint64](b []byte) []T {
	var zero T
	size := int(unsafe.Sizeof(zero))
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)%uintptr(size) != 0 {
		panic(fmt.Sprintf("cpu: memory at %p is not aligned to %d bytes", p, size))
	}
	return unsafe.Slice((*T)(p), len(b)/size)
}

// wantShape panics unless t is rows x cols.
func wantShape(op, name string, t device.Tensor, rows, cols int) {
	if t.Rows != rows || t.Cols != cols {
		panic(fmt.Sprintf("cpu: %s: %s is %s, want [%d, %d]", op, name, shape(t), rows, cols))
	}
}
