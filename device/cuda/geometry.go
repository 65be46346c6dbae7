package cuda

import (
	"fmt"
	"slices"
	"unsafe"

	"latent/device"
	"latent/device/cuda/driver"
)

// geometry is what kernels know of the step: arrays of int32 in device memory,
// written by Begin and, for lists of runs and what else operations derive from
// them, when an operation first needs them in a step.
//
// Each array is filled in pinned host memory and copied in stream order, so the
// device's copy may be overwritten while earlier kernels are queued, but the
// host's may not: there are two, used by turns, and Begin waits until the copies
// out of the older one are done.
type geometry struct {
	dev    *Device
	step   *device.Step
	chunks []*chunk
	at     int // chunk in use
	half   int // host copy in use
	done   [2]*driver.Event
	queued [2]bool // done[i] has been recorded

	base   driver.Ptr // tokens, positions, slots, first page of each sequence, pages
	pages_ Pages
	known  map[stageKey]staged

	recording *Graph // captures instead of running; see capture.go
}

// chunk is a piece of the geometry's memory.
type chunk struct {
	mem  *memory
	host [2]*driver.Pinned
	used int // int32
}

const chunkInts = 1 << 19

// Pages mirrors struct Pages of common.cuh.
type Pages struct{ Table, First driver.Ptr }

// Run and Row mirror the structs of common.cuh.
type (
	Run struct{ Seq, Row, Rows, Pos, From, To, Keys, Sel int32 }
	Row struct{ Row, Seq, Pos, From, To, Keys, Sel, Run int32 }
)

// stageKey identifies an array within a step: what it is, and the slice of runs
// (or ranges) it was made from.
type stageKey struct {
	kind string
	data unsafe.Pointer
	n    int
	more int
}

// staged is an array that the step already has, with a copy of what it was made
// from.
type staged struct {
	addr driver.Ptr
	runs []device.Run
}

func (g *geometry) init(d *Device) error {
	*g = geometry{dev: d, known: map[stageKey]staged{}}
	for i := range g.done {
		var err error
		if g.done[i], err = d.exec.NewEvent(); err != nil {
			return err
		}
	}
	return nil
}

func (g *geometry) free() {
	for _, c := range g.chunks {
		c.free()
	}
	g.chunks = nil
	for i, e := range g.done {
		if e != nil {
			e.Free()
			g.done[i] = nil
		}
	}
}

func (c *chunk) free() {
	c.mem.Free()
	for _, h := range c.host {
		if h != nil {
			h.Free()
		}
	}
}

func (g *geometry) bytes() int64 {
	n := int64(0)
	for _, c := range g.chunks {
		n += c.mem.bytes
	}
	return n
}

// newChunk allocates room for n int32 with the given number of host copies.
func (d *Device) newChunk(n, copies int) (*chunk, error) {
	mem, err := d.alloc(4 * int64(n))
	if err != nil {
		return nil, fmt.Errorf("cuda: geometry of a step: %w", err)
	}
	c := &chunk{mem: mem}
	for i := range copies {
		if c.host[i], err = d.exec.AllocPinned(4 * int64(n)); err != nil {
			c.free()
			return nil, fmt.Errorf("cuda: geometry of a step: %w", err)
		}
	}
	return c, nil
}

// ints returns n int32 of a host copy.
func (c *chunk) ints(half, offset, n int) []int32 {
	b := c.host[half].Bytes()
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)[offset : offset+n : offset+n]
}

// Begin implements device.Device.
func (d *Device) Begin(step *device.Step) {
	n := len(step.Tokens)
	if len(step.Positions) != n || len(step.Slots) != n {
		panic(fmt.Sprintf("cuda: Begin: %d tokens, %d positions, %d slots", n, len(step.Positions), len(step.Slots)))
	}
	for i, s := range step.Seqs {
		if s.Row < 0 || s.Rows < 0 || s.Row+s.Rows > n || len(s.Pages)*device.PageTokens < s.Context() {
			panic(fmt.Sprintf("cuda: Begin: sequence %d has rows [%d, %d) of %d and %d pages for %d positions",
				i, s.Row, s.Row+s.Rows, n, len(s.Pages), s.Context()))
		}
	}
	g := &d.geometry
	if g.recording == nil {
		g.turn()
	}
	g.step = step
	clear(g.known)
	g.stageStep(0)
}

// turn takes the other host copy, once the GPU has read what it holds.
func (g *geometry) turn() {
	e := g.dev.exec
	e.Record(g.done[g.half])
	g.queued[g.half] = true
	g.half ^= 1
	if g.queued[g.half] {
		if err := e.WaitEvent(g.done[g.half]); err != nil {
			g.dev.fail(err)
		}
	}
	for _, c := range g.chunks {
		c.used = 0
	}
	g.at = 0
}

// stageStep uploads the arrays of the step. pages is the room for each
// sequence's pages, 0 for just what it has.
func (g *geometry) stageStep(pages int) {
	step := g.step
	tokens, seqs := len(step.Tokens), len(step.Seqs)
	table := pages * seqs
	if pages == 0 {
		for i := range step.Seqs {
			table += len(step.Seqs[i].Pages)
		}
	}
	g.base = g.dev.stage(3*tokens+seqs+table, func(dst []int32) {
		copy(dst, step.Tokens)
		copy(dst[tokens:], step.Positions)
		copy(dst[2*tokens:], step.Slots)
		first, list := dst[3*tokens:3*tokens+seqs], dst[3*tokens+seqs:]
		next := 0
		for i := range step.Seqs {
			if pages > 0 {
				next = i * pages
			}
			first[i] = int32(next)
			next += copy(list[next:], step.Seqs[i].Pages)
		}
	})
	first := g.base + driver.Ptr(4*3*tokens)
	g.pages_ = Pages{First: first, Table: first + driver.Ptr(4*seqs)}
}

