package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"latent/model"
	"latent/pathway"
	"latent/sample"
)

// TestConcurrentUse submits, reads slowly, cancels, looks and closes from many
// goroutines. Run with the race detector it also shows who owns what.
func TestConcurrentUse(t *testing.T) {
	seed := rand.Uint64()
	c, _ := testConfig(t, 12)
	c.MaxRunning, c.ChunkTokens, c.MaxContext = 6, 50, 300
	recorder := &recorder{t: t}
	c.Observer = recorder
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	completion, rows := 0, [pathway.Count]int{}
	for client := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(client)))
			for range 6 {
				r := randomRequest(random, c.limit())
				ctx, cancel := context.WithCancel(t.Context())
				stream, err := e.Submit(ctx, r)
				if err != nil {
					t.Errorf("seed %d: %v", seed, err)
					cancel()
					return
				}
				a := newAnswer(r, stream)
				leave := random.IntN(5) == 0
				for ev := range stream.All() {
					a.take(ev)
					if leave && random.IntN(10) == 0 {
						cancel()
					}
					if random.IntN(20) == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				cancel()
				if err := a.check(c.limit()); err != nil {
					t.Errorf("seed %d, client %d: %v", seed, client, err)
				}
				if err := checkDecisions(a.last.Usage); err != nil {
					t.Errorf("seed %d, client %d: %v", seed, client, err)
				}
				mu.Lock()
				completion += a.last.Usage.Completion
				for p, n := range a.last.Usage.Rows {
					rows[p] += n
				}
				mu.Unlock()
			}
		})
	}
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for range 20 {
			e.Stats()
			if _, err := e.Live(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}()
	wg.Wait()
	<-looked
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
	checkRest(t, e)
	s := e.Stats()
	if recorder.requests != 48 || recorder.steps != int(s.Steps) {
		t.Errorf("observed %d requests and %d steps, there were 48 and %d", recorder.requests, recorder.steps, s.Steps)
	}
	if recorder.tokens != completion || int(s.GeneratedTokens) != completion {
		t.Errorf("%d tokens timed, %d counted, %d in usage", recorder.tokens, s.GeneratedTokens, completion)
	}
	// A stop string is found when the next row runs already: it is in no usage.
	dropped := 0
	for p := range rows {
		dropped += recorder.rows[p] - rows[p]
	}
	if dropped < 0 || dropped > 2*recorder.requests {
		t.Errorf("rows by pathway %v in plans, %v in usage", recorder.rows, rows)
	}
	if _, err := e.Submit(t.Context(), &Request{Prompt: []int32{1}, Params: sample.Defaults()}); !errors.Is(err, ErrClosed) {
		t.Errorf("Submit after Close: %v, want ErrClosed", err)
	}
	if err := e.FlushCache(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("FlushCache after Close: %v, want ErrClosed", err)
	}
}

// checkDecisions compares the decisions with the rows that are counted.
func checkDecisions(u Usage) error {
	var rows [pathway.Count]int
	indexer := 0
	for _, d := range u.Decisions {
		rows[d.Pathway] += d.To - d.From
		if d.Pathway.Selects() {
			indexer += d.To - d.From
		}
		if d.From >= d.To || d.Reason == 0 {
			return fmt.Errorf("decision %+v", d)
		}
	}
	if rows != u.Rows || indexer != u.IndexerRows {
		return fmt.Errorf("rows %v and %d with indexer in usage, %v and %d in decisions", u.Rows, u.IndexerRows, rows, indexer)
	}
	return nil
}

// recorder is an observer that counts.
type recorder struct {
	t                       *testing.T
	steps, requests, tokens int
	rows                    [pathway.Count]int
}

func (r *recorder) Step(s *StepInfo) {
	r.steps++
	r.tokens += len(s.FirstToken) + len(s.InterToken)
	rows := 0
	for i := range s.Plan.Segments {
		seg := &s.Plan.Segments[i]
		r.rows[seg.Pathway] += seg.Rows()
		rows += seg.Rows()
	}
	if byPhase := s.Rows[0] + s.Rows[1] + s.Rows[2]; rows != byPhase || rows == 0 {
		r.t.Errorf("step of %d rows, %d by phase", rows, byPhase)
	}
	if s.Forward <= 0 || s.Total < s.Forward {
		r.t.Errorf("step took %v, its forward pass %v", s.Total, s.Forward)
	}
}

