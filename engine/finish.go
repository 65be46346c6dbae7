package engine

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"latent/sample"
)

// outcome is what a step brought for one sequence.
type outcome struct {
	probs  []Token // log probabilities of prompt tokens
	token  Token
	text   string
	finish FinishReason
	stop   any
	err    error
}

// postprocess takes in a step's logits, or the tokens if the model chose them: every sequence gets its rows counted,
// its full pages put in the tree, its token sampled, its event sent, and its
// end if it has come.
func (e *Engine) postprocess(logits []float32) {
	e.countRows()
	for i := range e.works {
		w := &e.works[i]
		s := w.seq
		before := s.done
		s.done += w.n
		if full := s.done / pageTokens; full > before/pageTokens {
			e.cache.Insert(s.req.CacheSalt, s.tokens[:s.done], s.pages)
		}
		if s.done >= s.prompt {
			s.req.prefilled = true
		}
	}
	e.sample(logits)
	now := time.Now()
	for i := range e.works {
		e.deliver(&e.works[i], now)
	}
	e.finishStep(now)
}

// sample fills the outcomes of the step's works. Sequences are independent of
// each other here, so they are spread over the processors.
func (e *Engine) sample(logits []float32) {
	var next atomic.Int64
	var wg sync.WaitGroup
	todo := 0
	for i := range e.works {
		if w := &e.works[i]; w.sampleAt >= 0 || w.probFrom < w.probTo {
			todo++
		}
	}
	for range workers(todo) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(e.works) {
					return
				}
				e.works[i].compute(logits, e.batch.IDs, e.cfg.Vocab)
			}
		})
	}
	wg.Wait()
}

// compute fills w.out, from logits, or from ids if the model chose tokens. A
// panic in it ends the request, not the engine.
func (w *work) compute(logits []float32, ids []int32, vocab int) {
	defer func() {
		if r := recover(); r != nil {
			w.out = outcome{err: &PanicError{Value: r, Stack: debug.Stack()}}
		}
	}()
	row := func(i int) []float32 { return logits[i*vocab : (i+1)*vocab] }
	s := w.seq
	for p := w.probFrom; p < w.probTo; p++ {
		token, err := s.promptProb(row(w.probAt+p-w.probFrom), p)
		if err != nil {
			w.out.err = err
			return
		}
		w.out.probs = append(w.out.probs, token)
	}
	switch {
	case w.sampleAt < 0:
	case ids == nil:
		s.advance(row(w.sampleAt), &w.out)
	case ids[w.sampleAt] < 0:
		w.out.err = fmt.Errorf("engine: logits of token %d: NaN or +Inf among them, or none that is finite", len(s.tokens))
	default:
		s.take(sample.Result{ID: ids[w.sampleAt]}, &w.out)
	}
}

// deliver sends the event of a work's outcome and ends its sequence if it has
// ended.
func (e *Engine) deliver(w *work, now time.Time) {
	s, out := w.seq, &w.out
	if s.finish != NotFinished { // another choice's failure ended the request
		return
	}
	if out.err != nil {
		e.abort(s.req, out.err)
		return
	}
	s.req.probs = append(s.req.probs, out.probs...)
	if s.budget == 0 && s.done == len(s.tokens) {
		out.finish = FinishLength // nothing was to be generated
	}
	if w.sampleAt < 0 && out.finish == NotFinished {
		return
	}
	event := Event{Choice: s.index, Text: out.text, Finish: out.finish, MatchedStop: out.stop}
	if w.sampleAt >= 0 {
		event.Tokens = []Token{out.token}
		e.countToken(s, now)
	}
	if s.index == 0 && !s.req.probsSent {
		event.Prompt = s.req.probs
		s.req.probsSent = true
	}
	e.end(s, event)
}

// end sends a sequence's event and, if it is the last, lets go of everything
// that the sequence has.
func (e *Engine) end(s *sequence, event Event) {
	r := s.req
	if event.Finish != NotFinished {
		s.finish = event.Finish
		is := func(t *sequence) bool { return t == s }
		e.running = slices.DeleteFunc(e.running, is)
		e.waiting = slices.DeleteFunc(e.waiting, is)
		e.releasePages(s)
		r.live--
		e.totals.Finished[event.Finish]++
	}
	event.Usage = r.usage()
	if r.live == 0 {
		e.forget(r, event)
	}
	r.stream.send(event)
}

// releasePages lets go of a sequence's pages. The full ones are in the tree and
// stay there as long as there is room: the next turn of a conversation, or the
// sequence itself if it was preempted, will find them.
func (e *Engine) releasePages(s *sequence) {
	e.cache.Release(s.pages)
	s.pages = nil
}

// abort ends a request with an error.
func (e *Engine) abort(r *request, cause error) {
	for _, s := range r.choices {
		if s.finish == NotFinished {
			e.end(s, Event{Choice: s.index, Finish: FinishAbort, Err: cause})
		}
	}
}

func (e *Engine) abortAll(cause error) {
	for len(e.running) > 0 {
		e.abort(e.running[0].req, cause)
	}
	for len(e.waiting) > 0 {
		e.abort(e.waiting[0].req, cause)
	}
}

// fail ends everything: after an error of the model neither its state nor the
// contents of the cache can be trusted.
func (e *Engine) fail(err error) {
	failure := &FailedError{Err: err}
	e.mu.Lock()
	e.failed = failure
	e.mu.Unlock()
	e.abortAll(failure)
	e.cache.Flush()
	e.publish()
}
