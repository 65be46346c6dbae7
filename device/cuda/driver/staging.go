package driver

import (
	"sync"
	"unsafe"
)

// stagingBytes is the size of one of the two buffers that UploadBytes copies
// through. A copy of 16 MiB takes the device about 0.3 ms, beside which waking
// the executor does not count.
const stagingBytes = 16 << 20

// stagingCopiers bounds the goroutines that copy into a buffer: one copies at
// 7 GB/s, 4 at 23 and 8 at 37, and the device reads at 55 (H200, 16 cores).
const stagingCopiers = 8

// staging is pinned memory that UploadBytes copies through, used as a ring of two
// halves: uploads fill a half one after another, and only on the way to the
// other half is the device waited for, until it has read what that held. So
// small uploads of a step wait for nothing, and in a long one copying into one
// half overlaps the device's reading of the other.
type staging struct {
	mu     sync.Mutex // held through UploadBytes
	halves [2][]byte
	read   [2]uintptr // events: the device has read the half
	memory unsafe.Pointer
	half   int // being filled
	used   int // bytes of it
}

// UploadBytes copies src to dst. It returns when src may be used again, which
// is before the copy is done on the device. An error sticks.
func (e *Executor) UploadBytes(dst Ptr, src []byte) {
	s := &e.staging
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.notCapturing("UploadBytes") != nil {
		e.Enqueue(func(uintptr) error { return errCapturedUpload })
		return
	}
	if len(src) > 0 && s.memory == nil && e.Do(func() error { return e.openStaging() }) != nil {
		return // Do left the error for Sync
	}
	for len(src) > 0 {
		if s.used == stagingBytes && e.Do(func() error { return e.turnStaging() }) != nil {
			return
		}
		n := min(len(src), stagingBytes-s.used)
		buffer := s.halves[s.half][s.used : s.used+n]
		copyParallel(buffer, src[:n], stagingCopiers)
		e.copyIn(dst, buffer)
		s.used = min(stagingBytes, (s.used+n+255)&^255)
		dst, src = dst+Ptr(n), src[n:]
	}
}

// openStaging allocates the buffers. It runs on the executor's thread, as do
// turnStaging and free.
func (e *Executor) openStaging() error {
	s := &e.staging
	memory, r := e.api.allocHost(2 * stagingBytes)
	if r != success {
		e.fail("cuMemHostAlloc", "to upload through", r)
		return e.err
	}
	for i := range s.read {
		if s.read[i], r = e.api.createEvent(); r != success {
			e.fail("cuEventCreate", "", r)
			e.api.freeHost(memory)
			return e.err
		}
	}
	s.memory = memory
	all := unsafe.Slice((*byte)(memory), 2*stagingBytes)
	s.halves = [2][]byte{all[:stagingBytes:stagingBytes], all[stagingBytes:]}
	return nil
}

// turnStaging goes on to the other half, and waits until it has been read. An
// event that was never recorded is done.
func (e *Executor) turnStaging() error {
	s := &e.staging
	if r := e.api.recordEvent(s.read[s.half], e.stream); r != success {
		e.fail("cuEventRecord", "", r)
		return e.err
	}
	if r := e.api.syncEvent(s.read[1-s.half]); r != success {
		e.fail("cuEventSynchronize", "", r)
		return e.err
	}
	s.half, s.used = 1-s.half, 0
	return nil
}

// free gives everything back; nothing is being copied any more.
func (s *staging) free(a *api) {
	if s.memory == nil {
		return
	}
	a.freeHost(s.memory)
	for _, event := range s.read {
		a.destroyEvent(event)
	}
	*s = staging{}
}

// copyParallel is copy, by up to copiers goroutines where that pays.
func copyParallel(dst, src []byte, copiers int) {
	const least = 256 << 10 // bytes for each goroutine
	parts := min(copiers, len(src)/least)
	if parts < 2 {
		copy(dst, src)
		return
	}
	var wg sync.WaitGroup
	for i := range parts {
		from, to := len(src)*i/parts, len(src)*(i+1)/parts
		wg.Go(func() { copy(dst[from:to], src[from:to]) })
	}
	wg.Wait()
}
