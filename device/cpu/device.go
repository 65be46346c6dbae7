package cpu

import (
	"fmt"
	"runtime"

	"latent/device"
	"latent/device/cpu/kern"
)

// version names the state of the kernels for calibrations; it changes when
// costs do.
const version = "cpu-1"

// Options configure a Device.
type Options struct {
	// Threads is the number of workers, 0 for one per available processor.
	Threads int
	// Tier names the instruction set (kern.Available); "" means the best, or
	// what LATENT_CPU_TIER says.
	Tier string
}

// Device implements device.Device on the CPU. It is used by one goroutine at a
// time. Operations are synchronous, so Sync has nothing to wait for and nothing
// fails after the call that caused it. Close ends its workers and frees all
// memory that came from it, weights included.
type Device struct {
	info   device.Info
	k      *kern.Kernels
	team   *team
	shared arena   // scratch of the running operation
	local  []arena // scratch of each worker's item
	mapped map[*memory]struct{}
	step   *device.Step
}

var _ device.Device = (*Device)(nil)

// New makes a device.
func New(opts Options) (*Device, error) {
	k, err := kern.Select(opts.Tier)
	if err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	threads := opts.Threads
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	if threads < 0 {
		return nil, fmt.Errorf("cpu: %d threads; want 0 (one per processor) or more", threads)
	}
	name, installed := machine()
	if name == "" {
		name = runtime.GOARCH
	}
	return &Device{
		info: device.Info{
			Kind: "cpu", Name: name, Tier: k.Tier, Version: version,
			Workers: threads, Memory: installed, BatchInvariant: true,
		},
		k:      k,
		team:   newTeam(threads),
		local:  make([]arena, threads),
		mapped: make(map[*memory]struct{}),
	}, nil
}

// Info implements device.Device.
func (d *Device) Info() device.Info { return d.info }

// Close implements device.Device.
func (d *Device) Close() error {
	d.team.close()
	for m := range d.mapped {
		m.Free()
	}
	return nil
}

// Activation implements device.Device: activations are always float32.
func (d *Device) Activation(device.DType) device.DType { return device.F32 }

// Sync implements device.Device.
func (d *Device) Sync() error { return nil }

// Begin implements device.Device.
func (d *Device) Begin(step *device.Step) {
	n := len(step.Tokens)
	if len(step.Positions) != n || len(step.Slots) != n {
		panic(fmt.Sprintf("cpu: Begin: %d tokens, %d positions, %d slots", n, len(step.Positions), len(step.Slots)))
	}
	for i, s := range step.Seqs {
		if s.Row < 0 || s.Rows < 0 || s.Row+s.Rows > n || len(s.Pages)*device.PageTokens < s.Context() {
			panic(fmt.Sprintf("cpu: Begin: sequence %d has rows [%d, %d) of %d and %d pages for %d positions",
				i, s.Row, s.Row+s.Rows, n, len(s.Pages), s.Context()))
		}
	}
	d.step = step
}

// parallel runs f for the items [0, n), each with an empty arena of its worker.
func (d *Device) parallel(n int, f func(ws *arena, item int)) {
	d.team.run(n, func(worker, item int) {
		ws := &d.local[worker]
		ws.reset()
		f(ws, item)
	})
}

// smallWork is how many float operations one item should have at least, so that
// handing it to another worker pays.
const smallWork = 16 << 10

// overRows calls f for consecutive ranges that cover [0, rows), in parallel if
// the work, of about perRow float operations a row, is worth it.
func (d *Device) overRows(rows, perRow int, f func(ws *arena, from, to int)) {
	block := max(1, smallWork/max(perRow, 1), (rows+4*d.team.size()-1)/(4*d.team.size()))
	d.parallel((rows+block-1)/block, func(ws *arena, item int) {
		f(ws, item*block, min(rows, (item+1)*block))
	})
}

// rowsOf checks runs and lists the step's row of each of their rows in order.
func (d *Device) rowsOf(op string, runs []device.Run) []int32 {
	rows := make([]int32, 0, device.RunRows(runs))
	for i := range runs {
		r := &runs[i]
		if r.Seq < 0 || r.Seq >= len(d.step.Seqs) || r.Rows < 0 || r.Row < 0 || r.Row+r.Rows > len(d.step.Tokens) {
			panic(fmt.Sprintf("cpu: %s: run %d has rows [%d, %d) of sequence %d; the step has %d rows and %d sequences",
				op, i, r.Row, r.Row+r.Rows, r.Seq, len(d.step.Tokens), len(d.step.Seqs)))
		}
		for j := range r.Rows {
			rows = append(rows, int32(r.Row+j))
		}
	}
	return rows
}

// visible returns the keys that row i of a run sees, [from, to).
func visible(r *device.Run, i int) (from, to int) {
	to = min(r.KeyTo, r.Pos+i+1)
	return min(r.KeyFrom, to), to
}
