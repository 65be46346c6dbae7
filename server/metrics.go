package server

import (
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"latent/engine"
	"latent/pathway"
)

// metrics counts what the server and, as its observer, the engine do. What the
// engine counts itself is read when the metrics are (metrics_read.go).
type metrics struct {
	handler http.Handler // answers scrapes

	streams     prometheus.Gauge
	disconnects prometheus.Counter
	requests    *prometheus.CounterVec   // by path and status
	seconds     *prometheus.HistogramVec // by path

	firstToken, interToken, perToken, total, queue, prefill, decode prometheus.Histogram
	promptTokens, generated, maxTokens, choices                     prometheus.Histogram

	steps     *prometheus.HistogramVec // seconds, by kind of step
	stepRows  *prometheus.HistogramVec // by phase
	sequences prometheus.Histogram
	forward   prometheus.Counter
	attention *attention

	mu       sync.Mutex
	finished [64]time.Time // when the latest requests ended, in a ring
	ends     int
}

// Buckets.
var (
	latencyBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640}
	gapBuckets     = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	countBuckets   = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144}
	planBuckets    = []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3}
	ratioBuckets   = []float64{.25, .5, .71, .84, 1, 1.19, 1.41, 2, 2.83, 4}
)

// Kinds of steps, by what rows they have.
const (
	stepPrefill = iota
	stepDecode
	stepMixed
	stepKinds
)

var stepNames = [stepKinds]string{"prefill", "decode", "mixed"}

func newMetrics(s *Server) *metrics {
	registry := prometheus.NewRegistry()
	named := prometheus.WrapRegistererWith(prometheus.Labels{"model_name": labelText(s.names[0])}, registry)
	own := prometheus.WrapRegistererWithPrefix("latent_", named)
	f := promauto.With(own)
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	histograms := func(name, help string, buckets []float64, label string) *prometheus.HistogramVec {
		return f.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{label})
	}
	m := &metrics{
		handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{
			ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.HTTPErrorOnError,
		}),
		streams:     f.NewGauge(prometheus.GaugeOpts{Name: "streams_open", Help: "Answers that are being streamed."}),
		disconnects: f.NewCounter(prometheus.CounterOpts{Name: "client_disconnects_total", Help: "Clients that went away before their answer was complete."}),
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "HTTP requests by path and status; 499: the client went away.",
		}, []string{"path", "code"}),
		seconds: histograms("http_request_seconds", "Time from the head of a request to the end of its response.", latencyBuckets, "path"),

		firstToken:   histogram("time_to_first_token_seconds", "From submission to a choice's first token.", latencyBuckets),
		interToken:   histogram("inter_token_latency_seconds", "Between two tokens of a choice.", gapBuckets),
		total:        histogram("e2e_request_latency_seconds", "From submission to the end of a request.", latencyBuckets),
		perToken:     histogram("request_time_per_output_token_seconds", "Mean time between tokens in a request.", gapBuckets),
		queue:        histogram("request_queue_time_seconds", "From submission to admission.", latencyBuckets),
		prefill:      histogram("request_prefill_time_seconds", "From admission to the first token.", latencyBuckets),
		decode:       histogram("request_decode_time_seconds", "From the first token to the end.", latencyBuckets),
		promptTokens: histogram("request_prompt_tokens", "Tokens of a request's prompt.", countBuckets),
		generated:    histogram("request_generation_tokens", "Tokens generated for a request, all choices together.", countBuckets),
		maxTokens:    histogram("request_params_max_tokens", "What requests allowed to be generated.", countBuckets),
		choices:      histogram("request_params_n", "Choices that requests asked for.", countBuckets),

		steps:     histograms("step_seconds", "Time of a step of the engine, planning to events, by what its rows are.", latencyBuckets, "phase"),
		stepRows:  histograms("step_tokens", "Rows of a phase in a step that has any.", countBuckets, "phase"),
		sequences: histogram("step_sequences", "Sequences in a step.", countBuckets),
		forward:   f.NewCounter(prometheus.CounterOpts{Name: "forward_seconds_total", Help: "Measured time of forward passes."}),
		attention: newAttention(f),
	}
	for _, kind := range stepNames {
		m.steps.WithLabelValues(kind)
	}
	for phase := range phases {
		m.stepRows.WithLabelValues(pathway.Phase(phase).String())
	}
	f.NewGauge(prometheus.GaugeOpts{Name: "start_time_seconds", Help: "When the server was made, in Unix time."}).
		Set(float64(s.started.UnixNano()) / 1e9)

	own.MustRegister(&reader{s, loadReadings()}, &reader{s, ownReadings()})
	if slices.Contains(s.config.MetricsCompat, CompatVLLM) {
		prometheus.WrapRegistererWithPrefix("vllm:", named).MustRegister(&reader{s, loadReadings()}, m.firstToken, m.interToken, m.total)
	}
	if slices.Contains(s.config.MetricsCompat, CompatSGLang) {
		prometheus.WrapRegistererWithPrefix("sglang:", named).MustRegister(&reader{s, sglangReadings()})
	}
	return m
}

