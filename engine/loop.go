package engine

import (
	"fmt"
	"runtime/debug"
	"time"
)

// # The loop
//
// One goroutine owns the model, the page account and every sequence. A turn of
// it is four verbs:
//
//	add          takes in what other goroutines submitted or cancelled
//	schedule     chooses the rows of a step and finds pages for them
//	run          plans their attention and calls the model
//	postprocess  stores what was learned: tokens and ends
//
// Text and events of a step are left for the next: deliver makes and sends them
// while the device computes. A stop string is found only then, when the sequence
// already has a row in the step that runs; what comes of that row is dropped.
//
// Other goroutines touch the inbox and the streams only, each under a mutex
// that is held for moments; so nothing outside can stop the loop, and the state
// inside needs no locks.
//
// # A sequence
//
// A choice of a request is a sequence: tokens (the prompt, then what was
// generated), of which the first done are computed, that is, have records in
// its pages. Prefill and decode are the same thing, computing the tokens behind
// done: many for a prompt, one behind a generated token. Whenever done reaches
// the end, the logits of the last row give the next token. That one rule also
// covers resuming: a preempted sequence has done = 0 and computes its prompt and
// what it had generated before as if all were prompt. The sampler draws by
// position and its state lives on the host, so the text goes on as if nothing
// had happened.
//
// Invariants, between turns:
//
//  1. A running sequence holds pages for done tokens at least; a waiting
//     one holds none.
//  2. done < len(tokens) for every running sequence: each has something to do.
//  3. running and waiting are in order of arrival, choices in order of index.
//  4. Every page is free, in the tree, or held by a running sequence.
//
// # Memory
//
// A sequence is admitted when pages for all its tokens can be had, and one
// more for each sequence that runs already. So prefill never runs out of pages,
// and a decode rarely does. When it does, the youngest running sequence is
// preempted: its full pages stay in the tree as long as there is room, and it
// goes back to the queue, in its place by age. Since Submit refuses what
// would not fit an empty cache, the oldest sequence can always go on, alone if
// need be; it finishes, and so does every next one: there is no deadlock.
//
// The obvious alternative, reserving pages for prompt and max_tokens at
// admission, never preempts; but answers are usually far shorter than what they
// were allowed, and the batch would be as small as the promises are large.
// Swapping pages to the host instead of recomputing was left out: prefill of
// a few thousand tokens is quick, and usually most pages are still in the tree.
//
// # Fairness
//
// Decode rows come first in every step, then prompt chunks in order of age up to
// ChunkTokens, so a long prompt slows a stream by one chunk per token at
// most. Admission is in order of arrival; nobody is overtaken for being large.
// Only the further choices of a request are passed over while the first is
// still computing the prompt whose pages they will share.
func (e *Engine) loop() {
	defer close(e.stopped)
	for e.add(true) {
		e.turn()
	}
}

// turn runs one step, if there is something to do.
func (e *Engine) turn() {
	if !e.schedule() {
		if len(e.running)+len(e.waiting) > 0 && len(e.spoken) == 0 {
			panic("engine: sequences live, but none can be given a row")
		}
		e.deliver()
		return
	}
	logits, err := e.run()
	e.deliver() // if the model did not come to it
	if err != nil {
		e.fail(err)
		return
	}
	e.postprocess(logits)
}

// run plans the step and computes it.
func (e *Engine) run() (logits []float32, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	start := time.Now()
	e.cfg.Planner.Plan(e.batch.Extents, e.batch.Plan)
	planned := time.Now()
	e.step.Start, e.step.Planning = start, planned.Sub(start)
	e.stepStarts(start)
	e.batch.Meanwhile = e.deliver
	logits, err = e.cfg.Model.Forward(&e.batch.Batch, nil)
	e.step.Forward, e.step.Attention = time.Since(planned), e.batch.Times
	if err != nil {
		return nil, err
	}
	if rows := len(e.batch.LogitRows); e.batch.IDs != nil && len(e.batch.IDs) != rows {
		err = fmt.Errorf("%d tokens came back, want %d", len(e.batch.IDs), rows)
	} else if want := rows * e.cfg.Vocab; e.batch.IDs == nil && len(logits) != want {
		err = fmt.Errorf("%d logits came back, want %d", len(logits), want)
	}
	return logits, err
}

// add takes in what was submitted or cancelled since the last turn. With wait
// it sleeps while there is nothing to do. It returns false when the engine is
// closed and empty.
func (e *Engine) add(wait bool) bool {
	for {
		e.mu.Lock()
		inbox, cancelled := e.inbox, e.cancelled
		e.inbox, e.cancelled = nil, nil
		failed, cut, closing := e.failed, e.cut, e.closing
		e.mu.Unlock()

		if len(cancelled) > 0 || failed != nil || cut {
			e.deliver() // what was generated before the end
		}
		for _, r := range inbox {
			e.waiting = append(e.waiting, r.choices...)
		}
		for _, c := range cancelled {
			e.abort(c.request, c.cause)
		}
		switch {
		case failed != nil:
			e.abortAll(failed)
		case cut:
			e.cutOff = e.cutOff || len(e.running)+len(e.waiting) > 0
			e.abortAll(ErrShutdown)
		}
		idle := len(e.running)+len(e.waiting)+len(e.spoken) == 0
		if idle {
			e.flushIfAsked()
		}
		e.publish()
		e.showIfAsked()
		switch {
		case !idle || !wait:
			return true
		case closing:
			return false
		}
		<-e.wake
	}
}
