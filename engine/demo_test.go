package engine_test

import (
	"context"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"

	"latent/checkpoint"
	"latent/demo"
	"latent/device"
	"latent/device/cpu"
	"latent/engine"
	"latent/model"
	"latent/pathway"
	"latent/sample"
)

// TestDeterministicOnModel runs requests on the demo model through a small
// engine, where they are chunked, batched with others, found in the prefix
// cache and preempted, and wants every token and log probability to be bit for
// bit those of the request alone on an empty cache.
func TestDeterministicOnModel(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds, and minutes with the race detector on a busy machine")
	}
	t.Run("float32/mla", func(t *testing.T) { compareWithAlone(t, device.CacheF32, pathway.PolicyAdaptive) })
	t.Run("fp8/mha", func(t *testing.T) { compareWithAlone(t, device.CacheF8, pathway.PolicyMHA) })
}

func compareWithAlone(t *testing.T, format device.CacheFormat, policy pathway.Policy) {
	const pages = 24
	c, m := demoModel(t, format, pages)
	planner, err := pathway.New(pathway.Config{
		Geometry: m.Geometry(), Calibration: pathway.Estimate(m.Geometry(), 1e11, 2e10),
		Policy: policy, Deterministic: true,
		WorkspaceBytes: m.Options().ExpandBytes, KVBytesPerKey: m.KVBytesPerKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	config := engine.Config{
		Model: m, Planner: planner, Vocab: c.Config.Vocab, MaxContext: c.Config.MaxPos,
		Pages: pages, ChunkTokens: 1000,
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	shared := randomPrompt(random, 150, c.Config.Vocab)
	var requests []*engine.Request
	for range 6 {
		r := &engine.Request{Params: sample.Defaults(), MaxTokens: 1 + random.IntN(30), N: 1 + random.IntN(2)}
		r.Prompt = append(r.Prompt, shared[:64+random.IntN(len(shared)-64)]...)
		r.Prompt = append(r.Prompt, randomPrompt(random, 1+random.IntN(60), c.Config.Vocab)...)
		r.Params.Seed, r.Params.Logprobs = random.Uint64(), 2
		r.Params.Temperature = float64(random.IntN(2))
		r.PromptLogprobs = random.IntN(4) == 0
		requests = append(requests, r)
	}

	small := config
	small.Pages, small.ChunkTokens, small.MaxRunning, small.ProbRows = 6, 37, 5, 20
	if s := compare(t, config, small, seed, requests); s.Cache.HitTokens == 0 {
		t.Errorf("seed %d: nothing was found in the prefix cache", seed)
	}

	// Two that need a second page at the same time, and there is one.
	requests = nil
	for range 2 {
		r := &engine.Request{Prompt: randomPrompt(random, 62, c.Config.Vocab), Params: sample.Defaults(), MaxTokens: 20, N: 1}
		r.Params.Seed, r.Params.Logprobs = random.Uint64(), 2
		requests = append(requests, r)
	}
	small.Pages = 3
	if s := compare(t, config, small, seed, requests); s.Preemptions == 0 {
		t.Errorf("seed %d: nothing was preempted", seed)
	}
}

// compare runs requests one by one on the large engine, each with an empty
// cache, then all at once on the small one.
func compare(t *testing.T, large, small engine.Config, seed uint64, requests []*engine.Request) engine.Stats {
	t.Helper()
	alone := make([][]said, len(requests))
	for i, r := range requests {
		e, err := engine.New(large)
		if err != nil {
			t.Fatal(err)
		}
		alone[i] = listen(t, e, r)
		closeEngine(t, e)
	}

	e, err := engine.New(small)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, r := range requests {
		wg.Go(func() {
			if got := listen(t, e, r); !reflect.DeepEqual(got, alone[i]) {
				t.Errorf("seed %d: request %d of %d tokens: %+v, alone %+v", seed, i, len(r.Prompt), got, alone[i])
			}
		})
	}
	wg.Wait()
	closeEngine(t, e)
	s := e.Stats()
	t.Logf("%d steps, %d preemptions, %d of %d prompt tokens cached", s.Steps, s.Preemptions, s.Cache.HitTokens, s.PromptTokens)
	if s.Cache.Used != 0 {
		t.Errorf("seed %d: at rest %+v", seed, s.Cache)
	}
	return s
}

func demoModel(t *testing.T, format device.CacheFormat, pages int) (*checkpoint.Checkpoint, *model.Model) {
	t.Helper()
	c, err := checkpoint.OpenFS(demo.Checkpoint(), demo.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	m, err := model.Load(dev, c.Config, c.Weights, model.Options{Arithmetic: device.F32, CacheFormat: format})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if err := m.AllocateCache(pages); err != nil {
		t.Fatal(err)
	}
	return c, m
}

func randomPrompt(random *rand.Rand, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = 3 + random.Int32N(int32(vocab)-3)
	}
	return ids
}

// said is what a choice said.
type said struct {
	tokens, prompt []engine.Token
	finish         engine.FinishReason
}

func listen(t *testing.T, e *engine.Engine, r *engine.Request) []said {
	stream, err := e.Submit(t.Context(), r)
	if err != nil {
		t.Error(err)
		return nil
	}
	out := make([]said, r.N)
	for ev := range stream.All() {
		if ev.Err != nil {
			t.Error(ev.Err)
		}
		s := &out[ev.Choice]
		s.tokens = append(s.tokens, ev.Tokens...)
		s.prompt = append(s.prompt, ev.Prompt...)
		s.finish = ev.Finish
	}
	return out
}

func closeEngine(t *testing.T, e *engine.Engine) {
	t.Helper()
	if err := e.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
