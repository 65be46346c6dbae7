package cpu

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// spinFor is how long an idle worker looks for the next job before it parks,
// and how long the caller looks for stragglers before it blocks. Waking a parked
// goroutine costs several microseconds, a forward pass has hundreds of jobs,
// and between them there are only a few microseconds of serial work.
const spinFor = 50 * time.Microsecond

// team runs parallel loops on a fixed set of goroutines. The caller of run is
// worker 0; the others are persistent, spin for at most spinFor after a job and
// park otherwise, so an idle team costs nothing. A worker that does not arrive
// in time (another process has its core) is not waited for: the caller does the
// work itself, since items are handed out one at a time.
//
// The team is owned by one Device and closed by it; run must not be called
// concurrently, nor from within a job.
type team struct {
	current atomic.Pointer[job]
	end     *job // the current job once the team is closed
	helpers []*helper
	done    sync.WaitGroup
}

// helper is one goroutine of a team besides the caller.
type helper struct {
	parked atomic.Bool
	wake   chan struct{} // capacity 1
}

// job is one parallel loop. Every participant registers in active before it
// takes its first item, so when all items are taken and active is zero, all
// items are finished; who registers later finds no item left.
type job struct {
	f      func(worker, item int)
	n      int64
	next   atomic.Int64
	active atomic.Int64
	wait   atomic.Bool   // the caller blocks on idle
	idle   chan struct{} // capacity 1
	failed atomic.Pointer[failure]
}

type failure struct {
	value any
	stack []byte
}

// newTeam starts size−1 goroutines.
func newTeam(size int) *team {
	t := &team{end: &job{}}
	for i := 1; i < size; i++ {
		h := &helper{wake: make(chan struct{}, 1)}
		t.helpers = append(t.helpers, h)
	}
	for i, h := range t.helpers {
		t.done.Add(1)
		go t.serve(i+1, h)
	}
	return t
}

// size returns the number of workers, the caller included.
func (t *team) size() int { return len(t.helpers) + 1 }

// close stops the goroutines and waits for them.
func (t *team) close() {
	t.publish(t.end, len(t.helpers))
	t.done.Wait()
}

// publish makes j the current job and wakes up to n parked helpers.
func (t *team) publish(j *job, n int) {
	t.current.Store(j)
	for _, h := range t.helpers {
		if n == 0 {
			return
		}
		n--
		if h.parked.CompareAndSwap(true, false) {
			h.wake <- struct{}{}
		}
	}
}

// run calls f(worker, i) for every i in [0, n), in any order, and returns when
// all calls have returned. worker is in [0, size) and no two concurrent calls
// share it. If a call panics, run panics with its value once the others are done.
func (t *team) run(n int, f func(worker, item int)) {
	if n <= 0 {
		return
	}
	if n == 1 || len(t.helpers) == 0 {
		for i := range n {
			f(0, i)
		}
		return
	}
	j := &job{f: f, n: int64(n), idle: make(chan struct{}, 1)}
	t.publish(j, n-1)
	j.work(0)
	j.join()
	t.current.Store(nil) // what f refers to is garbage from here on
	if p := j.failed.Load(); p != nil {
		panic(fmt.Sprintf("%v\n\nin a parallel loop:\n%s", p.value, p.stack))
	}
}

// work takes items until none is left.
func (j *job) work(worker int) {
	if j.next.Load() >= j.n {
		return
	}
	j.active.Add(1)
	defer func() {
		if v := recover(); v != nil {
			j.failed.CompareAndSwap(nil, &failure{v, debug.Stack()})
			j.next.Store(j.n)
		}
		if j.active.Add(-1) == 0 && j.wait.Load() {
			select {
			case j.idle <- struct{}{}:
			default:
			}
		}
	}()
	for {
		i := j.next.Add(1) - 1
		if i >= j.n {
			return
		}
		j.f(worker, int(i))
	}
}

// join waits until no participant is active: first spinning, then blocked.
func (j *job) join() {
	if spin(func() bool { return j.active.Load() == 0 }) {
		return
	}
	j.wait.Store(true)
	for j.active.Load() != 0 {
		<-j.idle
	}
}

// serve is a helper's life.
func (t *team) serve(worker int, h *helper) {
	defer t.done.Done()
	for {
		var j *job
		fresh := func() bool {
			j = t.current.Load()
			return j != nil && (j == t.end || j.next.Load() < j.n)
		}
		for !spin(fresh) {
			h.parked.Store(true)
			// A job published before parked was set would not wake us.
			if fresh() && h.parked.CompareAndSwap(true, false) {
				break
			}
			<-h.wake
		}
		if j == t.end {
			return
		}
		j.work(worker)
	}
}

// spin polls ready for at most spinFor, letting other goroutines run now and
// then, and returns its last answer.
func spin(ready func() bool) bool {
	if ready() {
		return true
	}
	start := time.Now()
	for round := 1; ; round++ {
		for range 100 {
			if ready() {
				return true
			}
		}
		if round%16 == 0 {
			runtime.Gosched()
		}
		if time.Since(start) > spinFor {
			return ready()
		}
	}
}
