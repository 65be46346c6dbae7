package cuda

import (
	"fmt"
	"unsafe"

	"latent/device/cuda/driver"
)

// kernelName is an entry point of a unit.
type kernelName struct{ unit, entry string }

// kernel returns an entry point of a unit. That it exists is a matter of the
// embedded sources, so a missing one is a bug.
func (d *Device) kernel(unit, entry string) *driver.Function {
	name := kernelName{unit, entry}
	if f := d.kernels[name]; f != nil {
		return f
	}
	m := d.modules[unit]
	if m == nil {
		panic(fmt.Sprintf("cuda: no unit %s of kernels", unit))
	}
	f, err := m.Function(entry)
	if err != nil {
		panic(fmt.Sprintf("cuda: kernel %s of unit %s: %v", entry, unit, err))
	}
	d.kernels[name] = f
	return f
}

// launch queues a kernel with its parameter struct, which is copied. An empty
// grid is no launch.
func launch[P any](d *Device, f *driver.Function, grid, block [3]uint32, shared int, p *P) {
	launchWith(d, &driver.Launch{Function: f, Grid: grid, Block: block, Shared: uint32(shared)}, p)
}

// launchWith is launch for clusters and dependent launches.
func launchWith[P any](d *Device, l *driver.Launch, p *P) {
	if d.err != nil || l.Grid[0] == 0 || l.Grid[1] == 0 || l.Grid[2] == 0 {
		return
	}
	if size := int(unsafe.Sizeof(*p)); l.Function.ParamBytes != 0 && l.Function.ParamBytes != size {
		panic(fmt.Sprintf("cuda: kernel %s takes %d bytes of parameters, %T has %d", l.Function.Name, l.Function.ParamBytes, *p, size))
	}
	d.exec.Launch(l, unsafe.Pointer(p), unsafe.Sizeof(*p))
}

// grid1 and block1 are one-dimensional.
func grid1(n int) [3]uint32 { return [3]uint32{uint32(n), 1, 1} }

func block1(n int) [3]uint32 { return [3]uint32{uint32(n), 1, 1} }

// divUp is ⌈a/b⌉.
func divUp(a, b int) int { return (a + b - 1) / b }