// labelText makes any text fit for a label.
func labelText(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

// Step counts a step of the engine.
func (m *metrics) Step(info *engine.StepInfo) {
	for _, d := range info.FirstToken {
		m.firstToken.Observe(d.Seconds())
	}
	for _, d := range info.InterToken {
		m.interToken.Observe(d.Seconds())
	}
	m.steps.WithLabelValues(stepNames[kindOfStep(info)]).Observe(info.Total.Seconds())
	for phase, rows := range info.Rows {
		if rows > 0 {
			m.stepRows.WithLabelValues(pathway.Phase(phase).String()).Observe(float64(rows))
		}
	}
	m.sequences.Observe(float64(len(info.Extents)))
	m.forward.Add(info.Forward.Seconds())
	m.attention.step(info)
}

func kindOfStep(info *engine.StepInfo) int {
	prefill := info.Rows[pathway.Prefill] > 0
	decode := info.Rows[pathway.Decode]+info.Rows[pathway.Verify] > 0
	switch {
	case prefill && decode:
		return stepMixed
	case prefill:
		return stepPrefill
	}
	return stepDecode
}

// Request counts a request that has ended.
func (m *metrics) Request(info *engine.RequestInfo) {
	u := &info.Usage
	m.choices.Observe(float64(info.N))
	m.promptTokens.Observe(float64(u.Prompt))
	m.generated.Observe(float64(u.Completion))
	if info.MaxTokens >= 0 {
		m.maxTokens.Observe(float64(info.MaxTokens))
	}
	m.total.Observe(info.Total.Seconds())
	m.queue.Observe(u.Queue.Seconds())
	if u.Prefill > 0 {
		m.prefill.Observe(u.Prefill.Seconds())
		m.decode.Observe(info.Decode.Seconds())
	}
	if later := u.Completion/info.N - 1; later > 0 {
		m.perToken.Observe(info.Decode.Seconds() / float64(later))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.finished[m.ends%len(m.finished)] = time.Now()
	m.ends++
}

// exchange counts an HTTP request.
func (m *metrics) exchange(x *exchange) {
	m.requests.WithLabelValues(x.route, strconv.Itoa(x.status)).Inc()
	m.seconds.WithLabelValues(x.route).Observe(time.Since(x.arrival).Seconds())
}

// drainTime estimates how long a full queue takes to have room again: the time
// in which as many requests ended lately as wait now, within 1 to 60 s.
func (s *Server) drainTime() time.Duration {
	queued := s.engine().Stats().Queued
	m := s.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	known := min(m.ends, len(m.finished))
	if known == 0 {
		return retrySoon
	}
	oldest := m.finished[(m.ends-known)%len(m.finished)]
	each := time.Since(oldest) / time.Duration(known)
	return min(max(each*time.Duration(queued), time.Second), time.Minute)
}

// handleMetrics answers GET /metrics.
func (s *Server) handleMetrics(x *exchange) {
	x.extendWriteDeadline()
	s.metrics.handler.ServeHTTP(x, x.r)
}
