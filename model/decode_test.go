package model_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"latent/device"
	"latent/engine"
	"latent/pathway"
)

// capturer makes a capturing device of one that works at once: what it records
// is the calls, and a replay makes them again. So it knows exactly what a
// captured step may assume: it refuses shapes that changed.
type capturer struct {
	device.Device
	captures, replays, longest int
	generation                 int
}

type recording struct {
	r          *capturer
	step       *device.Step
	rows       int
	pages      int
	f          func()
	generation int
	freed      bool
}

func (r *capturer) Capture(step *device.Step, pages int, f func()) (device.Graph, error) {
	r.captures++
	return &recording{r: r, step: step, rows: len(step.Tokens), pages: pages, f: f, generation: r.generation}, nil
}

func (g *recording) Replay() bool {
	if g.freed || len(g.step.Tokens) != g.rows {
		panic("replay of a freed or changed step")
	}
	if g.generation != g.r.generation {
		return false
	}
	for _, q := range g.step.Seqs {
		if len(q.Pages) > g.pages {
			panic(fmt.Sprintf("%d pages, captured with room for %d", len(q.Pages), g.pages))
		}
	}
	g.r.replays++
	g.r.longest = max(g.r.longest, g.rows)
	g.r.Device.Begin(g.step)
	g.f()
	return true
}

func (g *recording) Free() { g.freed = true }

// TestCapturedDecode decodes growing batches, whose contexts pass index_topk at
// different times, with captured steps and without: the logits are the same to
// the bit, since the CPU's results for a row do not depend on the others.
func TestCapturedDecode(t *testing.T) {
	for _, dir := range goldenSets(t) {
		t.Run(dir, func(t *testing.T) {
			plain := openGolden(t, dir, variant{})
			var rec *capturer
			captured := openGolden(t, dir, variant{device: func(d device.Device) device.Device {
				rec = &capturer{Device: d}
				return rec
			}})
			seed := rand.Uint64()
			want := decodeAll(t, plain, seed, nil)
			got := decodeAll(t, captured, seed, func(step int) {
				if step == 12 { // memory moved: captured again, same results
					rec.generation++
				}
			})
			if len(got) != len(want) {
				t.Fatalf("%d logits, want %d", len(got), len(want))
			}
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("seed %d: logit %d is %g captured, %g without", seed, i, got[i], want[i])
				}
			}
			if rec.replays < 12 || rec.longest != 4 || rec.captures < 3 || rec.captures > 8 {
				t.Errorf("%d captures, %d replays of up to %d rows", rec.captures, rec.replays, rec.longest)
			}
		})
	}
}

// decodeAll prefills one sequence after the other and decodes all there are
// between; it returns the logits of all decode steps.
func decodeAll(t *testing.T, g *golden, seed uint64, before func(step int)) (logits []float32) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	p := g.planner(t, pathway.Config{Policy: pathway.PolicyMLA})
	s := engine.NewSequences(g.eval(p), 4)
	steps := 0
	for n := 1; n <= 4; n++ {
		prompt := make([]int32, 1+rng.IntN(20))
		for i := range prompt {
			prompt[i] = int32(rng.IntN(g.cfg.Vocab))
		}
		tokens := make([][]int32, 4)
		tokens[n-1] = prompt
		if _, err := s.Step(tokens); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			for i := range n {
				tokens[i] = []int32{int32(rng.IntN(g.cfg.Vocab))}
			}
			if before != nil {
				before(steps)
			}
			steps++
			out, err := s.Step(tokens)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				logits = append(logits, out[i]...)
			}
		}
	}
	return logits
}
