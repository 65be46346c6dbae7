package cuda

import (
	lru "container/list"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"latent/device/cuda/driver"
)

const (
	// productWorkspace is what NVIDIA advises for Hopper.
	productWorkspace = 32 << 20
	// maxPlans bounds the shapes that are remembered, some 1 KB each. A plan
	// costs the host 50 to 200 µs, and the best one for 512 rows is half as
	// fast for 300: so every number of rows has its own.
	maxPlans = 4096
)

// products queues matrix products of cuBLASLt.
//
// A product's plan is looked up, or made, on the executor's goroutine, which owns
// plans and recent; the caller only copies the arguments into a call that it
// takes from idle. So a known shape costs no allocation, and a product can be
// recorded in a graph whether its shape is known or not.
type products struct {
	dev       *Device
	workspace *memory
	// blockScales tells whether the library multiplies e4m3 with block scales.
	blockScales bool

	handle *driver.BLASHandle
	plans  map[driver.MatmulSpec]*lru.Element
	recent *lru.List // of *plan, the last used first

	mu   sync.Mutex
	idle []*productCall
}

// plan is an entry of the list.
type plan struct {
	spec   driver.MatmulSpec
	matmul *driver.Matmul
}

// productCall is a product on its way to the executor.
type productCall struct {
	spec driver.MatmulSpec
	args driver.MatmulCall
	run  func(stream uintptr) error // made once, with the call
}

// init opens the library and sees what it can do.
func (p *products) init(d *Device, search driver.Search) error {
	*p = products{dev: d, plans: map[driver.MatmulSpec]*lru.Element{}, recent: lru.New()}
	blas, err := driver.OpenBLAS(search)
	if err != nil {
		return err
	}
	if p.workspace, err = d.alloc(productWorkspace); err != nil {
		return err
	}
	return d.exec.Do(func() error {
		var err error
		if p.handle, err = blas.NewHandle(); err != nil {
			return err
		}
		if !blas.BlockScales() {
			return nil
		}
		spec := forCall(weightSpec(driver.MatmulF8, driver.MatmulBF16, 128, 256, 512), driver.MatmulCall{})
		_, err = p.plan(&spec)
		p.blockScales = err == nil
		var refused *driver.BLASError
		if errors.As(err, &refused) {
			return nil
		}
		return err
	})
}

// close frees what belongs to the library.
func (p *products) close() error {
	if p.handle == nil {
		return nil
	}
	return p.dev.exec.Do(func() error {
		for e := p.recent.Front(); e != nil; e = e.Next() {
			e.Value.(*plan).matmul.Free()
		}
		err := p.handle.Close()
		*p = products{}
		return err
	})
}

// queue queues a product. Beta is 0, or 1 to add to D.
func (p *products) queue(spec driver.MatmulSpec, args driver.MatmulCall) {
	if p.dev.err != nil {
		return
	}
	args.Workspace = p.workspace.addr
	c := p.take()
	c.spec, c.args = forCall(spec, args), args
	p.dev.exec.Enqueue(c.run)
}

// forCall adds to a spec what depends on the addresses.
func forCall(spec driver.MatmulSpec, args driver.MatmulCall) driver.MatmulSpec {
	spec.Workspace = productWorkspace
	spec.A.Align, spec.B.Align, spec.D.Align = alignment(args.A), alignment(args.B), alignment(args.D)
	return spec
}

// alignment is what an address is a multiple of, as far as it matters: no
// algorithm wants more than 16 bytes.
func alignment(p driver.Ptr) uint32 { return 1 << min(4, bits.TrailingZeros64(uint64(p))) }

// take returns an idle call. Those of an executor that dropped them are not
// missed.
func (p *products) take() *productCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return c
	}
	c := &productCall{}
	c.run = func(stream uintptr) error { return p.run(stream, c) }
	return c
}

// run makes the call. It runs on the executor's goroutine, as does plan.
func (p *products) run(stream uintptr, c *productCall) error {
	m, err := p.plan(&c.spec)
	if err == nil {
		err = m.Run(stream, &c.args)
	}
	p.mu.Lock()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
	return err
}

// plan finds or makes the plan for a shape.
func (p *products) plan(spec *driver.MatmulSpec) (*driver.Matmul, error) {
	if e := p.plans[*spec]; e != nil {
		p.recent.MoveToFront(e)
		return e.Value.(*plan).matmul, nil
	}
	m, err := p.handle.Plan(*spec)
	if err != nil {
		return nil, fmt.Errorf("cuda: matrix product: %w", err)
	}
	if p.recent.Len() == maxPlans {
		last := p.recent.Remove(p.recent.Back()).(*plan)
		delete(p.plans, last.spec)
		last.matmul.Free()
	}
	p.plans[*spec] = p.recent.PushFront(&plan{*spec, m})
	return m, nil
}

// weightSpec describes dst [rows, outputs] = src [rows, cols]·wᵀ, all row-major,
// as cuBLASLt sees it: dstᵀ = w·srcᵀ of column-major matrices.
func weightSpec(weight, dst driver.MatmulType, rows, outputs, cols int) driver.MatmulSpec {
	return driver.MatmulSpec{
		TransposeA:  true,
		A:           driver.MatmulOperand{Type: weight, Rows: cols, Cols: outputs, Lead: cols},
		B:           driver.MatmulOperand{Type: weight, Rows: cols, Cols: rows, Lead: cols},
		D:           driver.MatmulOperand{Type: dst, Rows: outputs, Cols: rows, Lead: outputs},
		Batch:       1,
		BlockScales: weight == driver.MatmulF8,
	}
}
