package server

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"latent"
)

// scraped holds series by name and labels, without model_name.
type scraped map[string]float64

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*",?)*)\} (\S+)$`)
	metaLine   = regexp.MustCompile(`^# (HELP|TYPE) (\S+) (.+)$`)
)

// scrape reads the text format, checking it on the way.
func scrape(t *testing.T, text string) scraped {
	t.Helper()
	out := scraped{}
	kinds := map[string]string{}
	family := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := metaLine.FindStringSubmatch(line); m != nil {
			if m[1] == "HELP" {
				if _, twice := kinds[m[2]]; twice {
					t.Errorf("family %s comes twice", m[2])
				}
				family = m[2]
			} else if kinds[m[2]] = m[3]; m[2] != family {
				t.Errorf("TYPE of %s behind HELP of %s", m[2], family)
			}
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not a sample: %s", line)
		}
		name := m[1]
		if kinds[family] == "histogram" {
			name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		}
		if name != family {
			t.Errorf("sample of %s among %s", m[1], family)
		}
		if kind := kinds[family]; (kind == "counter") != strings.HasSuffix(family, "_total") {
			t.Errorf("%s is a %s", family, kind)
		}
		labels, found := strings.CutPrefix(m[2], `model_name="demo"`)
		if !found {
			t.Errorf("no model_name: %s", line)
		}
		key := m[1] + "{" + strings.TrimPrefix(labels, ",") + "}"
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Errorf("%v in %s", err, line)
		}
		if _, twice := out[key]; twice {
			t.Errorf("series %s comes twice", key)
		}
		out[key] = value
	}
	out.checkHistograms(t)
	return out
}

// checkHistograms: buckets rise, and the last is the count.
func (s scraped) checkHistograms(t *testing.T) {
	t.Helper()
	bound := regexp.MustCompile(`,?le="([^"]*)"`)
	type bucket struct{ le, n float64 }
	series := map[string][]bucket{}
	for key, n := range s {
		if name, labels, _ := strings.Cut(key, "{"); strings.HasSuffix(name, "_bucket") {
			le, err := strconv.ParseFloat(bound.FindStringSubmatch(labels)[1], 64)
			if err != nil {
				t.Error(err)
			}
			base := strings.TrimSuffix(name, "_bucket") + "_count{" + bound.ReplaceAllString(labels, "")
			series[base] = append(series[base], bucket{le, n})
		}
	}
	for key, buckets := range series {
		slices.SortFunc(buckets, func(a, b bucket) int {
			if a.le < b.le {
				return -1
			}
			return 1
		})
		for i := 1; i < len(buckets); i++ {
			if buckets[i].n < buckets[i-1].n {
				t.Errorf("%s: bucket %v has %v, the one before %v", key, buckets[i].le, buckets[i].n, buckets[i-1].n)
			}
		}
		if last := buckets[len(buckets)-1]; last.n != s[key] {
			t.Errorf("%s: %v, the last bucket has %v", key, s[key], last.n)
		}
	}
}

// sum adds the series of a family that have all the given labels.
func (s scraped) sum(name string, labels ...string) float64 {
	total := 0.0
	for key, x := range s {
		if !strings.HasPrefix(key, name+"{") {
			continue
		}
		if !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(key, l) }) {
			total += x
		}
	}
	return total
}