func (r *recorder) Request(i *RequestInfo) {
	r.requests++
	if i.Finish == NotFinished || i.Total <= 0 || i.Decode > i.Total {
		r.t.Errorf("request ended as %+v", i)
	}
}

// inBubble runs f in a synctest bubble with an engine whose steps take a second.
func inBubble(t *testing.T, pages int, f func(t *testing.T, e *Engine, m *pagedModel)) {
	synctest.Test(t, func(t *testing.T) {
		c, m := testConfig(t, pages)
		m.before = func(*model.Batch) { time.Sleep(time.Second) }
		e, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close(t.Context())
		f(t, e, m)
	})
}

// sayX asks for n times the same token.
func sayX(n int) *Request {
	r := &Request{Prompt: []int32{1, 2, 3}, Params: sample.Defaults(), MaxTokens: n}
	r.Params.LogitBias = map[int32]float64{23: 100}
	return r
}

func submit(t *testing.T, e *Engine, ctx context.Context, r *Request) *Stream {
	t.Helper()
	s, err := e.Submit(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSlowReaderGetsOneEvent(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, e *Engine, _ *pagedModel) {
		s := submit(t, e, t.Context(), sayX(20))
		time.Sleep(10*time.Second + time.Millisecond)
		ev, ok := s.Next()
		if !ok || ev.Text != "xxxxxxxxxx" || len(ev.Tokens) != 10 || ev.Usage.Completion != 10 {
			t.Errorf("after ten steps: %q, %d tokens, usage %+v", ev.Text, len(ev.Tokens), ev.Usage)
		}
		time.Sleep(time.Minute)
		ev, ok = s.Next()
		if !ok || ev.Text != "xxxxxxxxxx" || ev.Finish != FinishLength {
			t.Errorf("after a minute: %+v", ev)
		}
		if ev, ok := s.Next(); ok {
			t.Errorf("after the end: %+v", ev)
		}
		if n := e.Stats().Merged; n != 18 {
			t.Errorf("%d events merged, want 18", n)
		}
	})
}

func TestTimes(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, e *Engine, _ *pagedModel) {
		first := submit(t, e, t.Context(), sayX(5))
		time.Sleep(1500 * time.Millisecond) // in the middle of a step
		if s := e.Stats(); time.Since(s.StepStart) != 500*time.Millisecond || s.Running != 1 {
			t.Errorf("step in progress since %v, %d running", s.StepStart, s.Running)
		}
		second := submit(t, e, t.Context(), sayX(2))
		var last Event
		for ev := range second.All() {
			last = ev
		}
		if u := last.Usage; u.Queue != 500*time.Millisecond || u.Prefill != time.Second {
			t.Errorf("queued for %v, prefilled in %v, want 0.5 s and 1 s", u.Queue, u.Prefill)
		}
		for range first.All() {
		}
		synctest.Wait()
		if s := e.Stats(); !s.StepStart.IsZero() || s.Running+s.Waiting != 0 {
			t.Errorf("at rest: step since %v, %d running", s.StepStart, s.Running)
		}
	})
}

func TestContextCancelsRequest(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, e *Engine, _ *pagedModel) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 3500*time.Millisecond, errors.New("client is gone"))
		defer cancel()
		s := submit(t, e, ctx, sayX(20))
		tokens := 0
		var last Event
		for ev := range s.All() {
			last = ev
			tokens += len(ev.Tokens)
		}
		if tokens != 4 || last.Finish != FinishAbort || last.Err == nil || last.Err.Error() != "client is gone" {
			t.Errorf("%d tokens, then %+v", tokens, last)
		}
		synctest.Wait()
		if st := e.Stats(); st.Cache.Used != 0 || st.Finished[FinishAbort] != 1 {
			t.Errorf("after cancelling: %+v", st)
		}
	})
}

