package driver

import (
	"errors"
)

// A Graph is captured work that runs again at every Launch, with the parameters
// and addresses it was captured with.
type Graph struct {
	executor *Executor
	exec     uintptr
}

// Capture records what f queues on e, which does not run, and makes it a graph.
// An error of f, or of something that f queued, ends the capture and is
// returned.
func (e *Executor) Capture(f func() error) (*Graph, error) {
	if err := e.notCapturing("Capture"); err != nil {
		return nil, err
	}
	err := e.Do(func() error {
		if r := e.api.beginCapture(e.stream); r != success {
			return e.api.check("cuStreamBeginCapture", "", r)
		}
		e.recording = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	e.setCapturing(true)
	ended := false
	defer func() {
		if !ended { // f panics
			_, _ = e.endCapture(errors.New("panic"))
		}
	}()
	failed := f()
	ended = true
	return e.endCapture(failed)
}

// endCapture makes a graph of what was recorded, or discards it if something
// failed.
func (e *Executor) endCapture(failed error) (*Graph, error) {
	e.setCapturing(false)
	g := &Graph{executor: e}
	err := e.ask(opAlways, func() error {
		e.recording = false
		graph, r := e.api.endCapture(e.stream)
		queued := e.take()
		if graph != 0 {
			defer e.api.destroyGraph(graph)
		}
		if err := errors.Join(failed, queued); err != nil {
			return err
		}
		if r != success {
			return e.api.check("cuStreamEndCapture", "", r)
		}
		if g.exec, r = e.api.instantiate(graph); r != success {
			return e.api.check("cuGraphInstantiate", "", r)
		}
		if r = e.api.uploadGraph(g.exec, e.stream); r != success {
			e.api.destroyExec(g.exec)
			return e.api.check("cuGraphUpload", "", r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

func (e *Executor) setCapturing(on bool) {
	e.mu.Lock()
	e.capturing = on
	e.mu.Unlock()
}

// Launch queues the graph.
func (g *Graph) Launch() {
	g.executor.slot(opGraph).graph = g
	g.executor.publish()
}

// Free ends the use of a graph.
func (g *Graph) Free() {
	e := g.executor
	e.cleanup(func() error { return e.api.check("cuGraphExecDestroy", "", e.api.destroyExec(g.exec)) })
}
