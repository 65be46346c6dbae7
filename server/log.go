package server

import (
	"context"
	"log/slog"
	"time"

	"latent/engine"
	"latent/pathway"
)

// record is what the log says of a request that generated. It never holds what
// the client or the model said.
type record struct {
	quiet      bool // a probe
	generation bool // the fields below mean something
	model      string
	stream     bool
	n          int
	finishes   string

	prompt, cached, completion, reasoning int
	queue                                 time.Duration
	first, last                           time.Time // tokens
	tokens                                int       // that came
	rows                                  [pathway.Count]int
	indexer                               int
}

func (r *record) noteTokens(n int) {
	if n == 0 {
		return
	}
	r.last = time.Now()
	if r.tokens == 0 {
		r.first = r.last
	}
	r.tokens += n
}

// finish notes how a choice ended; of several, the last that is no ordinary end
// stays.
func (r *record) finish(reason string) {
	if reason != "" && (r.finishes == "" || reason != string(engine.FinishStop)) {
		r.finishes = reason
	}
}

// logExchange writes the one line of a request.
func (s *Server) logExchange(x *exchange) {
	level := slog.LevelInfo
	if x.record.quiet {
		level = slog.LevelDebug
	}
	ctx := context.Background()
	if !s.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", x.id), slog.String("method", x.r.Method), slog.String("path", x.route),
		slog.Int("status", x.status), slog.Float64("e2e_ms", milliseconds(time.Since(x.arrival))),
		slog.String("client", x.r.RemoteAddr),
	}
	if x.keyName != "" {
		attrs = append(attrs, slog.String("key_name", x.keyName))
	}
	if x.failure != nil {
		attrs = append(attrs, slog.String("error", x.failure.code))
		if x.failure.param != "" {
			attrs = append(attrs, slog.String("param", headerText(x.failure.param)))
		}
	}
	if x.record.generation {
		attrs = append(attrs, x.record.attrs(x.arrival)...)
	}
	s.log.LogAttrs(ctx, level, "request", attrs...)
}

func (r *record) attrs(arrival time.Time) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("model", r.model), slog.Bool("stream", r.stream), slog.Int("n", r.n),
		slog.Int("prompt_tokens", r.prompt), slog.Int("cached_tokens", r.cached),
		slog.Int("completion_tokens", r.completion), slog.Int("reasoning_tokens", r.reasoning),
		slog.Float64("queue_ms", milliseconds(r.queue)), slog.String("finish_reason", r.finishes),
		slog.Attr{Key: "pathways", Value: slog.GroupValue(rowsByPathway(r.rows[:])...)}, slog.Int("indexer_rows", r.indexer),
	}
	if r.tokens > 0 {
		attrs = append(attrs, slog.Float64("ttft_ms", milliseconds(r.first.Sub(arrival))))
	}
	if r.tokens > 1 {
		attrs = append(attrs, slog.Float64("tpot_ms", milliseconds(r.last.Sub(r.first)/time.Duration(r.tokens-1))))
	}
	return attrs
}

func rowsByPathway[T int | int64](rows []T) []slog.Attr {
	var attrs []slog.Attr
	for p, n := range rows {
		if n > 0 {
			attrs = append(attrs, slog.Int64(pathway.Pathway(p).String(), int64(n)))
		}
	}
	return attrs
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// logLoad writes a line of load every LoadInterval in which there was any, until
// stop is called.
func (s *Server) logLoad() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(s.config.LoadInterval)
		defer ticker.Stop()
		var before load
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
			}
			if attached := s.attached.Load(); attached != nil {
				now := load{attached.engine.Stats(), s.metrics.attention.rowTotals(), time.Now()}
				if now.Steps > before.Steps {
					s.log.LogAttrs(context.Background(), slog.LevelInfo, "load", now.since(&before, s.started)...)
				}
				before = now
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// load is the engine's state at a time.
type load struct {
	engine.Stats
	rows [pathway.Count]int64
	at   time.Time
}

// since describes l and what happened since an earlier load, or since the start
// if there was none.
func (l *load) since(before *load, start time.Time) []slog.Attr {
	if before.at.IsZero() {
		before.at = start
	}
	seconds := l.at.Sub(before.at).Seconds()
	var rows [pathway.Count]int64
	for p := range rows {
		rows[p] = l.rows[p] - before.rows[p]
	}
	return []slog.Attr{
		slog.Int("running", l.Running), slog.Int("waiting", l.Waiting),
		slog.Int("pages_used", l.Cache.Used), slog.Int("pages_cached", l.Cache.Cached), slog.Int("pages_free", l.Cache.Free),
		slog.Float64("prompt_tokens_per_s", rate(l.PromptTokens-before.PromptTokens, seconds)),
		slog.Float64("generated_tokens_per_s", rate(l.GeneratedTokens-before.GeneratedTokens, seconds)),
		{Key: "rows", Value: slog.GroupValue(rowsByPathway(rows[:])...)},
	}
}

func rate(n int64, seconds float64) float64 {
	return float64(int64(float64(n)/seconds*10)) / 10
}