// TestMetrics compares the counters with what the answers say.
func TestMetrics(t *testing.T) {
	f := start(t, Config{MetricsCompat: []string{CompatVLLM, CompatSGLang}}, latent.Options{Calibration: "builtin", MaxTotalTokens: 8192, ChunkedPrefillSize: 64}, nil)
	topk := f.engine.Config().Indexer.TopK
	ids := strings.TrimSuffix(strings.Repeat("40,", topk+72), ",")
	var prompt, cached, completion, choices int
	rows, decode := map[string]int{}, 0
	for _, body := range []string{
		`{"prompt":"Hello","max_tokens":5,"ignore_eos":true`,
		`{"prompt":["Hello","there"],"max_tokens":3,"n":2,"ignore_eos":true`,
		`{"prompt":[` + ids + `],"max_tokens":2,"ignore_eos":true`,
		`{"prompt":[` + ids + `],"max_tokens":2,"ignore_eos":true`, // from the cache
	} {
		a := f.ask(t, completionsPath, body+`,"latent":{"explain":true}}`)
		prompt += a.Usage.Prompt
		cached += a.Usage.Details.Cached
		completion += a.Usage.Completion
		choices += len(a.Choices)
		for _, d := range a.Latent.Pathways {
			rows[fmt.Sprintf(`latent_attention_rows_total{pathway=%q,phase=%q,reason=%q}`, d.Pathway, d.Phase, d.Reason)] += d.To - d.From
			if d.Phase == "decode" {
				decode += d.To - d.From
			}
		}
	}
	if cached == 0 {
		t.Error("nothing came from the cache")
	}
	status, header, text := f.do(t, "GET", "/metrics", "")
	if status != http.StatusOK || header.Get("Content-Type") != expositionType {
		t.Errorf("%d %v", status, header)
	}
	s := scrape(t, text)
	for key, want := range rows {
		if got := s[key]; got != float64(want) {
			t.Errorf("%s is %v, the answers explain %d", key, got, want)
		}
	}
	total := 0
	for _, n := range rows {
		total += n
	}
	for name, want := range map[string]int{
		"latent_attention_rows_total": total, "latent_attention_indexer_rows_total": total, "latent_generation_tokens_total": completion,
		"vllm:generation_tokens_total": completion, "latent_request_success_total": choices, "latent_request_generation_tokens_sum": completion,
		"latent_time_to_first_token_seconds_count": choices, "latent_inter_token_latency_seconds_count": completion - choices,
		"latent_e2e_request_latency_seconds_count": 5, "latent_kv_cache_pages": 128, "latent_http_request_seconds_count": 4,
		"latent_prefix_cache_hits_total": cached, "latent_streams_open": 0, "latent_num_requests_running": 0, "sglang:num_queue_reqs": 0,
		"latent_requests_rejected_total": 0, "latent_attention_policy_info": 1, "latent_build_info": 1, "vllm:cache_config_info": 1,
		"latent_request_prompt_tokens_sum": prompt, "latent_request_params_n_sum": choices,
	} {
		if got := s.sum(name); got != float64(want) {
			t.Errorf("%s is %v, want %d", name, got, want)
		}
	}
	if got := s.sum("latent_attention_rows_total", `phase="decode"`); got != float64(decode) || decode != completion-choices {
		t.Errorf("%v decode rows, explained %d, %d tokens for %d choices", got, decode, completion, choices)
	}
	if got := s.sum("latent_attention_indexer_rows_total", `mode="full"`); got == 0 || got != s.sum("latent_attention_rows_total", "-masked")+s.sum("latent_attention_rows_total", "-sparse") {
		t.Errorf("%v indexer rows", got)
	}
	if whole, shared := s.sum("latent_forward_seconds_total"), s.sum("latent_attention_forward_seconds_total"); whole <= 0 || shared < 0.999*whole || shared > 1.001*whole {
		t.Errorf("of %v s forward, %v were attributed", whole, shared)
	}
	if s.sum("latent_attention_predicted_seconds_total") <= 0 || s.sum("latent_attention_pairs_total") <= 0 || s.sum("latent_attention_plan_seconds_count") != s.sum("latent_step_seconds_count") {
		t.Error("no predictions, no pairs, or not one plan a step")
	}
}

// TestLogs: one line a request with its figures, and never what was said.
func TestLogs(t *testing.T) {
	f := start(t, Config{LoadInterval: 20 * time.Millisecond}, exact(), nil)
	const secret = "Xylophon"
	v := serve(t, f.Server)
	a := f.ask(t, chatPath, `{"messages":[{"role":"user","content":"What is 12 + 7? `+secret+`"}],"temperature":0,"stop":["`+secret+`"],"cache_salt":"`+secret+`","user":"`+secret+`"}`)
	f.do(t, "POST", chatPath, `{"messages":[{"role":"`+secret+`","content":"x"}]}`)
	f.do(t, "POST", chatPath, `{"`+secret+`":1`)
	f.do(t, "POST", completionsPath, `{"prompt":"`+secret+`","stream":true,"n":2,"max_tokens":4,"seed":1}`)
	f.do(t, "GET", "/health", "")
	f.do(t, "GET", "/"+secret, "")
	eventually(t, "six lines", func() bool { return len(f.log.lines(t, "request")) == 6 })
	lines := f.log.lines(t, "request")
	first := lines[0]
	for key, want := range map[string]any{
		"method": "POST", "path": chatPath, "status": 200.0, "model": "demo", "stream": false, "n": 1.0, "finish_reason": "stop",
		"prompt_tokens": float64(a.Usage.Prompt), "completion_tokens": float64(a.Usage.Completion), "cached_tokens": 0.0, "reasoning_tokens": 0.0,
	} {
		if first[key] != want {
			t.Errorf("%s is %v, want %v", key, first[key], want)
		}
	}
	rows := 0.0
	for _, n := range first["pathways"].(map[string]any) {
		rows += n.(float64)
	}
	if rows != float64(a.Usage.Total-1) || first["ttft_ms"].(float64) <= 0 || first["tpot_ms"].(float64) <= 0 || first["e2e_ms"].(float64) < first["ttft_ms"].(float64) {
		t.Errorf("%v", first)
	}
	for i, want := range []string{"", "invalid_value", "invalid_json"} {
		if got, _ := lines[i]["error"].(string); got != want {
			t.Errorf("line %d: error %q, want %q", i, got, want)
		}
	}
	if lines[3]["n"] != 2.0 || lines[3]["completion_tokens"] != 8.0 || lines[3]["stream"] != true {
		t.Errorf("%v", lines[3])
	}
	if lines[4]["level"] != "DEBUG" {
		t.Errorf("a probe is logged as %v", lines[4])
	}
	eventually(t, "a line of load", func() bool { return len(f.log.lines(t, "load")) > 0 })
	if load := f.log.lines(t, "load")[0]; load["generated_tokens_per_s"].(float64) <= 0 || load["rows"].(map[string]any)["mla"].(float64) <= 0 {
		t.Errorf("%v", load)
	}
	v.end(t)
	for _, word := range []string{secret, "What is", *a.Choices[0].Message.Content} {
		if strings.Contains(f.log.String(), word) {
			t.Errorf("%q is in the log", word)
		}
	}
}
