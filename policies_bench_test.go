package latent_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"latent"
	"latent/engine"
	"latent/pathway"
	"latent/sample"
)

// The benchmarks below compare attention policies on one model in one process:
// the same weights, and in each round every policy once, in turns, so that a
// busy neighbour disturbs all of them alike. Run them with
//
//	go test -run '^$' -bench 'Policies|Throughput' -benchtime 5x -timeout 2h .
//
// -benchtime Nx is the number of rounds. They take the benchmark model of
// configs/bench-0.85b.json with dummy weights unless flags say otherwise, and a
// calibration measured in the same process. BenchmarkPrompts is for a GPU:
//
//	go test -run '^$' -bench Prompts -benchtime 1x -timeout 1h . -bench-device cuda \
//		-bench-model configs/deepseek-v3.2.json -bench-layers 6 -bench-cache fp8_e4m3
var (
	benchDevice = flag.String("bench-device", "cpu", "device of the benchmarks: cpu or cuda")
	benchConfig = flag.String("bench-model", "configs/bench-0.85b.json", "configuration of the model that the benchmarks run, with dummy weights")
	benchLayers = flag.Int("bench-layers", 0, "layers of that model, 0: all")
	benchCache  = flag.String("bench-cache", "auto", "format of the attention cache in the benchmarks")
	benchCosts  = flag.String("bench-calibration", "", "calibration to use instead of measuring one, e.g. builtin")
)

// attentionTime sums the time that steps spend on attention.
type attentionTime struct{ sum atomic.Int64 }

func (a *attentionTime) Step(s *engine.StepInfo)     { a.sum.Add(int64(s.Attention.Total())) }
func (a *attentionTime) Request(*engine.RequestInfo) {}

// benchModel opens the benchmark model.
func benchModel(b *testing.B) (*latent.Engine, *attentionTime) {
	b.Helper()
	attention := new(attentionTime)
	opts := latent.Options{
		Model: *benchConfig, LoadFormat: "dummy", Device: *benchDevice, KVCacheDType: *benchCache,
		MaxContext: 20480, Calibration: *benchCosts,
		Progress: func(line string) { b.Log(line) },
	}
	if opts.Device == "cpu" {
		opts.MaxContext, opts.MaxTotalTokens = 16384, 65536
	}
	if *benchLayers > 0 {
		opts.ConfigOverride = fmt.Sprintf(`{"num_hidden_layers": %d}`, *benchLayers)
	}
	ctx := context.Background()
	if opts.Calibration == "" {
		opts.Calibration = calibrated(b, opts)
	}
	opts.Observer = attention
	e, err := latent.Open(ctx, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close() })
	return e, attention
}

// calibrated measures a calibration and returns the file it is in.
func calibrated(b *testing.B, opts latent.Options) string {
	b.Helper()
	l, err := latent.Load(b.Context(), opts)
	if err != nil {
		b.Fatal(err)
	}
	context := 16384
	if opts.Device == "cpu" {
		context = 8192 // minutes less
	}
	costs, err := l.Calibrate(context)
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range costs.Residuals {
		b.Logf("calibration: %s: %d samples, RMS error %.0f %%, worst %.0f %%", r.Operation, r.Samples, 100*r.RMS, 100*r.Worst)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	path := b.TempDir() + "/calibration.json"
	if err := costs.Save(path); err != nil {
		b.Fatal(err)
	}
	return path
}

// load is a set of requests that arrive at once.
type load struct {
	prompts []int // tokens of each
	decodes int   // tokens to generate by each
}

// run submits the load with a policy and returns the mean time to first token
// and the time until everything is done. Prompts are random, so that nothing
// is cached.
func (l load) run(b *testing.B, e *latent.Engine, r *rand.Rand, policy pathway.Policy) (first, all time.Duration) {
	b.Helper()
	params := sample.Defaults()
	params.Temperature = 0
	start := time.Now()
	type result struct {
		first time.Duration
		err   error
	}
	results := make(chan result)
	for _, n := range l.prompts {
		prompt := make([]int32, n)
		for i := range prompt {
			prompt[i] = int32(r.IntN(e.Config().Vocab))
		}
		s, err := e.Core().Submit(context.Background(), &engine.Request{
			Prompt: prompt, Params: params, MaxTokens: max(1, l.decodes), IgnoreEOS: true, Policy: policy})
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			var out result
			for event := range s.All() {
				if out.first == 0 && len(event.Tokens) > 0 {
					out.first = time.Since(start)
				}
				if event.Err != nil {
					out.err = event.Err
				}
			}
			results <- out
		}()
	}
	var sum time.Duration
	for range l.prompts {
		out := <-results
		if out.err != nil {
			b.Fatal(out.err)
		}
		sum += out.first
	}
	if err := e.Core().FlushCache(context.Background()); err != nil {
		b.Fatal(err)
	}
	return sum / time.Duration(len(l.prompts)), time.Since(start)
}

var comparedPolicies = []pathway.Policy{pathway.PolicyAdaptive, pathway.PolicyThreshold, pathway.PolicyMLA, pathway.PolicyMHA}

