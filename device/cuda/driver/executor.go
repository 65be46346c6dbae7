package driver

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// spinTime is how long an executor without commands looks for new ones before
// it sleeps: more than Go code needs between two launches of a step, and little
// beside the 5 to 10 µs that waking a locked thread takes.
const spinTime = 20 * time.Microsecond

// An Executor queues work on a device. See the package documentation.
//
// Its methods are safe for concurrent use, though commands of several
// goroutines are in an order only if those agree on one; a goroutine that
// captures must be the only one. It owns a goroutine, the device's primary
// context and a stream until Close. Memory, modules and graphs that were not
// freed by then go with the process, or earlier with the last executor of the
// device.
type Executor struct {
	api        *api
	info       DeviceInfo
	context    uintptr
	stream     uintptr
	syncAlways bool // SyncEnv
	spin       bool // there is another thread to wait for

	// The ring. Slots [head, tail) wait; the mutex is the producers', head is
	// the consumer's.
	mu        sync.Mutex
	closed    bool
	capturing bool // a producer is inside of Capture
	staging   staging
	ring      []command
	tail      atomic.Uint64
	head      atomic.Uint64
	asleep    atomic.Bool   // the executor waits for wake
	wake      chan struct{} // one token
	full      atomic.Bool   // a producer waits for room
	room      chan struct{} // one token

	answers chan error // of the one command at a time that somebody waits for
	asking  sync.Mutex // held from queueing such a command to its answer

	// Of the executor's goroutine.
	err       error // of the first command that failed since Sync
	lost      error // of a failure that ended the context
	recording bool
}

// NewExecutor starts an executor on a device.
func NewExecutor(c *CUDA, ordinal int) (*Executor, error) {
	info, err := c.Device(ordinal)
	if err != nil {
		return nil, err
	}
	a, err := bind(c.library) // of its own: an api serves one thread
	if err != nil {
		return nil, err
	}
	return newExecutor(a, info)
}

func newExecutor(a *api, info DeviceInfo) (*Executor, error) {
	e := &Executor{
		api: a, info: info, syncAlways: os.Getenv(SyncEnv) == "1", spin: runtime.GOMAXPROCS(0) > 1,
		ring: make([]command, ringSize), wake: make(chan struct{}, 1), room: make(chan struct{}, 1), answers: make(chan error),
	}
	started := make(chan error)
	go e.main(started)
	if err := <-started; err != nil {
		return nil, err
	}
	return e, nil
}

// Info describes the device. Free is -1: ask MemInfo.
func (e *Executor) Info() DeviceInfo { return e.info }

// main is the executor's goroutine.
func (e *Executor) main(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread() // with no context current the thread is like any other
	err := e.open()
	started <- err
	if err != nil {
		return
	}
	for {
		head := e.head.Load()
		if head == e.tail.Load() {
			e.sleep(head)
			continue
		}
		c := &e.ring[head%ringSize]
		if c.op == opClose {
			e.answers <- e.close()
			return
		}
		answered, answer := e.run(c)
		c.forget()
		e.head.Store(head + 1)
		if e.full.Load() && e.full.CompareAndSwap(true, false) {
			e.room <- struct{}{}
		}
		if answered {
			e.answers <- answer
		}
	}
}

// open makes the device's context current and creates the stream.
func (e *Executor) open() error {
	context, r := e.api.retainContext(e.info.Ordinal)
	if r != success {
		return e.api.check("cuDevicePrimaryCtxRetain", fmt.Sprintf("device %d", e.info.Ordinal), r)
	}
	e.context = context
	if r = e.api.setContext(context); r != success {
		e.api.releaseContext(e.info.Ordinal)
		return e.api.check("cuCtxSetCurrent", "", r)
	}
	if e.stream, r = e.api.createStream(); r != success {
		e.api.setContext(0)
		e.api.releaseContext(e.info.Ordinal)
		return e.api.check("cuStreamCreate", "", r)
	}
	return nil
}

// close undoes open after the last command, and returns what Sync would.
func (e *Executor) close() error {
	_, err := e.run(&command{arguments: arguments{op: opSync}})
	e.staging.free(e.api)
	for _, undo := range []struct {
		call string
		r    result
	}{
		{"cuStreamDestroy", e.api.destroyStream(e.stream)},
		{"cuCtxSetCurrent", e.api.setContext(0)},
		{"cuDevicePrimaryCtxRelease", e.api.releaseContext(e.info.Ordinal)},
	} {
		if err == nil {
			err = e.api.check(undo.call, "", undo.r)
		}
	}
	return err
}

