package kern

import (
	"fmt"
	"unsafe"
)

// checkLen guards the memory that assembly touches.
func checkLen(name string, have, need int) {
	if have < need {
		panicLen(name, have, need)
	}
}

//go:noinline
func panicLen(name string, have, need int) {
	panic(fmt.Sprintf("kern: %s has %d elements, needs %d", name, have, need))
}

// offset returns the address of element i of an array at p.
func offset[T any](p *T, i int) *T {
	return (*T)(unsafe.Add(unsafe.Pointer(p), i*int(unsafe.Sizeof(*p))))
}
