package driver

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

// An Executor queues work on a device. See the package documentation.
//
// Its methods are safe for concurrent use, though commands of several
// goroutines are in an order only if those agree on one; Capture and Close want
// to be alone. It owns a goroutine, the device's primary context and a stream
// until Close. Memory, modules and graphs that were not freed by then go with
// the process, or earlier with the last executor of the device.
type Executor struct {
	api        *api
	info       DeviceInfo
	context    uintptr
	stream     uintptr
	syncAlways bool // SyncEnv
	spin       bool // there are other threads to wait for
	vigils     bool // there are so many that one may watch while another waits
	cuda       *CUDA

	// The ring. Slots [head, tail) wait; the mutex is the producers', head is
	// the consumer's.
	mu        sync.Mutex
	closed    bool
	capturing bool // a producer is inside of Capture
	staging   staging
	ring      []command
	tail      atomic.Uint64
	head      atomic.Uint64
	work      gate // the executor waits for a command
	room      gate // a producer waits for a free slot

	// Of the one command at a time whose answer somebody waits for.
	asking  sync.Mutex // held from queueing it to its answer
	answers atomic.Uint64
	answer  error
	reply   gate

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
	e, err := newExecutor(a, info)
	if err != nil {
		return nil, err
	}
	e.cuda = c
	c.addContext(e.context)
	return e, nil
}

func newExecutor(a *api, info DeviceInfo) (*Executor, error) {
	e := &Executor{
		api: a, info: info, syncAlways: os.Getenv(SyncEnv) == "1", spin: runtime.GOMAXPROCS(0) > 1, vigils: runtime.GOMAXPROCS(0) >= 4,
		ring: make([]command, ringSize), work: newGate(), room: newGate(), reply: newGate(),
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
		head, tail := e.head.Load(), e.tail.Load()
		if head == tail {
			e.work.await(&e.tail, head, e.spin)
			continue
		}
		c := &e.ring[head%ringSize]
		if c.op == opClose {
			e.give(e.close())
			return
		}
		answered, answer := e.run(c)
		c.forget()
		e.head.Store(head + 1)
		if tail-head <= ringSize/2 { // not at once, as each opening costs
			e.room.open()
		}
		if answered {
			e.give(answer)
		}
	}
}

// give answers who asked.
func (e *Executor) give(answer error) {
	e.answer = answer
	e.answers.Add(1)
	e.reply.open()
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
	err := e.err
	if r := e.api.syncStream(e.stream); r != success && err == nil {
		err = e.api.check("cuStreamSynchronize", "", r)
	}
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

// slot returns the next free command, with the mutex held; publish follows.
func (e *Executor) slot(op operation) *command {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		panic("driver: use of a closed executor")
	}
	return e.next(op)
}

// next waits for a free command. The mutex is held.
func (e *Executor) next(op operation) *command {
	tail := e.tail.Load()
	if tail-e.head.Load() == ringSize {
		e.room.await(&e.head, tail-ringSize, false) // for half a ring: nothing to spin for
	}
	c := &e.ring[tail%ringSize]
	c.op = op
	return c
}

// publish hands the slot to the executor and unlocks the mutex. It tells whether
// the executor slept.
func (e *Executor) publish() bool {
	e.tail.Add(1)
	woken := e.work.open()
	e.mu.Unlock()
	return woken
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
	return e.put(op, f)
}

// put is ask with both mutexes held; it unlocks the ring's.
func (e *Executor) put(op operation, f func() error) error {
	before := e.answers.Load()
	e.next(op).f = f
	// A locked goroutine that wakes up takes over the thread's place of the one
	// that goes to sleep: then spinning would only be in its way.
	spin := !e.publish() && e.spin
	e.reply.await(&e.answers, before, spin)
	return e.answer
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
	if e.cuda != nil {
		e.cuda.removeContext(e.context)
	}
	return e.put(opClose, nil)
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
	err := e.ask(opTake, nil)
	if err == ErrClosed {
		return err
	}
	if late := e.await("cuStreamSynchronize", "", e.waitStream); err == nil {
		err = late
	}
	return err
}

func (e *Executor) waitStream() result { return e.api.syncStream(e.stream) }

// await calls something that waits for the device. It does so on the caller's
// thread, as the goroutine need not be woken then and the executor can work on.
// An error is taken from the executor like those of its commands.
func (e *Executor) await(function, detail string, f func() result) error {
	if e.vigils {
		e.work.vigils.Add(1)
		defer e.work.vigils.Add(-1)
	}
	r := e.withContext(f)
	if r == success {
		return nil
	}
	return e.ask(opAlways, func() error {
		e.fail(function, detail, r)
		return e.take()
	})
}

// withContext calls f on the caller's thread with the device's context current.
func (e *Executor) withContext(f func() result) result {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if r := e.api.setContext(e.context); r != success {
		return r
	}
	r := f()
	e.api.setContext(0)
	return r
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
	e.next(opCleanup).f = f
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
