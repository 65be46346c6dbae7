package driver

import (
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"unsafe"
)

// TensorMap describes a tensor in device memory to the GPU's copy engine: a
// CUtensorMap. Kernels take it inside of their parameter, at a multiple of 64
// bytes.
type TensorMap struct{ Opaque [16]uint64 }

// MapType is the type of a tensor's elements, numbered as in cuda.h.
type MapType int

// The types in use. Map8 is any of one byte, as e4m3.
const (
	Map8    MapType = 0
	MapI32  MapType = 3
	MapF32  MapType = 7
	MapBF16 MapType = 9
)

// Bytes is the size of an element, 0 for an unknown type.
func (t MapType) Bytes() int {
	switch t {
	case Map8:
		return 1
	case MapBF16:
		return 2
	case MapI32, MapF32:
		return 4
	}
	return 0
}

// TensorMapSpec is what a TensorMap says. Elements outside of the tensor are
// read as zeros and not written; L2 is filled by 256 bytes.
type TensorMapSpec struct {
	Type    MapType
	Base    Ptr      // a multiple of 16
	Dims    []uint64 // elements, innermost first; up to 5
	Strides []uint64 // bytes, of all dimensions but the innermost; multiples of 16
	Box     []uint32 // elements copied at once, up to 256 in each dimension
	Swizzle int      // of shared memory: 0, 32, 64 or 128 bytes
}

// check returns the first rule of cuTensorMapEncodeTiled that m breaks.
func (m *TensorMapSpec) check() error {
	size := m.Type.Bytes()
	switch {
	case size == 0:
		return fmt.Errorf("its type is %d, which is none", m.Type)
	case m.Base == 0 || m.Base%16 != 0:
		return fmt.Errorf("its base is %#x, which must be a multiple of 16 bytes", m.Base)
	case len(m.Dims) < 1 || len(m.Dims) > 5:
		return fmt.Errorf("it has %d dimensions, which must be 1 to 5", len(m.Dims))
	case len(m.Strides) != len(m.Dims)-1:
		return fmt.Errorf("it has %d strides for %d dimensions: the innermost has none", len(m.Strides), len(m.Dims))
	case len(m.Box) != len(m.Dims):
		return fmt.Errorf("its box has %d sides for %d dimensions", len(m.Box), len(m.Dims))
	case m.Swizzle != 0 && m.Swizzle != 32 && m.Swizzle != 64 && m.Swizzle != 128:
		return fmt.Errorf("its swizzle is %d bytes, which must be 0, 32, 64 or 128", m.Swizzle)
	}
	for i, d := range m.Dims {
		if d < 1 || d > 1<<32 {
			return fmt.Errorf("dimension %d is %d, which must be 1 to 2^32", i, d)
		}
	}
	for i, s := range m.Strides {
		if s%16 != 0 || s == 0 || s >= 1<<40 {
			return fmt.Errorf("the stride of dimension %d is %d bytes, which must be a multiple of 16 below 2^40", i+1, s)
		}
	}
	for i, b := range m.Box {
		if b < 1 || b > 256 {
			return fmt.Errorf("side %d of its box is %d, which must be 1 to 256", i, b)
		}
	}
	inner := int(m.Box[0]) * size
	switch {
	case inner%16 != 0:
		return fmt.Errorf("the inner side of its box is %d bytes, which must be a multiple of 16", inner)
	case m.Swizzle != 0 && inner > m.Swizzle:
		return fmt.Errorf("the inner side of its box is %d bytes, which must not exceed the swizzle of %d", inner, m.Swizzle)
	}
	return nil
}

// EncodeTensorMap makes a TensorMap. It may be called from any goroutine while
// c has an executor: the call is the host's alone, but CUDA wants a context for
// it. A map that breaks a rule of the hardware gives an error that names it.
func EncodeTensorMap(c *CUDA, m TensorMapSpec) (TensorMap, error) {
	if err := m.check(); err != nil {
		return TensorMap{}, fmt.Errorf("driver: tensor map %+v: %w", m, err)
	}
	encoded, r := c.mapping.encode(&m)
	if r != success {
		return TensorMap{}, c.api.check("cuTensorMapEncodeTiled", fmt.Sprintf("%+v", m), r)
	}
	return encoded, nil
}

