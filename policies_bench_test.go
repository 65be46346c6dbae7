package latent_test

import (
	"context"
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
// configs/bench-0.85b.json with dummy weights, and a calibration measured in
// the same process.

// attentionTime sums the time that steps spend on attention.
type attentionTime struct{ sum atomic.Int64 }

func (a *attentionTime) Step(s *engine.StepInfo)     { a.sum.Add(int64(s.Attention.Total())) }
func (a *attentionTime) Request(*engine.RequestInfo) {}

// benchModel opens the benchmark model.
func benchModel(b *testing.B) (*latent.Engine, *attentionTime) {
	b.Helper()
	attention := new(attentionTime)
	opts := latent.Options{Model: "configs/bench-0.85b.json", Device: "cpu", LoadFormat: "dummy", MaxContext: 16384, MaxTotalTokens: 65536}
	ctx := context.Background()
	l, err := latent.Load(ctx, opts)
	if err != nil {
		b.Fatal(err)
	}
	costs, err := l.Calibrate(8192)
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range costs.Residuals {
		b.Logf("calibration: %s: %d samples, RMS error %.0f %%, worst %.0f %%", r.Operation, r.Samples, 100*r.RMS, 100*r.Worst)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	opts.Calibration, opts.Observer = b.TempDir()+"/calibration.json", attention
	if err := costs.Save(opts.Calibration); err != nil {
		b.Fatal(err)
	}
	e, err := latent.Open(ctx, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close() })
	return e, attention
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
