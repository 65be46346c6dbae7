package driver

import (
	"errors"
	"fmt"
	"unsafe"
)

// Alloc returns n bytes of device memory, uninitialised, at a multiple of 256.
// Of 0 bytes the address is 0.
func (e *Executor) Alloc(n int64) (Ptr, error) {
	if n == 0 {
		return 0, nil
	}
	var p Ptr
	err := e.ask(opAlways, func() error {
		if e.lost != nil {
			return e.lost
		}
		var r result
		p, r = e.api.alloc(n)
		return e.api.check("cuMemAlloc", fmt.Sprintf("%d bytes", n), r)
	})
	return p, err
}

// Free gives memory back after everything queued before; it waits for that on
// the device.
func (e *Executor) Free(p Ptr) {
	if p == 0 {
		return
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	e.next(opFree).dst = p
	e.publish()
}

// MemInfo returns what the device has left and what it has in all, in bytes.
func (e *Executor) MemInfo() (free, total int64, err error) {
	err = e.ask(opAlways, func() error {
		var r result
		free, total, r = e.api.memInfo()
		return e.api.check("cuMemGetInfo", "", r)
	})
	return free, total, err
}

// Pinned is host memory that the device copies from at full speed.
type Pinned struct {
	executor *Executor
	bytes    []byte
}

// AllocPinned returns n bytes of pinned memory.
func (e *Executor) AllocPinned(n int64) (*Pinned, error) {
	p := &Pinned{executor: e}
	if n == 0 {
		return p, nil
	}
	err := e.ask(opAlways, func() error {
		memory, r := e.api.allocHost(n)
		if r == success {
			p.bytes = unsafe.Slice((*byte)(memory), n)
		}
		return e.api.check("cuMemHostAlloc", fmt.Sprintf("%d bytes", n), r)
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Bytes is the memory.
func (p *Pinned) Bytes() []byte { return p.bytes }

// Free gives the memory back after everything queued before is done; Bytes must
// not be used any more.
func (p *Pinned) Free() {
	if len(p.bytes) == 0 {
		return
	}
	e, memory := p.executor, unsafe.Pointer(&p.bytes[0])
	p.bytes = nil
	e.cleanup(func() error {
		r := e.api.syncStream(e.stream) // the device may still be reading
		if r == success {
			r = e.api.freeHost(memory)
		}
		return e.api.check("cuMemFreeHost", "", r)
	})
}

// Upload queues a copy of n bytes of src from offset. They must not change
// until it is done: see Record and WaitEvent.
func (e *Executor) Upload(dst Ptr, src *Pinned, offset, n int64) {
	if n == 0 {
		return
	}
	e.copyIn(dst, src.bytes[offset:offset+n])
}

// copyIn queues a copy from pinned memory.
func (e *Executor) copyIn(dst Ptr, src []byte) {
	c := e.slot(opCopyIn)
	c.dst, c.host, c.n = dst, unsafe.Pointer(unsafe.SliceData(src)), int64(len(src))
	e.publish()
}

// Copy queues a copy of n bytes within the device's memory. The two places must
// not overlap.
func (e *Executor) Copy(dst, src Ptr, n int64) {
	if n == 0 {
		return
	}
	c := e.slot(opCopyOver)
	c.dst, c.src, c.n = dst, src, n
	e.publish()
}

// Fill queues setting n bytes to a value.
func (e *Executor) Fill(dst Ptr, value byte, n int64) {
	if n == 0 {
		return
	}
	c := e.slot(opFill)
	c.dst, c.value, c.n = dst, value, n
	e.publish()
}

// Download waits for everything queued, and copies len(dst) bytes from src. It
// returns the first error since the last Sync; one of an earlier command stays
// for Sync.
func (e *Executor) Download(dst []byte, src Ptr) error {
	if err := e.notCapturing("Download"); err != nil || len(dst) == 0 {
		return err
	}
	if err := e.Do(nothing); err != nil {
		return err
	}
	// To wait first makes the copy short, which blocks the thread in any case.
	return e.await("cuMemcpyDtoHAsync", fmt.Sprintf("%d bytes from %#x", len(dst), src), func() result {
		r := e.api.syncStream(e.stream)
		if r == success {
			r = e.api.copyOut(unsafe.Pointer(&dst[0]), src, int64(len(dst)), e.stream)
		}
		if r == success {
			r = e.api.syncStream(e.stream)
		}
		return r
	})
}

// errCapturedUpload is what UploadBytes leaves for Sync inside of a capture.
var errCapturedUpload = errors.New("driver: UploadBytes cannot be captured in a graph: its source would be read again at every launch")