// BenchmarkPolicies measures the time to first token of single prompts and of
// mixed batches under each policy. It reports medians in milliseconds, the
// median over rounds of the other policies' times over the adaptive one's
// (above 1: adaptive is faster), and the regret: the adaptive time over that of
// the best fixed policy. Attention is the part of the time that the plan is
// about: selection, expansion, absorption and cores, of all layers and steps.
func BenchmarkPolicies(b *testing.B) {
	e, attention := benchModel(b)
	loads := map[string]load{
		"mixed": {prompts: []int{64, 900, 128, 2048, 256, 96, 512, 300, 700, 200, 400}, decodes: 8},
	}
	names := []string{}
	for _, n := range []int{128, 256, 512, 2048, 8192} {
		name := fmt.Sprintf("prompt=%d", n)
		loads[name] = load{prompts: []int{n}}
		names = append(names, name)
	}
	names = append(names, "mixed")
	for _, name := range names {
		l := loads[name]
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, uint64(len(name))))
			l.run(b, e, r, pathway.PolicyAdaptive) // warm
			times := map[pathway.Policy][]float64{}
			first := map[pathway.Policy][]float64{}
			inAttention := map[pathway.Policy][]float64{}
			b.ResetTimer()
			for round := range b.N {
				for i := range comparedPolicies {
					p := comparedPolicies[(i+round)%len(comparedPolicies)]
					before := attention.sum.Load()
					ttft, all := l.run(b, e, r, p)
					inAttention[p] = append(inAttention[p], float64(attention.sum.Load()-before)/1e6)
					first[p] = append(first[p], ttft.Seconds()*1e3)
					times[p] = append(times[p], all.Seconds()*1e3)
				}
			}
			b.StopTimer()
			b.ReportMetric(0, "ns/op")
			best := 0.0
			for _, p := range comparedPolicies {
				b.ReportMetric(median(first[p]), p.String()+"-ttft-ms")
				b.ReportMetric(median(inAttention[p]), p.String()+"-attention-ms")
				if len(l.prompts) > 1 {
					b.ReportMetric(median(times[p]), p.String()+"-all-ms")
				}
				if p == pathway.PolicyAdaptive {
					continue
				}
				ratio := median(ratios(times[p], times[pathway.PolicyAdaptive]))
				b.ReportMetric(ratio, p.String()+"/adaptive")
				if best == 0 || ratio < best {
					best = ratio
				}
			}
			b.ReportMetric(1/best, "regret")
		})
	}
}

// BenchmarkPrompts measures many prompts at once with one token to generate, as
// the figures of SGLang pull request 11892 were: throughput, mean latency (all
// requests arrive at the start) and the share of attention, under the adaptive
// policy, that request's rule, and latent attention only.
func BenchmarkPrompts(b *testing.B) {
	e, attention := benchModel(b)
	policies := []pathway.Policy{pathway.PolicyAdaptive, pathway.PolicyThreshold, pathway.PolicyMLA}
	mixed := load{}
	for i := range 100 {
		mixed.prompts = append(mixed.prompts, []int{64, 137, 299, 333, 512, 911, 1500, 2048, 2900, 8192}[i*7%10])
	}
	loads := []load{mixed}
	for _, n := range []int{512, 1024, 2000, 4096, 8192, 16384} {
		loads = append(loads, load{prompts: slices.Repeat([]int{n}, 100)})
	}
	for i, l := range loads {
		name := "mixed"
		if i > 0 {
			name = fmt.Sprint(l.prompts[0])
		}
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(3, uint64(i)))
			tokens := 0
			for _, n := range l.prompts {
				tokens += n
			}
			warm := load{prompts: l.prompts[:4]}
			all, mean, inAttention := map[pathway.Policy][]float64{}, map[pathway.Policy][]float64{}, map[pathway.Policy][]float64{}
			for _, p := range policies {
				warm.run(b, e, r, p)
			}
			for round := range b.N {
				for i := range policies {
					p := policies[(i+round)%len(policies)]
					before := attention.sum.Load()
					latency, total := l.run(b, e, r, p)
					inAttention[p] = append(inAttention[p], float64(attention.sum.Load()-before)/1e9/total.Seconds())
					all[p], mean[p] = append(all[p], total.Seconds()), append(mean[p], latency.Seconds())
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, p := range policies {
				b.ReportMetric(float64(tokens)/median(all[p]), p.String()+"-tok/s")
				b.ReportMetric(1e3*median(mean[p]), p.String()+"-latency-ms")
				b.ReportMetric(100*median(inAttention[p]), p.String()+"-attention-%")
				if p != pathway.PolicyAdaptive {
					b.ReportMetric(100*(median(ratios(all[p], all[pathway.PolicyAdaptive]))-1), p.String()+"-throughput-gain-%")
					b.ReportMetric(100*(1-median(ratios(mean[pathway.PolicyAdaptive], mean[p]))), p.String()+"-latency-gain-%")
				}
			}
		})
	}
}

// BenchmarkThroughput measures prefill at 512 tokens and decode behind short
// and long contexts, in tokens a second, of one sequence.
func BenchmarkThroughput(b *testing.B) {
	e, _ := benchModel(b)
	r := rand.New(rand.NewPCG(2, 2))
	b.Run("prefill=512", func(b *testing.B) {
		var rate []float64
		for range b.N {
			ttft, _ := load{prompts: []int{512}}.run(b, e, r, pathway.PolicyDefault)
			rate = append(rate, 512/ttft.Seconds())
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(median(rate), "tok/s")
	})
	for _, depth := range []int{16, 512, 4096} {
		b.Run(fmt.Sprintf("decode@%d", depth), func(b *testing.B) {
			var rate []float64
			for range b.N {
				ttft, all := load{prompts: []int{depth}, decodes: 65}.run(b, e, r, pathway.PolicyDefault)
				rate = append(rate, 64/(all-ttft).Seconds())
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(rate), "tok/s")
		})
	}
}

func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}
