package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"latent/model"
	"latent/sample"
)

// TestScripts runs testdata/scripts on an engine whose turns are taken by hand.
//
//	engine pages=N [running=N] [chunk=N] [queued=N] [context=N] [prob-rows=N]
//	submit ID prompt=SPEC [max=N] [n=N] [stop=(S,…)] [bias=LETTER] [min=N]
//	       [salt=S] [probs] [include-stop] [ignore-eos]
//	cancel ID          through Engine.Cancel
//	disconnect ID      through the request's context
//	step [N]           takes N turns; shows the rows of the step and the events
//	skip N             takes N turns and shows nothing
//	run                takes turns until nothing is left; shows events only
//	fail               makes the model return an error from now on
//	flush              asks for the prefix cache to be flushed
//	stats
//
// A prompt is spelled as letters with counts: a70b3. bias=x makes every token
// x; bias=. makes it the stop id.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := &script{t: t}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.out.Reset()
			s.command(t, d)
			if err := checkInvariants(s.engine); err != nil {
				t.Fatalf("%s: %v", d.Pos, err)
			}
			return s.out.String()
		})
		s.engine.CancelAll()
		for len(s.engine.live) > 0 {
			s.turn()
		}
		checkRest(t, s.engine)
	})
}

type script struct {
	t       *testing.T
	engine  *Engine
	model   *pagedModel
	streams []*Stream
	hangup  map[string]context.CancelFunc
	flushed chan error
	out     strings.Builder
}

