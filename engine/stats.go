package engine

import (
	"context"
	"errors"
	"maps"
	"time"

	"latent/device"
	"latent/kvcache"
	"latent/model"
	"latent/pathway"
	"latent/sample"
)

const pageTokens = device.PageTokens

// Stats is the state of an engine as of its last turn, and its counters.
type Stats struct {
	Running int // sequences in the batch
	Waiting int // sequences in the queue, those preempted included
	Queued  int // requests that were not admitted yet; MaxQueued bounds it
	Cache   kvcache.Stats
	Totals
	// Rejected counts refused requests by reason: invalid, too_long,
	// queue_full, in_use, closed, failed, cancelled.
	Rejected map[string]int64
	// Merged counts events that were merged into one not read yet.
	Merged int64
	// StepStart is when the step in progress began, zero between steps. An
	// engine whose step does not end is stuck.
	StepStart time.Time
	// Failed is the *FailedError if the model failed, else nil.
	Failed error
}

// Totals counts since the engine's start.
type Totals struct {
	Steps           int64
	PromptTokens    int64 // of admitted requests, cached ones included
	GeneratedTokens int64
	Preemptions     int64
	Finished        map[FinishReason]int64 // choices by reason
}

// Observer is told what the engine does. It is called by the loop, must be
// quick, and must not keep what it is given.
type Observer interface {
	// Step is called after every step.
	Step(*StepInfo)
	// Request is called when a request has ended.
	Request(*RequestInfo)
}

// StepInfo describes one step.
type StepInfo struct {
	Start    time.Time
	Planning time.Duration // making the plan
	Forward  time.Duration // the model, to the logits on the host
	Total    time.Duration // with sampling and events
	// Attention is the part of Forward that Plan.Predicted is about, of all
	// layers.
	Attention model.Times

	Extents []pathway.Extent // the geometry
	Plan    *pathway.Plan
	Rows    [3]int // by phase
	// FirstToken holds, for every choice that got its first token, the time
	// since its request was submitted; InterToken, for every other token, the
	// time since the one before.
	FirstToken, InterToken []time.Duration
	Preempted              int // sequences preempted to make room
}

func (s *StepInfo) reset() {
	*s = StepInfo{FirstToken: s.FirstToken[:0], InterToken: s.InterToken[:0]}
}

// RequestInfo describes a request that has ended.
type RequestInfo struct {
	ID        string
	N         int
	MaxTokens int // as asked for, negative: no bound of its own
	Finish    FinishReason
	Err       error // with FinishAbort
	Usage     Usage
	// Decode is the time from the first token to the end, Total from the
	// submission to the end. A duration is 0 if its start never came.
	Decode, Total time.Duration
}

// SequenceView is a sequence as [Engine.Live] shows it.
type SequenceView struct {
	Request   string
	Choice    int
	Running   bool
	Prompt    int // tokens of the prompt
	Computed  int // tokens with records in the cache
	Generated int
	Decisions []Decision
}

// Stats returns the state of the engine.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.Queued = e.queued
	s.Finished = maps.Clone(s.Finished)
	s.Rejected = maps.Clone(e.rejected)
	s.Merged = e.merged.Load()
	s.StepStart = e.stepStart
	if e.failed != nil {
		s.Failed = e.failed
	}
	return s
}

// Live returns the engine's sequences, the running ones first, in order of
// age. It waits for the step in progress to end.
func (e *Engine) Live(ctx context.Context) ([]SequenceView, error) {
	answer := make(chan []SequenceView, 1)
	e.mu.Lock()
	e.looks = append(e.looks, answer)
	e.mu.Unlock()
	e.nudge()
	select {
	case view := <-answer:
		return view, nil
	case <-e.stopped:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// showIfAsked answers Live.
func (e *Engine) showIfAsked() {
	e.mu.Lock()
	looks := e.looks
	e.looks = nil
	e.mu.Unlock()
	for _, answer := range looks {
		var view []SequenceView
		for _, s := range e.running {
			view = append(view, s.view(true))
		}
		for _, s := range e.waiting {
			view = append(view, s.view(false))
		}
		answer <- view
	}
}

// publish makes the state visible to Stats.
func (e *Engine) publish() {
	finished := maps.Clone(e.totals.Finished)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stepStart = time.Time{}
	e.stats = Stats{
		Running: len(e.running),
		Waiting: len(e.waiting),
		Cache:   e.cache.Stats(),
		Totals:  e.totals,
	}
	e.stats.Finished = finished
}

func (e *Engine) stepStarts(t time.Time) {
	e.mu.Lock()
	e.stepStart = t
	e.mu.Unlock()
}

// admitted notes a sequence's start, or its return after a preemption.
func (e *Engine) admitted(s *sequence, cached int) {
	r := s.req
	if !r.admitted.IsZero() {
		return
	}
	r.admitted = time.Now()
	r.cached = cached
	e.totals.PromptTokens += int64(s.prompt)
	e.mu.Lock()
	e.queued--
	e.mu.Unlock()
}

// countRows notes on which pathways the step's rows ran.
func (e *Engine) countRows() {
	b := &e.batch
	for i := range b.plan.Segments {
		seg := &b.plan.Segments[i]
		s := e.works[seg.Extent].seq
		s.req.rows[seg.Pathway] += seg.Rows()
		if seg.Pathway.Selects() {
			s.req.indexerRows += seg.Rows()
		}
		s.decide(seg, b.Extents[seg.Extent])
	}
}

// countToken notes the time of a token.
func (e *Engine) countToken(s *sequence, now time.Time) {
	if s.last.IsZero() {
		e.step.FirstToken = append(e.step.FirstToken, now.Sub(s.req.arrival))
	} else {
		e.step.InterToken = append(e.step.InterToken, now.Sub(s.last))
	}
	s.last = now
	if s.req.firstToken.IsZero() {
		s.req.firstToken = now
	}
	e.totals.GeneratedTokens++
}

// finishStep tells the observer of the step.
func (e *Engine) finishStep(now time.Time) {
	e.totals.Steps++
	if e.cfg.Observer == nil {
		return
	}
	e.step.Extents, e.step.Plan = e.batch.Extents, e.batch.Plan
	for _, x := range e.batch.Extents {
		e.step.Rows[x.Phase] += x.New
	}
	e.step.Total = now.Sub(e.step.Start)
	e.cfg.Observer.Step(&e.step)
}

// countRequest tells the observer of a request's end.
func (e *Engine) countRequest(r *request, last Event, now time.Time) {
	if e.cfg.Observer == nil {
		return
	}
	info := RequestInfo{
		ID:        r.ID,
		N:         len(r.choices),
		MaxTokens: r.MaxTokens,
		Finish:    last.Finish,
		Err:       last.Err,
		Usage:     last.Usage,
		Total:     now.Sub(r.arrival),
	}
	if !r.firstToken.IsZero() {
		info.Decode = now.Sub(r.firstToken)
	}
	e.cfg.Observer.Request(&info)
}

// rejection names the reason of a refusal.
func rejection(err error) string {
	var (
		invalid *RequestError
		long    *TooLongError
		full    *QueueFullError
		inUse   *InUseError
		failed  *FailedError
		param   *sample.ParamError
	)
	switch {
	case errors.As(err, &invalid), errors.As(err, &param):
		return "invalid"
	case errors.As(err, &long):
		return "too_long"
	case errors.As(err, &full):
		return "queue_full"
	case errors.As(err, &inUse):
		return "in_use"
	case errors.As(err, &failed):
		return "failed"
	case errors.Is(err, ErrClosed):
		return "closed"
	}
	return "cancelled"
}