// sleep returns when there may be a command after head.
func (e *Executor) sleep(head uint64) {
	if e.spin {
		for start := time.Now(); time.Since(start) < spinTime; {
			for range 32 { // time.Since costs as much as some loads
				if e.tail.Load() != head {
					return
				}
			}
		}
	}
	e.asleep.Store(true)
	if e.tail.Load() != head && e.asleep.CompareAndSwap(true, false) {
		return
	}
	<-e.wake // whoever cleared asleep sends a token
}

// slot returns the next free command, with the mutex held; publish follows.
func (e *Executor) slot(op operation) *command {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		panic("driver: use of a closed executor")
	}
	return e.free(op)
}

// free waits for a free command. The mutex is held.
func (e *Executor) free(op operation) *command {
	tail := e.tail.Load()
	for tail-e.head.Load() == ringSize {
		e.full.Store(true)
		if tail-e.head.Load() < ringSize && e.full.CompareAndSwap(true, false) {
			break
		}
		<-e.room
	}
	c := &e.ring[tail%ringSize]
	c.op = op
	return c
}

// publish hands the slot to the executor and unlocks the mutex.
func (e *Executor) publish() {
	e.tail.Store(e.tail.Load() + 1)
	if e.asleep.Load() && e.asleep.CompareAndSwap(true, false) {
		e.wake <- struct{}{}
	}
	e.mu.Unlock()
}

// ask queues a function and waits for its answer.
func (e *Executor) ask(op operation, f func() error) error {
	e.asking.Lock()
	defer e.asking.Unlock()
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return ErrClosed
	}
	e.free(op).f = f
	e.publish()
	return <-e.answers
}

// Close runs what is queued, waits for it, and ends the executor. It returns
// the error that Sync would have. A second Close does nothing. After it methods
// with an error return ErrClosed; those that free do nothing; those that queue
// work panic.
func (e *Executor) Close() error {
	e.asking.Lock()
	defer e.asking.Unlock()
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.free(opClose)
	e.publish()
	return <-e.answers
}

// Do runs f on the executor's thread, with the device's context current, after
// everything queued before, and returns what f does; it does not wait for the
// device. After a command that failed it returns that error instead, and leaves
// it for Sync. f must not call methods of the executor.
func (e *Executor) Do(f func() error) error { return e.ask(opDo, f) }

// Sync waits until everything queued is done, on the device too. It returns the
// first error since the last Sync, and clears it; an error that ended the
// context (see [Error.Lost]) stays.
func (e *Executor) Sync() error {
	if err := e.notCapturing("Sync"); err != nil {
		return err
	}
	return e.ask(opSync, nil)
}

// Enqueue queues a call into a library that works on a stream. f runs on the
// executor's thread and must not call methods of the executor. An error sticks.
func (e *Executor) Enqueue(f func(stream uintptr) error) {
	e.slot(opEnqueue).queue = f
	e.publish()
}

// cleanup queues f, which runs even after an error; not at all after Close.
func (e *Executor) cleanup(f func() error) {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	e.free(opCleanup).f = f
	e.publish()
}

// Launch says how to run a kernel.
type Launch struct {
	Function    *Function
	Grid, Block [3]uint32 // no element may be 0
	Shared      uint32    // bytes of dynamic shared memory
	Cluster     [3]uint32 // blocks of a cluster; zero: none
	// Dependent lets the kernel start before those queued earlier have ended,
	// up to its griddepcontrol.wait: programmatic stream serialisation.
	Dependent bool
}

func (l *Launch) describe() string {
	text := fmt.Sprintf("%s, grid %v, block %v", l.Function.Name, l.Grid, l.Block)
	if l.Shared > 0 {
		text += fmt.Sprintf(", %d bytes of shared memory", l.Shared)
	}
	if l.Cluster[0] != 0 {
		text += fmt.Sprintf(", clusters of %v", l.Cluster)
	}
	return text
}

// Launch queues a kernel with its one parameter, size bytes at params. Both are
// copied. A size other than the kernel's is a bug of the caller and panics.
func (e *Executor) Launch(l *Launch, params unsafe.Pointer, size uintptr) {
	if int(size) != l.Function.ParamBytes || size > maxParams {
		panic(fmt.Sprintf("driver: %s takes a parameter of %d bytes, launched with %d", l.Function.Name, l.Function.ParamBytes, size))
	}
	c := e.slot(opLaunch)
	c.launch = *l
	copy(c.params[:], unsafe.Slice((*byte)(params), size))
	e.publish()
}
