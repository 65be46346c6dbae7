//go:build !linux

package cpu

// mapMemory takes memory from the Go heap.
func mapMemory(size int64) (data []byte, mapped bool, err error) {
	return alignedBytes(size), false, nil
}

// unmapMemory is never called: nothing is mapped.
func unmapMemory([]byte) {}

// machine returns the processor's name and the bytes of memory, as far as known.
func machine() (name string, memory int64) { return "", 0 }
