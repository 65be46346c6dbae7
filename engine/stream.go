package engine

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// Stream is the reading end of a request's events, for one goroutine.
//
// The engine never waits for a reader. What is not read yet is merged, choice
// by choice, into one event: texts and tokens are joined. Usage is always the
// latest, so the last event has that of the whole request.
// So at most N events are pending, and together they are no larger than the
// answer itself, which MaxTokens bounds.
//
// A stream ends by itself: the engine ends every request, by cancelling it if
// its context is done or the engine closes. A reader that stops early should
// cancel the context or call Cancel; it need not read on.
type Stream struct {
	id     string
	cancel func(error)

	mu      sync.Mutex
	pending []pending // at most one per choice, in the order they became pending
	usage   Usage     // the latest
	open    int       // choices without a pending or delivered finish
	merged  *atomic.Int64
	ready   chan struct{} // holds a value if pending or open changed
}

// pending is an event that is not read yet. Its text is in text, where more can
// be appended without copying all of it again.
type pending struct {
	Event
	text []byte
}

func newStream(id string, choices int, cancel func(error), merged *atomic.Int64) *Stream {
	return &Stream{id: id, cancel: cancel, open: choices, merged: merged, ready: make(chan struct{}, 1)}
}

// ID returns the request's ID.
func (s *Stream) ID() string { return s.id }

// Cancel ends the request at the next step: choices that are not done get an
// event with FinishAbort and ErrCanceled. It does not wait.
func (s *Stream) Cancel() { s.cancel(ErrCanceled) }

// Next waits for an event. It returns false when every choice has had its
// finish and nothing is left.
func (s *Stream) Next() (Event, bool) {
	for {
		if e, more, ok := s.Poll(); ok || !more {
			return e, ok
		}
		<-s.ready
	}
}

// All returns the rest of the events.
func (s *Stream) All() iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for {
			e, ok := s.Next()
			if !ok || !yield(e) {
				return
			}
		}
	}
}

// Ready returns a channel that receives a value when Poll is worth calling, for
// readers that wait for other things too.
func (s *Stream) Ready() <-chan struct{} { return s.ready }

// Poll returns a pending event, if there is one, without waiting; more is false
// when none will come.
func (s *Stream) Poll() (e Event, more, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return Event{}, s.open > 0, false
	}
	e = s.pending[0].Event
	e.Text = string(s.pending[0].text)
	s.pending = slices.Delete(s.pending, 0, 1)
	e.Usage = s.usage
	if s.open > 0 || len(s.pending) > 0 {
		e.Usage.Decisions = nil
	}
	return e, true, true
}

// send adds an event, merging it with a pending one of the same choice.
func (s *Stream) send(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage = e.Usage
	if e.Finish != NotFinished {
		s.open--
	}
	for i := range s.pending {
		if p := &s.pending[i]; p.Choice == e.Choice {
			p.merge(e)
			s.merged.Add(1)
			return
		}
	}
	s.pending = append(s.pending, pending{e, []byte(e.Text)})
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// merge appends later news of the same choice.
func (e *pending) merge(later Event) {
	e.text = append(e.text, later.Text...)
	e.Tokens = append(e.Tokens, later.Tokens...)
	if e.Prompt == nil {
		e.Prompt = later.Prompt
	}
	e.Finish, e.MatchedStop, e.Err = later.Finish, later.MatchedStop, later.Err
}
