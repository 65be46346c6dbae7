package cuda

import (
	"errors"
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

// Graph is a captured step: implements device.Graph.
//
// What the kernels of a captured step read of the geometry lies in a chunk of
// the graph's own, at addresses that stay. Each array is filled again, from the
// present contents of the step and of the lists of runs, before a replay.
type Graph struct {
	dev    *Device
	graph  *driver.Graph
	step   *device.Step
	tokens int
	seqs   int
	pages  int
	chunk  *chunk
	fills  []fill
	moved  int           // Device.moved at capture
	copied *driver.Event // the host copy has been read
	sent   bool
}

// fill writes one array of the geometry.
type fill struct {
	offset, n int
	write     func(dst []int32)
}

// Capture implements device.Capturer.
func (d *Device) Capture(step *device.Step, pages int, f func()) (_ device.Graph, err error) {
	if err := d.Sync(); err != nil {
		return nil, err
	}
	g := &Graph{dev: d, step: step, tokens: len(step.Tokens), seqs: len(step.Seqs), pages: pages}
	defer func() {
		if err != nil {
			g.Free()
		}
	}()
	// Room for the step and, as each row and run takes 32 bytes, some lists.
	n := 3*g.tokens + g.seqs*(1+pages) + 64*(g.tokens+g.seqs) + 4096
	if g.chunk, err = d.newChunk(n, 1); err != nil {
		return nil, err
	}
	if g.copied, err = d.exec.NewEvent(); err != nil {
		return nil, err
	}
	g.graph, err = d.exec.Capture(func() error {
		geo := &d.geometry
		geo.recording = g
		defer func() {
			geo.recording = nil
			clear(geo.known)
			geo.step = nil
		}()
		geo.step = step
		clear(geo.known)
		geo.stageStep(pages)
		f()
		err := d.err
		d.err = nil
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cuda: capture a step of %d rows: %w", g.tokens, err)
	}
	// Buffers that grew while recording would have been freed under the graph.
	g.moved = d.moved
	return g, nil
}

// stage gives an array its place in the graph's chunk.
func (g *Graph) stage(n int, write func(dst []int32)) driver.Ptr {
	const align = 4
	offset := roundUp(g.chunk.used, align)
	if 4*int64(offset+n) > g.chunk.mem.bytes {
		g.dev.fail(errors.New("cuda: the geometry of a captured step is larger than its room"))
		return 0
	}
	g.chunk.used = offset + n
	g.fills = append(g.fills, fill{offset: offset, n: n, write: write})
	return g.chunk.mem.addr + driver.Ptr(4*offset)
}

// Replay implements device.Graph.
func (g *Graph) Replay() bool {
	d := g.dev
	if g.moved != d.moved {
		return false
	}
	if len(g.step.Tokens) != g.tokens || len(g.step.Seqs) != g.seqs {
		panic(fmt.Sprintf("cuda: Replay: %d rows of %d sequences, captured with %d of %d",
			len(g.step.Tokens), len(g.step.Seqs), g.tokens, g.seqs))
	}
	for i := range g.step.Seqs {
		if n := len(g.step.Seqs[i].Pages); n > g.pages {
			panic(fmt.Sprintf("cuda: Replay: sequence %d has %d pages, captured with room for %d", i, n, g.pages))
		}
	}
	if d.err != nil {
		return true
	}
	if g.sent {
		if err := d.exec.WaitEvent(g.copied); err != nil {
			d.fail(err)
			return true
		}
	}
	for _, f := range g.fills {
		f.write(g.chunk.ints(0, f.offset, f.n))
	}
	d.exec.Upload(g.chunk.mem.addr, g.chunk.host[0], 0, 4*int64(g.chunk.used))
	d.exec.Record(g.copied)
	g.sent = true
	g.graph.Launch()
	return true
}

// Free implements device.Graph.
func (g *Graph) Free() {
	if g.graph != nil {
		g.graph.Free()
	}
	if g.chunk != nil {
		g.chunk.free()
	}
	if g.copied != nil {
		g.copied.Free()
	}
	*g = Graph{}
}