// mapping makes tensor maps.
type mapping struct {
	functions mappingFunctions
	encoders  sync.Pool // of *encoder

	// Contexts of executors. It is locked for writing while one is taken out, so
	// that none goes away in use.
	mu       sync.RWMutex
	contexts []uintptr
}

type mappingFunctions struct{ encode, getContext, setContext uintptr }

func (p *mapping) bind(b *binder) {
	p.functions = mappingFunctions{b.symbol("cuTensorMapEncodeTiled"), b.symbol("cuCtxGetCurrent"), b.symbol("cuCtxSetCurrent")}
}

func (c *CUDA) addContext(context uintptr) {
	c.mapping.mu.Lock()
	defer c.mapping.mu.Unlock()
	c.mapping.contexts = append(c.mapping.contexts, context)
}

func (c *CUDA) removeContext(context uintptr) {
	c.mapping.mu.Lock()
	defer c.mapping.mu.Unlock()
	p := &c.mapping
	i := slices.Index(p.contexts, context)
	p.contexts = slices.Delete(p.contexts, i, i+1)
}

// encoder is memory for the arguments of cuTensorMapEncodeTiled and what they
// point to. It is always on the heap.
type encoder struct {
	memory                         [2 * unsafe.Sizeof(TensorMap{})]byte // holds a map at a multiple of 64
	dims                           [5]uint64
	strides                        [4]uint64
	box                            [5]uint32
	steps                          [5]uint32 // between elements of the box
	context                        uintptr
	encode, getContext, setContext routine
}

// encode makes a map with the thread's context, or else with one of an
// executor, which is not left to the thread.
func (p *mapping) encode(m *TensorMapSpec) (TensorMap, result) {
	const notInitialised, interleaveNone, promote256, zeros = 3, 0, 3, 0
	swizzle := uintptr(bits.Len(uint(m.Swizzle / 32))) // as cuda.h numbers them: 0, 1, 2, 3
	e, _ := p.encoders.Get().(*encoder)
	if e == nil {
		e = &encoder{steps: [5]uint32{1, 1, 1, 1, 1}}
		e.encode.function, e.getContext.function, e.setContext.function = p.functions.encode, p.functions.getContext, p.functions.setContext
	}
	defer p.encoders.Put(e)
	copy(e.dims[:], m.Dims)
	copy(e.strides[:], m.Strides)
	copy(e.box[:], m.Box)
	out := (*TensorMap)(unsafe.Pointer(&e.memory[-uintptr(unsafe.Pointer(&e.memory))%64]))
	e.encode.args = [16]uintptr{
		uintptr(unsafe.Pointer(out)), uintptr(m.Type), uintptr(len(m.Dims)), uintptr(m.Base),
		uintptr(unsafe.Pointer(&e.dims)), uintptr(unsafe.Pointer(&e.strides)), uintptr(unsafe.Pointer(&e.box)), uintptr(unsafe.Pointer(&e.steps)),
		interleaveNone, swizzle, promote256, zeros,
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	e.getContext.args[0] = uintptr(unsafe.Pointer(&e.context))
	if r := result(e.getContext.call(1)); r != success {
		return TensorMap{}, r
	}
	if e.context == 0 {
		p.mu.RLock()
		defer p.mu.RUnlock()
		if len(p.contexts) == 0 {
			return TensorMap{}, notInitialised
		}
		e.setContext.args[0] = p.contexts[0]
		if r := result(e.setContext.call(1)); r != success {
			return TensorMap{}, r
		}
		e.setContext.args[0] = 0
		defer e.setContext.call(1)
	}
	r := result(e.encode.call(12))
	return *out, r
}
