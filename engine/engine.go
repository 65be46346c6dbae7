package engine

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"latent/kvcache"
)

// Engine runs requests on a model. Its methods may be called from any goroutine.
type Engine struct {
	cfg Config

	mu        sync.Mutex
	live      map[string]*request // by ID: submitted and not ended
	queued    int                 // of these, not admitted yet
	orders    int64               // requests taken
	inbox     []*request
	cancelled []cancellation
	flushes   []chan error
	closing   bool         // takes no requests, ends when empty
	cut       bool         // ends what there is
	failed    *FailedError // the model failed
	looks     []chan<- []SequenceView
	stats     Stats // as of the last turn
	stepStart time.Time
	rejected  map[string]int64
	merged    atomic.Int64 // events merged in streams

	wake    chan struct{} // holds a value if the loop has something to look at
	stopped chan struct{} // closed when the loop has ended

	// Of the loop.
	cache   *kvcache.Cache
	waiting []*sequence // in order of age
	running []*sequence // in order of age
	batch   batch
	works   []work
	spoken  []work // of the step before, whose events have not been sent
	step    StepInfo
	totals  Totals
	cutOff  bool // requests were ended by Close; read when stopped is closed
}

type cancellation struct {
	request *request
	cause   error
}

// New starts an engine. Close ends it. The model must not be used by others
// until then.
func New(c Config) (*Engine, error) {
	e, err := newEngine(c)
	if err != nil {
		return nil, err
	}
	go e.loop()
	return e, nil
}

// newEngine returns an engine whose loop does not run; tests take its turns.
func newEngine(c Config) (*Engine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg:      c,
		live:     make(map[string]*request),
		rejected: make(map[string]int64),
		totals:   Totals{Finished: make(map[FinishReason]int64)},
		wake:     make(chan struct{}, 1),
		stopped:  make(chan struct{}),
		cache:    kvcache.New(c.Pages),
	}
	e.publish()
	return e, nil
}

// MaxContext returns how many tokens a prompt and its answer can have together:
// what the model allows, or the pages of the cache if they are fewer.
func (e *Engine) MaxContext() int { return e.cfg.limit() }

// Submit queues a request. Its events come on the stream; when ctx is done the
// request is cancelled. A request that cannot be run is refused with a
// *RequestError, *sample.ParamError, *TooLongError, *QueueFullError, *InUseError
// or *FailedError, or ErrClosed. req may be used again when Submit has returned.
func (e *Engine) Submit(ctx context.Context, req *Request) (*Stream, error) {
	r, err := e.accept(ctx, req)
	if err != nil {
		e.mu.Lock()
		e.rejected[rejection(err)]++
		e.mu.Unlock()
		return nil, err
	}
	e.nudge()
	return r.stream, nil
}

func (e *Engine) accept(ctx context.Context, req *Request) (*request, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := e.newRequest(req)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.failed != nil:
		return nil, e.failed
	case e.closing:
		return nil, ErrClosed
	case e.queued >= e.cfg.MaxQueued:
		return nil, &QueueFullError{Queued: e.queued, Limit: e.cfg.MaxQueued}
	}
	e.orders++
	r.order = e.orders
	if r.ID == "" {
		r.ID = "latent-" + strconv.FormatInt(r.order, 10)
	}
	if e.live[r.ID] != nil {
		return nil, &InUseError{ID: r.ID}
	}
	cancel := func(cause error) { e.cancel(r, cause) }
	r.stream = newStream(r.ID, len(r.choices), cancel, &e.merged)
	r.detach = context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	e.live[r.ID] = r
	e.queued++
	e.inbox = append(e.inbox, r)
	return r, nil
}

// Cancel ends the live request with the given ID at the next step and tells
// whether there is one.
func (e *Engine) Cancel(id string) bool {
	e.mu.Lock()
	r := e.live[id]
	e.mu.Unlock()
	if r == nil {
		return false
	}
	e.cancel(r, ErrCanceled)
	return true
}

// CancelAll ends all live requests at the next step.
func (e *Engine) CancelAll() {
	e.mu.Lock()
	for _, r := range e.live {
		e.cancelled = append(e.cancelled, cancellation{r, ErrCanceled})
	}
	e.mu.Unlock()
	e.nudge()
}

func (e *Engine) cancel(r *request, cause error) {
	e.mu.Lock()
	e.cancelled = append(e.cancelled, cancellation{r, cause})
	e.mu.Unlock()
	e.nudge()
}

// nudge makes the loop look at what is new.
func (e *Engine) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// FlushCache empties the prefix cache as soon as nothing runs or waits. When ctx
// is done before that it gives up with a *BusyError.
func (e *Engine) FlushCache(ctx context.Context) error {
	done := make(chan error, 1)
	e.mu.Lock()
	e.flushes = append(e.flushes, done)
	e.mu.Unlock()
	e.nudge()
	select {
	case err := <-done:
		return err
	case <-e.stopped:
		return ErrClosed
	case <-ctx.Done():
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, f := range e.flushes {
		if f == done {
			e.flushes = append(e.flushes[:i], e.flushes[i+1:]...)
			return &BusyError{Running: e.stats.Running, Waiting: e.stats.Waiting}
		}
	}
	return <-done // it came just now
}

// flushIfAsked empties the tree for those who wait for it. The loop calls it when
// nothing runs or waits.
func (e *Engine) flushIfAsked() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.flushes) > 0 {
		e.cache.Flush()
	}
	for _, f := range e.flushes {
		f <- nil
	}
	e.flushes = nil
}

// Close ends the engine. Requests that live go on until ctx is done; then they
// are ended with ErrShutdown. New ones are refused from now on. Close returns
// when the loop has ended: nil if every request ended by itself, an idle engine
// also if ctx was done before, else the cause of ctx.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	e.nudge()
	select {
	case <-e.stopped:
		return nil
	default:
	}
	select {
	case <-e.stopped:
		return nil
	case <-ctx.Done():
	}
	e.mu.Lock()
	e.cut = true
	e.mu.Unlock()
	e.nudge()
	<-e.stopped
	if !e.cutOff {
		return nil
	}
	return fmt.Errorf("engine: closed before all requests were done: %w", context.Cause(ctx))
}

// forget ends a request's life.
func (e *Engine) forget(r *request, last Event) {
	r.detach()
	e.mu.Lock()
	delete(e.live, r.ID)
	if r.admitted.IsZero() {
		e.queued--
	}
	e.mu.Unlock()
	e.countRequest(r, last, time.Now())
}