func (s *script) command(t *testing.T, d *datadriven.TestData) {
	name := ""
	if len(d.CmdArgs) > 0 {
		name = d.CmdArgs[0].Key
	}
	number := func(key string, into *int) {
		if d.HasArg(key) {
			d.ScanArgs(t, key, into)
		}
	}
	switch d.Cmd {
	case "engine":
		var pages int
		number("pages", &pages)
		c, m := testConfig(t, pages)
		number("running", &c.MaxRunning)
		number("chunk", &c.ChunkTokens)
		number("queued", &c.MaxQueued)
		number("context", &c.MaxContext)
		number("prob-rows", &c.ProbRows)
		e, err := newEngine(c)
		if err != nil {
			t.Fatal(err)
		}
		s.engine, s.model, s.hangup = e, m, map[string]context.CancelFunc{}
	case "submit":
		r := &Request{ID: name, Params: sample.Defaults(), MaxTokens: 4}
		r.Params.Temperature = 0
		var prompt, bias string
		d.ScanArgs(t, "prompt", &prompt)
		r.Prompt = spelled(t, prompt)
		number("max", &r.MaxTokens)
		number("n", &r.N)
		number("min", &r.Params.MinTokens)
		if d.HasArg("stop") {
			d.ScanArgs(t, "stop", &r.Stop)
		}
		if d.HasArg("salt") {
			d.ScanArgs(t, "salt", &r.CacheSalt)
		}
		if d.HasArg("bias") {
			d.ScanArgs(t, "bias", &bias)
			id := int32(fakeEOS)
			if bias != "." {
				id = int32(bias[0] - 'a')
			}
			r.Params.LogitBias = map[int32]float64{id: 100}
		}
		r.PromptLogprobs, r.IncludeStop, r.IgnoreEOS = d.HasArg("probs"), d.HasArg("include-stop"), d.HasArg("ignore-eos")
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := s.engine.Submit(ctx, r)
		if err != nil {
			cancel()
			fmt.Fprintln(&s.out, err)
			return
		}
		s.hangup[name] = cancel
		s.streams = append(s.streams, stream)
	case "cancel":
		fmt.Fprintln(&s.out, s.engine.Cancel(name))
	case "disconnect":
		before := s.pendingCancels()
		s.hangup[name]()
		for s.pendingCancels() == before { // the context's goroutine brings the news
			runtime.Gosched()
		}
	case "step":
		turns := 1
		if name != "" {
			turns, _ = strconv.Atoi(name)
		}
		for range turns {
			s.turn()
		}
		s.memory()
	case "skip":
		turns, _ := strconv.Atoi(name)
		for range turns {
			s.turn()
		}
		s.out.Reset()
	case "run":
		for len(s.engine.live) > 0 {
			before := s.out.Len()
			s.turn()
			lines := strings.SplitAfter(s.out.String()[before:], "\n")
			kept := s.out.String()[:before]
			s.out.Reset()
			s.out.WriteString(kept)
			for _, line := range lines {
				if !strings.HasPrefix(line, "rows") {
					s.out.WriteString(line)
				}
			}
		}
		s.memory()
	case "fail":
		s.model.err = errors.New("device lost")
	case "flush":
		s.flushed = make(chan error, 1)
		s.engine.flushes = append(s.engine.flushes, s.flushed)
	case "stats":
		st := s.engine.Stats()
		fmt.Fprintf(&s.out, "running %d, waiting %d, queued %d\n", st.Running, st.Waiting, st.Queued)
		fmt.Fprintf(&s.out, "prompt tokens %d, generated %d, preemptions %d\n", st.PromptTokens, st.GeneratedTokens, st.Preemptions)
		fmt.Fprintf(&s.out, "finished %v, rejected %v\n", st.Finished, st.Rejected)
		fmt.Fprintf(&s.out, "prefix tokens hit %d of %d, evictions %d\n", st.Cache.HitTokens, st.Cache.QueryTokens, st.Cache.Evictions)
		if st.Failed != nil {
			fmt.Fprintln(&s.out, st.Failed)
		}
	default:
		t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
}

func (s *script) pendingCancels() int {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	return len(s.engine.cancelled)
}

// turn takes a turn and shows what happened.
func (s *script) turn() {
	e := s.engine
	s.model.before = func(b *model.Batch) {
		for i, w := range e.works {
			x := b.Extents[i]
			fmt.Fprintf(&s.out, "rows %s/%d: %v [%d, %d) in pages %v\n", w.seq.req.ID, w.seq.index,
				x.Phase, x.Prefix, x.Prefix+x.New, w.seq.pages)
		}
	}
	preempted := e.totals.Preemptions
	e.add(false)
	e.turn()
	e.deliver() // else events are those of the turn before
	for _, w := range e.waiting[:min(len(e.waiting), int(e.totals.Preemptions-preempted))] {
		fmt.Fprintf(&s.out, "preempted %s/%d\n", w.req.ID, w.index)
	}
	e.publish()
	for _, stream := range s.streams {
		for {
			ev, _, ok := stream.Poll()
			if !ok {
				break
			}
			s.event(stream.ID(), ev)
		}
	}
	if len(s.flushed) > 0 {
		fmt.Fprintln(&s.out, "flushed:", <-s.flushed)
	}
}

func (s *script) event(id string, ev Event) {
	fmt.Fprintf(&s.out, "%s/%d: %q", id, ev.Choice, ev.Text)
	for _, tok := range ev.Tokens {
		fmt.Fprintf(&s.out, " %s", fakeText([]int32{tok.ID}))
	}
	if ev.Prompt != nil {
		fmt.Fprintf(&s.out, ", %d prompt tokens with log probabilities", len(ev.Prompt))
	}
	if ev.Finish != NotFinished {
		fmt.Fprintf(&s.out, ", finish %s", ev.Finish)
		if ev.MatchedStop != nil {
			fmt.Fprintf(&s.out, " at %v", ev.MatchedStop)
		}
		u := ev.Usage
		fmt.Fprintf(&s.out, ", %d + %d tokens, %d cached", u.Prompt, u.Completion, u.Cached)
	}
	if ev.Err != nil {
		fmt.Fprintf(&s.out, ", %v", ev.Err)
	}
	s.out.WriteByte('\n')
}

func (s *script) memory() {
	st := s.engine.cache.Stats()
	fmt.Fprintf(&s.out, "pages: %d used, %d cached, %d free\n", st.Used, st.Cached, st.Free)
}

// spelled reads letters with counts.
func spelled(t *testing.T, spec string) []int32 {
	var ids []int32
	for len(spec) > 0 {
		end := 1
		for end < len(spec) && spec[end] >= '0' && spec[end] <= '9' {
			end++
		}
		n, err := strconv.Atoi(spec[1:end])
		if err != nil {
			t.Fatalf("prompt %q: want letters with counts", spec)
		}
		ids = append(ids, slices.Repeat([]int32{int32(spec[0] - 'a')}, n)...)
		spec = spec[end:]
	}
	return ids
}
