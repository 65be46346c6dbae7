package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

// memory is a block of device memory, 256-byte aligned.
type memory struct {
	dev   *Device
	addr  driver.Ptr
	bytes int64
}

func (m *memory) Bytes() int64 { return m.bytes }

// Free implements device.Memory: it takes effect after what was queued before.
func (m *memory) Free() {
	if m.addr == 0 {
		return
	}
	m.dev.exec.Free(m.addr)
	delete(m.dev.live, m)
	m.addr, m.bytes = 0, 0
}

func (d *Device) alloc(bytes int64) (*memory, error) {
	if bytes < 0 {
		panic(fmt.Sprintf("cuda: Alloc: %d bytes", bytes))
	}
	addr, err := d.exec.Alloc(max(bytes, 1))
	if err != nil {
		free, total, infoErr := d.exec.MemInfo()
		if infoErr != nil {
			return nil, fmt.Errorf("cuda: allocate %d MiB: %w", bytes>>20, err)
		}
		return nil, fmt.Errorf("cuda: allocate %d MiB with %d of %d MiB free: %w", bytes>>20, free>>20, total>>20, err)
	}
	m := &memory{dev: d, addr: addr, bytes: bytes}
	d.live[m] = struct{}{}
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
	if int64(len(src)) != dst.Bytes() {
		panic(fmt.Sprintf("cuda: Upload: %d bytes to %s", len(src), shape(dst)))
	}
	if d.err == nil && len(src) > 0 {
		d.exec.UploadBytes(ptr(dst), src)
	}
}

// Download implements device.Device.
func (d *Device) Download(dst []byte, src device.Tensor) error {
	if int64(len(dst)) != src.Bytes() {
		panic(fmt.Sprintf("cuda: Download: %s to %d bytes", shape(src), len(dst)))
	}
	if d.err != nil {
		return d.Sync()
	}
	if len(dst) == 0 {
		return nil
	}
	return d.exec.Download(dst, ptr(src))
}

// ptr returns the address of a tensor's first element.
func ptr(t device.Tensor) driver.Ptr {
	m, ok := t.Mem.(*memory)
	if !ok {
		panic(fmt.Sprintf("cuda: tensor %s in memory of another device (%T)", shape(t), t.Mem))
	}
	if t.Offset < 0 || t.Offset+t.Bytes() > m.bytes {
		panic(fmt.Sprintf("cuda: tensor %s at %d in %d bytes of memory", shape(t), t.Offset, m.bytes))
	}
	return m.addr + driver.Ptr(t.Offset)
}

// shape names type and shape of a tensor in messages.
func shape(t device.Tensor) string { return fmt.Sprintf("%v [%d, %d]", t.Type, t.Rows, t.Cols) }

// want panics unless t has the type and shape.
func want(op, name string, t device.Tensor, typ device.DType, rows, cols int) {
	if t.Type != typ || t.Rows != rows || t.Cols != cols {
		panic(fmt.Sprintf("cuda: %s: %s is %s, want %v [%d, %d]", op, name, shape(t), typ, rows, cols))
	}
}

// scratch returns memory of the backend itself for an operation: at least
// bytes, kept under its name until the next call with that name. It grows only.
// What was in it is lost when it grows. On failure it returns 0 and Sync will
// tell.
func (d *Device) scratch(name string, bytes int64) driver.Ptr {
	m := d.scratches[name]
	if m != nil && m.bytes >= bytes {
		return m.addr
	}
	if m != nil {
		m.Free()
		delete(d.scratches, name)
	}
	m, err := d.alloc(bytes)
	if err != nil {
		d.fail(fmt.Errorf("cuda: scratch for %s: %w", name, err))
		return 0
	}
	d.scratches[name] = m
	d.moved++
	return m.addr
}

// ScratchBytes returns how much memory operations have taken for themselves.
func (d *Device) ScratchBytes() int64 {
	n := int64(0)
	for _, m := range d.scratches {
		n += m.bytes
	}
	return n + d.geometry.bytes()
}