// TestEndedRequestLetsGoOfContext wants no news of a context whose request has
// ended: contexts may live as long as a server.
func TestEndedRequestLetsGoOfContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := testConfig(t, 4)
		e, err := newEngine(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		submit(t, e, ctx, sayX(1))
		e.add(false)
		e.turn()
		e.turn() // sends the event
		checkRest(t, e)
		cancel()
		synctest.Wait()
		if len(e.cancelled) != 0 {
			t.Error("the end of a context cancelled a request that had ended")
		}
	})
}

func TestCloseDrains(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, e *Engine, _ *pagedModel) {
		quick, slow := submit(t, e, t.Context(), sayX(3)), submit(t, e, t.Context(), sayX(100))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		err := e.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 12*time.Second {
			t.Errorf("Close after %v: %v", time.Since(start), err)
		}
		if _, err := e.Submit(t.Context(), sayX(1)); !errors.Is(err, ErrClosed) {
			t.Errorf("Submit after Close: %v", err)
		}
		if ev, _ := quick.Next(); ev.Finish != FinishLength || ev.Text != "xxx" {
			t.Errorf("the quick one ended with %+v", ev)
		}
		if ev, _ := slow.Next(); ev.Finish != FinishAbort || !errors.Is(ev.Err, ErrShutdown) || len(ev.Tokens) < 9 {
			t.Errorf("the slow one ended with %+v", ev)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Errorf("second Close: %v", err)
		}
		checkRest(t, e)
	})
}

func TestFlushCacheWaitsForIdle(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, e *Engine, _ *pagedModel) {
		r := sayX(6)
		r.Prompt = make([]int32, 70)
		s := submit(t, e, t.Context(), r)
		time.Sleep(time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		var busy *BusyError
		if err := e.FlushCache(ctx); !errors.As(err, &busy) || busy.Running != 1 {
			t.Errorf("FlushCache while busy: %v", err)
		}
		if err := e.FlushCache(t.Context()); err != nil {
			t.Errorf("FlushCache: %v", err)
		}
		for range s.All() {
		}
		if st := e.Stats().Cache; st.Free != st.Pages {
			t.Errorf("after the flush: %+v", st)
		}
	})
}

func TestLive(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, e *Engine, _ *pagedModel) {
		r := sayX(10)
		r.ID, r.N = "r", 2
		r.Prompt = make([]int32, 130) // 3 pages: the second choice shares two and needs one
		submit(t, e, t.Context(), r)
		time.Sleep(500 * time.Millisecond)
		view, err := e.Live(t.Context())
		if err != nil || len(view) != 2 {
			t.Fatalf("%+v, %v", view, err)
		}
		v := view[0]
		if v.Request != "r" || !v.Running || v.Prompt != 130 || v.Computed != 130 || v.Generated != 1 || len(v.Decisions) == 0 {
			t.Errorf("the first choice: %+v", v)
		}
		if v := view[1]; v.Choice != 1 || v.Running || v.Computed != 0 {
			t.Errorf("the second choice: %+v", v)
		}
		if !e.Cancel("r") {
			t.Error("request r is not live")
		}
	})
}

func TestPanicInForwardFailsEngine(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, e *Engine, m *pagedModel) {
		m.before = func(*model.Batch) { panic("kernel bug") }
		s := submit(t, e, t.Context(), sayX(3))
		ev, _ := s.Next()
		var failed *FailedError
		var panicked *PanicError
		if !errors.As(ev.Err, &failed) || !errors.As(ev.Err, &panicked) || panicked.Value != "kernel bug" || len(panicked.Stack) == 0 {
			t.Errorf("the request ended with %v", ev.Err)
		}
		if _, err := e.Submit(t.Context(), sayX(3)); !errors.As(err, &failed) {
			t.Errorf("Submit after the failure: %v", err)
		}
		if e.Stats().Failed == nil {
			t.Error("the failure is not in the statistics")
		}
	})
}

// TestCloseIdle wants no error from closing at once when nothing is cut off by
// it: not of an engine that never ran, nor after a request was cancelled.
func TestCloseIdle(t *testing.T) {
	for range 20 {
		c, _ := testConfig(t, 4)
		e, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		submit(t, e, t.Context(), sayX(50)).Cancel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.Close(ctx); err != nil {
			t.Fatalf("Close: %v", err)
		}
		checkRest(t, e)
	}
}

