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
	early  bool // before min_tokens: nothing ends
	text   string
	finish FinishReason
	stop   any
	err    error
}

// postprocess takes in a step's logits, or the tokens if the model chose them:
// every sequence gets its rows counted, its full pages put in the tree and its
// token sampled, and those that it ends let go of what they have. The rest is
// deliver's.
func (e *Engine) postprocess(logits []float32) {
	e.countRows()
	live := e.works[:0]
	for i := range e.works {
		if e.works[i].seq.finish == NotFinished { // else a stop string, or another choice's failure, ended it
			live = append(live, e.works[i])
		}
	}
	clear(e.works[len(live):])
	e.works = live
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
	ids := e.batch.IDs
	e.each(e.works, func(w *work) { w.sample(logits, ids, e.cfg.Vocab) })
	now := time.Now()
	for i := range e.works {
		w := &e.works[i]
		s, out := w.seq, &w.out
		s.req.probs = append(s.req.probs, out.probs...)
		if s.budget == 0 && s.done == len(s.tokens) {
			out.finish = FinishLength // nothing was to be generated
		}
		if out.err == nil && w.sampleAt >= 0 {
			e.countToken(s, now)
		}
		if out.err != nil || out.finish != NotFinished {
			e.retire(s)
		}
	}
	e.finishStep(now)
	e.works, e.spoken = e.spoken[:0], e.works
}

// each calls f for the works that have something of the logits. Sequences are
// independent of each other in it, so they are spread over the processors. A
// panic ends the request, not the engine.
func (e *Engine) each(works []work, f func(*work)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	todo := 0
	for i := range works {
		if w := &works[i]; w.sampleAt >= 0 || w.probFrom < w.probTo {
			todo++
		}
	}
	for range workers(todo) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(works) {
					return
				}
				works[i].guard(f)
			}
		})
	}
	wg.Wait()
}

func (w *work) guard(f func(*work)) {
	defer func() {
		if r := recover(); r != nil {
			w.out = outcome{err: &PanicError{Value: r, Stack: debug.Stack()}}
		}
	}()
	f(w)
}

// sample fills w.out, from logits, or from ids if the model chose tokens.
func (w *work) sample(logits []float32, ids []int32, vocab int) {
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

// deliver makes the text of the step before and sends its events.
func (e *Engine) deliver() {
	works := e.spoken
	e.each(works, func(w *work) {
		if w.sampleAt >= 0 && w.out.err == nil && w.seq.finish == NotFinished {
			w.seq.spell(&w.out)
		}
	})
	for i := range works {
		e.send(&works[i])
	}
	clear(works)
	e.spoken = works[:0]
}

// send sends the event of a work's outcome and ends its sequence if it has
// ended.
func (e *Engine) send(w *work) {
	s, out := w.seq, &w.out
	if s.finish != NotFinished { // cancelled, or ended by another choice's failure
		return
	}
	if out.err != nil {
		e.abort(s.req, out.err)
		return
	}
	if w.sampleAt < 0 && out.finish == NotFinished {
		return
	}
	event := Event{Choice: s.index, Text: out.text, Finish: out.finish, MatchedStop: out.stop}
	if w.sampleAt >= 0 {
		event.Tokens = []Token{out.token}
		s.sent++
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
		e.retire(s)
		r.live--
		e.totals.Finished[event.Finish]++
	}
	event.Usage = r.usage()
	if r.live == 0 {
		e.forget(r, event)
	}
	r.stream.send(event)
}

// retire takes a sequence that computes no more out of the batch or the queue.
func (e *Engine) retire(s *sequence) {
	is := func(t *sequence) bool { return t == s }
	e.running = slices.DeleteFunc(e.running, is)
	e.waiting = slices.DeleteFunc(e.waiting, is)
	e.releasePages(s)
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
