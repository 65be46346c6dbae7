package driver

import (
	"errors"
	"fmt"
)

// A Module is a compiled program loaded on a device. It stays until the
// executor is closed.
type Module struct {
	executor *Executor
	handle   uintptr
}

// LoadModule loads what [NVRTC.Compile] returned.
func (e *Executor) LoadModule(cubin []byte) (*Module, error) {
	if len(cubin) == 0 {
		return nil, errors.New("driver: load a module: there is no code")
	}
	m := &Module{executor: e}
	return m, e.Do(func() error {
		var r result
		m.handle, r = e.api.loadModule(cubin)
		return e.api.check("cuModuleLoadData", fmt.Sprintf("%d bytes", len(cubin)), r)
	})
}

// A Function is a kernel.
type Function struct {
	Name         string
	Registers    int // of a thread
	LocalBytes   int // of a thread: spilled registers and local arrays
	StaticShared int // bytes of a block
	ParamBytes   int // of its one parameter; 0 if it has none

	handle uintptr
	// prepare allows the function what a launch wants beyond the defaults. It
	// runs on the executor's thread.
	prepare func(l *Launch) error
}

// Function finds a kernel by name. Kernels have at most one parameter here.
func (m *Module) Function(name string) (*Function, error) {
	e := m.executor
	f := &Function{Name: name}
	err := e.Do(func() error {
		var r result
		if f.handle, r = e.api.getFunction(m.handle, name); r != success {
			return e.api.check("cuModuleGetFunction", name, r)
		}
		for _, a := range []struct {
			id    int
			value *int
		}{{functionRegisters, &f.Registers}, {functionLocalBytes, &f.LocalBytes}, {functionStaticShared, &f.StaticShared}} {
			if *a.value, r = e.api.getAttribute(f.handle, a.id); r != success {
				return e.api.check("cuFuncGetAttribute", name, r)
			}
		}
		if size, r := e.api.paramInfo(f.handle, 0); r == success {
			f.ParamBytes = size
		} else if r != invalidValue { // which says that there is no such parameter
			return e.api.check("cuFuncGetParamInfo", name, r)
		}
		if _, r := e.api.paramInfo(f.handle, 1); r == success {
			return fmt.Errorf("driver: kernel %s has more than one parameter", name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if f.ParamBytes > maxParams {
		return nil, fmt.Errorf("driver: kernel %s takes a parameter of %d bytes, more than %d", name, f.ParamBytes, maxParams)
	}
	f.prepare = e.prepareFunction(f)
	return f, nil
}

// A kernel gets dynamic shared memory beyond this, and clusters beyond that,
// only after asking.
const (
	defaultShared  = 48 << 10
	defaultCluster = 8
)

// prepareFunction returns f.prepare, which asks once for what is needed.
func (e *Executor) prepareFunction(f *Function) func(l *Launch) error {
	shared, cluster := uint32(max(0, defaultShared-f.StaticShared)), uint32(defaultCluster)
	return func(l *Launch) error {
		if l.Shared > shared {
			limit := e.info.SharedPerBlock - f.StaticShared
			if int(l.Shared) > limit {
				return fmt.Errorf("driver: %s: a block has %d bytes at most", l.describe(), limit)
			}
			if r := e.api.setAttribute(f.handle, functionMaxDynamicShared, limit); r != success {
				return e.api.check("cuFuncSetAttribute", l.describe(), r)
			}
			shared = uint32(limit)
		}
		if blocks := l.Cluster[0] * l.Cluster[1] * l.Cluster[2]; blocks > cluster {
			if r := e.api.setAttribute(f.handle, functionNonPortableCluster, 1); r != success {
				return e.api.check("cuFuncSetAttribute", l.describe(), r)
			}
			cluster = blocks
		}
		return nil
	}
}