// panickyDetok panics at the third token.
type panickyDetok struct {
	fakeDetok
	tokens int
}

func (d *panickyDetok) Add(id int32) string {
	d.tokens++
	if d.tokens == 3 {
		panic("bad token")
	}
	return d.fakeDetok.Add(id)
}

func TestPanicOfOneRequestIsItsOwn(t *testing.T) {
	c, _ := testConfig(t, 8)
	first := true
	c.Detokenizer = func(bool) Detokenizer {
		if first { // the first choice of the bad request
			first = false
			return new(panickyDetok)
		}
		return new(fakeDetok)
	}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	bad, good := sayX(9), sayX(9)
	bad.N = 2
	b, g := submit(t, e, t.Context(), bad), submit(t, e, t.Context(), good)
	answer := newAnswer(bad, b)
	for ev := range b.All() {
		answer.take(ev)
		var panicked *PanicError
		if ev.Finish != NotFinished && (!errors.As(ev.Err, &panicked) || panicked.Value != "bad token") {
			t.Errorf("choice %d of the bad request ended with %q, %v", ev.Choice, ev.Finish, ev.Err)
		}
	}
	if answer.text[0] != "xx" || answer.text[1] != "xx" { // the other choice's third token is dropped
		t.Errorf("the bad request said %q", answer.text)
	}
	text := ""
	for ev := range g.All() {
		text += ev.Text
	}
	if text != "xxxxxxxxx" {
		t.Errorf("the good request said %q", text)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
	checkRest(t, e)
}

func TestConfigErrors(t *testing.T) {
	good, _ := testConfig(t, 4)
	for name, change := range map[string]func(*Config){
		"no model":    func(c *Config) { c.Model = nil },
		"no planner":  func(c *Config) { c.Planner = nil },
		"no pages":    func(c *Config) { c.Pages = 0 },
		"no vocab":    func(c *Config) { c.Vocab = 0 },
		"no context":  func(c *Config) { c.MaxContext = 0 },
		"chunk below": func(c *Config) { c.ChunkTokens = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRefusals(t *testing.T) {
	c, _ := testConfig(t, 4)
	withText := c
	c.Detokenizer = nil
	noText, err := newEngine(c)
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEngine(withText)
	if err != nil {
		t.Fatal(err)
	}
	var (
		field *RequestError
		param *sample.ParamError
	)
	for name, try := range map[string]struct {
		engine *Engine
		change func(*Request)
		want   any
	}{
		"no prompt":      {e, func(r *Request) { r.Prompt = nil }, &field},
		"negative id":    {e, func(r *Request) { r.Prompt = []int32{-1} }, &field},
		"id too large":   {e, func(r *Request) { r.Prompt = []int32{fakeVocab} }, &field},
		"beyond tokens":  {e, func(r *Request) { r.Params.Vocabulary, r.Prompt = 20, []int32{20} }, &field},
		"vocabulary":     {e, func(r *Request) { r.Params.Vocabulary = fakeVocab + 1 }, &field},
		"negative n":     {e, func(r *Request) { r.N = -1 }, &field},
		"empty stop":     {e, func(r *Request) { r.Stop = []string{"a", ""} }, &field},
		"stop, no text":  {noText, func(r *Request) { r.Stop = []string{"a"} }, &field},
		"unknown policy": {e, func(r *Request) { r.Policy = 77 }, &field},
		"temperature":    {e, func(r *Request) { r.Params.Temperature = -1 }, &param},
		"stop id":        {e, func(r *Request) { r.Params.StopIDs = []int32{fakeVocab} }, &param},
	} {
		r := sayX(3)
		try.change(r)
		if _, err := try.engine.Submit(t.Context(), r); !errors.As(err, try.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := e.Stats().Rejected["invalid"]; n != 10 {
		t.Errorf("%d refusals counted, want 10", n)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Submit(done, sayX(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("Submit with a done context: %v", err)
	}
}