// tokens, positions and slots return the step's arrays, i32 [T].
func (d *Device) tokens() driver.Ptr { return d.geometry.base }

func (d *Device) positions() driver.Ptr {
	return d.geometry.base + driver.Ptr(4*len(d.geometry.step.Tokens))
}

func (d *Device) slots() driver.Ptr {
	return d.geometry.base + driver.Ptr(8*len(d.geometry.step.Tokens))
}

// pages returns the page tables of the step's sequences.
func (d *Device) pages() Pages { return d.geometry.pages_ }

// stage uploads n int32 that fill writes, and returns their address, 16-byte
// aligned, valid until the next Begin. In a captured step fill is called again
// before every replay.
func (d *Device) stage(n int, fill func(dst []int32)) driver.Ptr {
	g := &d.geometry
	if g.recording != nil {
		return g.recording.stage(n, fill)
	}
	c, offset := g.take(n)
	if c == nil {
		return 0
	}
	fill(c.ints(g.half, offset, n))
	addr := c.mem.addr + driver.Ptr(4*offset)
	if n > 0 {
		d.exec.Upload(addr, c.host[g.half], 4*int64(offset), 4*int64(n))
	}
	return addr
}

// take returns a chunk with room for n int32, and where.
func (g *geometry) take(n int) (*chunk, int) {
	const align = 4
	for ; g.at < len(g.chunks); g.at++ {
		c := g.chunks[g.at]
		if offset := roundUp(c.used, align); 4*int64(offset+n) <= c.mem.bytes {
			c.used = offset + n
			return c, offset
		}
	}
	c, err := g.dev.newChunk(max(n, chunkInts), 2)
	if err != nil {
		g.dev.fail(err)
		return nil, 0
	}
	g.chunks = append(g.chunks, c)
	c.used = n
	return c, 0
}

// stagedRuns is stage for an array that is made from runs: kept for the step, so
// that the layers of a model share it. more tells apart arrays of one kind.
func (d *Device) stagedRuns(kind string, more int, runs []device.Run, n int, fill func(dst []int32)) driver.Ptr {
	k := stageKey{kind, unsafe.Pointer(unsafe.SliceData(runs)), len(runs), more}
	if s, ok := d.geometry.known[k]; ok && (d.geometry.recording != nil || slices.Equal(s.runs, runs)) {
		return s.addr
	}
	s := staged{addr: d.stage(n, fill), runs: slices.Clone(runs)}
	d.geometry.known[k] = s
	return s.addr
}

// list is a list of runs on the device.
type list struct {
	runs, rows       driver.Ptr // Run [numRuns], Row [numRows] of common.cuh
	numRuns, numRows int
	host             []device.Run
}

// list checks runs and returns them on the device.
func (d *Device) list(op string, runs []device.Run) list {
	step := d.geometry.step
	for i := range runs {
		r := &runs[i]
		if r.Seq < 0 || r.Seq >= len(step.Seqs) || r.Rows < 0 || r.Row < 0 || r.Row+r.Rows > len(step.Tokens) {
			panic(fmt.Sprintf("cuda: %s: run %d has rows [%d, %d) of sequence %d; the step has %d rows and %d sequences",
				op, i, r.Row, r.Row+r.Rows, r.Seq, len(step.Tokens), len(step.Seqs)))
		}
	}
	const words = int(unsafe.Sizeof(Run{}) / 4)
	l := list{numRuns: len(runs), numRows: device.RunRows(runs), host: runs}
	l.runs = d.stagedRuns("list", 0, runs, words*(l.numRuns+l.numRows), func(dst []int32) { fillList(dst, runs) })
	l.rows = l.runs + driver.Ptr(4*words*l.numRuns)
	return l
}

// fillList writes the runs and then their rows.
func fillList(dst []int32, runs []device.Run) {
	const words = int(unsafe.Sizeof(Run{}) / 4)
	list := unsafe.Slice((*Run)(unsafe.Pointer(unsafe.SliceData(dst))), len(runs))
	rest := dst[words*len(runs):]
	rows := unsafe.Slice((*Row)(unsafe.Pointer(unsafe.SliceData(rest))), len(rest)/words)
	next := 0
	for i := range runs {
		r := &runs[i]
		list[i] = Run{int32(r.Seq), int32(r.Row), int32(r.Rows), int32(r.Pos), int32(r.KeyFrom), int32(r.KeyTo), int32(r.Keys), int32(r.Sel)}
		for j := range r.Rows {
			to := min(r.KeyTo, r.Pos+j+1)
			sel := -1
			if r.Sel >= 0 {
				sel = r.Sel + j
			}
			rows[next] = Row{int32(r.Row + j), int32(r.Seq), int32(r.Pos + j), int32(min(r.KeyFrom, to)), int32(to),
				int32(r.Keys), int32(sel), int32(i)}
			next++
		}
	}
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }
