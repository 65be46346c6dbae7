package server

import (
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"latent"
	"latent/engine"
	"latent/pathway"
)

// metrics counts what the server and, as its observer, the engine do. What the
// engine counts itself is read when the metrics are.
type metrics struct {
	s *Server

	mu          sync.Mutex
	streams     int // open
	disconnects int64
	requests    map[[2]string]int64 // by path and status
	seconds     map[string]*distribution

	firstToken, interToken, perToken, total, queue, prefill, decode *distribution
	promptTokens, generated, maxTokens, choices                     *distribution

	steps     [stepKinds]*distribution // seconds
	stepRows  [phases]*distribution
	sequences *distribution
	attention attention

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
	m := &metrics{s: s, requests: map[[2]string]int64{}, seconds: map[string]*distribution{}}
	for _, d := range []**distribution{&m.firstToken, &m.total, &m.queue, &m.prefill, &m.decode} {
		*d = newDistribution(latencyBuckets)
	}
	for _, d := range []**distribution{&m.interToken, &m.perToken} {
		*d = newDistribution(gapBuckets)
	}
	for _, d := range []**distribution{&m.promptTokens, &m.generated, &m.maxTokens, &m.choices, &m.sequences} {
		*d = newDistribution(countBuckets)
	}
	for i := range m.steps {
		m.steps[i] = newDistribution(latencyBuckets)
	}
	for i := range m.stepRows {
		m.stepRows[i] = newDistribution(countBuckets)
	}
	m.attention.plan, m.attention.ratio = newDistribution(planBuckets), newDistribution(ratioBuckets)
	return m
}

// modelIs tells the metrics what is being served.
func (m *metrics) modelIs(e *latent.Engine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attention.layers = e.Config().Layers
}

// Step counts a step of the engine.
func (m *metrics) Step(info *engine.StepInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range info.FirstToken {
		m.firstToken.observe(d.Seconds())
	}
	for _, d := range info.InterToken {
		m.interToken.observe(d.Seconds())
	}
	m.steps[kindOfStep(info)].observe(info.Total.Seconds())
	for phase, rows := range info.Rows {
		if rows > 0 {
			m.stepRows[phase].observe(float64(rows))
		}
	}
	m.sequences.observe(float64(len(info.Extents)))
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
	m.mu.Lock()
	defer m.mu.Unlock()
	m.finished[m.ends%len(m.finished)] = time.Now()
	m.ends++
	u := &info.Usage
	m.choices.observe(float64(info.N))
	m.promptTokens.observe(float64(u.Prompt))
	m.generated.observe(float64(u.Completion))
	if info.MaxTokens >= 0 {
		m.maxTokens.observe(float64(info.MaxTokens))
	}
	m.total.observe(info.Total.Seconds())
	m.queue.observe(u.Queue.Seconds())
	if u.Prefill > 0 {
		m.prefill.observe(u.Prefill.Seconds())
		m.decode.observe(info.Decode.Seconds())
	}
	if later := u.Completion/info.N - 1; later > 0 {
		m.perToken.observe(info.Decode.Seconds() / float64(later))
	}
}

// streaming counts open streams: 1 for one more, -1 for one less.
func (m *metrics) streaming(change int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams += change
}

// disconnected counts a client that went away before its answer was complete.
func (m *metrics) disconnected() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disconnects++
}

// exchange counts an HTTP request.
func (m *metrics) exchange(x *exchange) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests[[2]string{x.route, strconv.Itoa(x.status)}]++
	if m.seconds[x.route] == nil {
		m.seconds[x.route] = newDistribution(latencyBuckets)
	}
	m.seconds[x.route].observe(time.Since(x.arrival).Seconds())
}

// rowTotals returns the rows so far by pathway.
func (m *metrics) rowTotals() (rows [pathway.Count]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.attention.cells {
		for phase := range m.attention.cells[p] {
			for reason := range m.attention.cells[p][phase] {
				rows[p] += m.attention.cells[p][phase][reason].rows
			}
		}
	}
	return rows
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
	text := s.metrics.write()
	x.Header().Set("Content-Type", expositionType)
	x.Header().Set("Content-Length", strconv.Itoa(len(text)))
	x.extendWriteDeadline()
	x.WriteHeader(http.StatusOK)
	_, _ = x.Write([]byte(text)) // an error means that the client is gone
}

// write returns all metrics as text.
func (m *metrics) write() string {
	w := &exposition{prefix: "latent_", common: []string{"model_name", m.s.names[0]}}
	var e *latent.Engine
	var stats engine.Stats
	if attached := m.s.attached.Load(); attached != nil {
		e = attached.engine
		stats = e.Stats()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writeProcess(w, e)
	m.writeHTTP(w, &stats)
	m.writeLoad(w, e, &stats)
	m.writeRequests(w)
	m.writeSteps(w)
	m.attention.write(w, e)
	for _, name := range m.s.config.MetricsCompat {
		switch name {
		case CompatVLLM:
			w.prefix = "vllm:"
			m.writeLoad(w, e, &stats)
			m.writeLatencies(w)
		case CompatSGLang:
			w.prefix = "sglang:"
			writeSGLang(w, e, &stats)
		}
	}
	return w.b.String()
}

func (m *metrics) writeProcess(w *exposition, e *latent.Engine) {
	w.single("start_time_seconds", gauge, "When the server was made, in Unix time.", float64(m.s.started.UnixNano())/1e9)
	w.family("build_info", gauge, "The build and what it runs on; always 1.")
	labels := []string{"version", version(), "commit", commit(), "go", runtime.Version()}
	if e != nil {
		info := e.Device()
		labels = append(labels, "backend", info.Kind, "device", info.Name+" "+info.Tier)
	}
	w.sample(1, labels...)
	if e == nil {
		return
	}
	mem := e.Memory()
	w.family("device_memory_bytes", gauge, "How the device's memory was divided.")
	w.sample(float64(mem.Weights), "kind", "weights")
	w.sample(float64(mem.Workspace), "kind", "workspace")
	w.sample(float64(mem.Cache), "kind", "cache")
}

func (m *metrics) writeHTTP(w *exposition, stats *engine.Stats) {
	w.family("http_requests_total", counter, "HTTP requests by path and status; 499: the client went away.")
	keys := make([][2]string, 0, len(m.requests))
	for key := range m.requests {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	for _, key := range keys {
		w.sample(float64(m.requests[key]), "path", key[0], "code", key[1])
	}
	w.family("http_request_seconds", histogram, "Time from the head of a request to the end of its response.")
	for _, path := range sortedKeys(m.seconds) {
		w.distribution(m.seconds[path], "path", path)
	}
	w.single("streams_open", gauge, "Answers that are being streamed.", float64(m.streams))
	w.single("client_disconnects_total", counter, "Clients that went away before their answer was complete.", float64(m.disconnects))
	w.single("event_buffer_coalesced_total", counter, "Events that were merged because the reader had not taken the one before.", float64(stats.Merged))
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// writeLoad writes what gateways route by. The names are the same for vLLM.
func (m *metrics) writeLoad(w *exposition, e *latent.Engine, stats *engine.Stats) {
	w.single("num_requests_running", gauge, "Sequences in the batch.", float64(stats.Running))
	w.single("num_requests_waiting", gauge, "Sequences in the queue.", float64(stats.Waiting))
	w.single("kv_cache_usage_perc", gauge, "Share of the cache's pages that running sequences hold, 0 to 1.", usedShare(stats))
	if w.prefix == "latent_" {
		w.family("kv_cache_pages", gauge, "Pages of the attention cache by state.")
		w.sample(float64(stats.Cache.Used), "state", "used")
		w.sample(float64(stats.Cache.Cached), "state", "cached")
		w.sample(float64(stats.Cache.Free), "state", "free")
		failed := 0.0
		if stats.Failed != nil {
			failed = 1
		}
		w.single("device_errors_total", counter, "Errors of the device; after one the engine takes no more requests.", failed)
	}
	if e != nil {
		w.family("cache_config_info", gauge, "The attention cache: tokens in a page, pages, format; always 1.")
		w.sample(1, "block_size", strconv.Itoa(pathway.PageTokens), "num_gpu_blocks", strconv.Itoa(e.Memory().Pages), "format", e.Planner().Config().Calibration.Key.Cache)
	}
	w.single("num_preemptions_total", counter, "Sequences that were put back in the queue to make room.", float64(stats.Preemptions))
	w.single("prompt_tokens_total", counter, "Tokens of admitted prompts, those from the cache included.", float64(stats.PromptTokens))
	w.single("generation_tokens_total", counter, "Generated tokens.", float64(stats.GeneratedTokens))
	w.single("prefix_cache_queries_total", counter, "Tokens looked up in the prefix cache.", float64(stats.Cache.QueryTokens))
	w.single("prefix_cache_hits_total", counter, "Of these, tokens found.", float64(stats.Cache.HitTokens))
	w.family("request_success_total", counter, "Choices that ended, by reason.")
	for _, reason := range []engine.FinishReason{engine.FinishStop, engine.FinishLength, engine.FinishAbort} {
		w.sample(float64(stats.Finished[reason]), "finished_reason", string(reason))
	}
	if w.prefix == "latent_" {
		w.family("requests_rejected_total", counter, "Requests that the engine refused, by reason.")
		for _, reason := range sortedKeys(stats.Rejected) {
			w.sample(float64(stats.Rejected[reason]), "reason", reason)
		}
	}
}

func usedShare(stats *engine.Stats) float64 {
	if stats.Cache.Pages == 0 {
		return 0
	}
	return float64(stats.Cache.Used) / float64(stats.Cache.Pages)
}

func writeSGLang(w *exposition, e *latent.Engine, stats *engine.Stats) {
	w.single("num_running_reqs", gauge, "Sequences in the batch.", float64(stats.Running))
	w.single("num_queue_reqs", gauge, "Sequences in the queue.", float64(stats.Waiting))
	w.single("token_usage", gauge, "Share of the cache's pages that running sequences hold, 0 to 1.", usedShare(stats))
	if e != nil {
		w.family("cache_config_info", gauge, "The attention cache: tokens in a page, pages; always 1.")
		w.sample(1, "page_size", strconv.Itoa(pathway.PageTokens), "num_pages", strconv.Itoa(e.Memory().Pages))
	}
}

// writeLatencies writes the histograms that dashboards for vLLM show.
func (m *metrics) writeLatencies(w *exposition) {
	for _, h := range []struct {
		name, help string
		d          *distribution
	}{
		{"time_to_first_token_seconds", "From submission to a choice's first token.", m.firstToken},
		{"inter_token_latency_seconds", "Between two tokens of a choice.", m.interToken},
		{"e2e_request_latency_seconds", "From submission to the end of a request.", m.total},
	} {
		w.family(h.name, histogram, h.help)
		w.distribution(h.d)
	}
}

func (m *metrics) writeRequests(w *exposition) {
	m.writeLatencies(w)
	for _, h := range []struct {
		name, help string
		d          *distribution
	}{
		{"request_time_per_output_token_seconds", "Mean time between tokens in a request.", m.perToken},
		{"request_queue_time_seconds", "From submission to admission.", m.queue},
		{"request_prefill_time_seconds", "From admission to the first token.", m.prefill},
		{"request_decode_time_seconds", "From the first token to the end.", m.decode},
		{"request_prompt_tokens", "Tokens of a request's prompt.", m.promptTokens},
		{"request_generation_tokens", "Tokens generated for a request, all choices together.", m.generated},
		{"request_params_max_tokens", "What requests allowed to be generated.", m.maxTokens},
		{"request_params_n", "Choices that requests asked for.", m.choices},
	} {
		w.family(h.name, histogram, h.help)
		w.distribution(h.d)
	}
}

func (m *metrics) writeSteps(w *exposition) {
	w.family("step_seconds", histogram, "Time of a step of the engine, planning to events, by what its rows are.")
	for kind, d := range m.steps {
		w.distribution(d, "phase", stepNames[kind])
	}
	w.family("step_tokens", histogram, "Rows of a phase in a step that has any.")
	for phase, d := range m.stepRows {
		w.distribution(d, "phase", pathway.Phase(phase).String())
	}
	w.family("step_sequences", histogram, "Sequences in a step.")
	w.distribution(m.sequences)
}
