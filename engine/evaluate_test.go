package engine

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"latent/device"
	"latent/kvcache"
	"latent/model"
)

func evalConfig(t *testing.T, pages int) (EvalConfig, *pagedModel) {
	m := newPagedModel(fakeVocab, pages)
	return EvalConfig{Model: m, Planner: testPlanner(t), Pages: pages, MaxContext: 1000, Vocab: fakeVocab}, m
}

// wantLogits returns the logits of positions from, from+1, … of ids.
func wantLogits(ids []int32, from int) []float32 {
	var want []float32
	for p := from; p < len(ids); p++ {
		want = append(want, fakeLogits(ids[:p+1], fakeVocab)...)
	}
	return want
}

func randomIDs(random *rand.Rand, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = random.Int32N(fakeVocab)
	}
	return ids
}

func TestEvaluate(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var prompts [][]int32
	for _, n := range []int{1, 300, 0, 64, 65, 17} {
		prompts = append(prompts, randomIDs(random, n))
	}
	for _, chunk := range []int{0, 1, 7, 64, 100} {
		c, m := evalConfig(t, 12)
		c.Chunk = chunk
		logits, err := Evaluate(c, prompts)
		if err != nil {
			t.Fatalf("chunks of %d: %v", chunk, err)
		}
		for i, ids := range prompts {
			if !slices.Equal(logits[i], wantLogits(ids, 0)) {
				t.Errorf("chunks of %d: logits of prompt %d differ", chunk, i)
			}
		}
		steps := 1
		if chunk > 0 {
			steps = (300 + chunk - 1) / chunk
		}
		if m.steps != steps {
			t.Errorf("chunks of %d: %d steps, want %d", chunk, m.steps, steps)
		}
	}
}

// TestSequences grows sequences by random parts, alone and together, and follows
// them through the trace.
func TestSequences(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	c, _ := evalConfig(t, 40)
	var rows [][2]int // sequence and position of every row of the step
	c.Trace = func(step *device.Step, sequences []int) *model.Trace {
		for i, q := range step.Seqs {
			for r := range q.Rows {
				rows = append(rows, [2]int{sequences[i], q.Prefix + r})
			}
		}
		return nil
	}
	s := NewSequences(c, 4)
	for range 30 {
		parts := make([][]int32, 4)
		var want [][2]int
		for i := range parts {
			if random.IntN(2) == 0 {
				parts[i] = randomIDs(random, []int{1, 1, 5, 70}[random.IntN(4)])
			}
			for p := range parts[i] {
				want = append(want, [2]int{i, len(s.seqs[i].tokens) + p})
			}
		}
		rows = nil
		logits, err := s.Step(parts)
		var full *kvcache.NoPagesError
		if errors.As(err, &full) {
			return // the pages are used up, as they must be sooner or later
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !slices.Equal(rows, want) {
			t.Fatalf("seed %d: rows %v, want %v", seed, rows, want)
		}
		for i, ids := range parts {
			if !slices.Equal(logits[i], wantLogits(s.seqs[i].tokens, len(s.seqs[i].tokens)-len(ids))) {
				t.Fatalf("seed %d: logits of sequence %d differ at %d tokens", seed, i, len(s.seqs[i].tokens))
			}
		}
	}
}

func TestEvaluateErrors(t *testing.T) {
	c, m := evalConfig(t, 2)
	c.MaxContext = 100
	var (
		long *TooLongError
		full *kvcache.NoPagesError
	)
	if _, err := Evaluate(c, [][]int32{make([]int32, 101)}); !errors.As(err, &long) || long.Prompt != 101 || long.Limit != 100 {
		t.Errorf("beyond the context: %v", err)
	}
	if _, err := Evaluate(c, [][]int32{make([]int32, 90), make([]int32, 60)}); !errors.As(err, &full) || full.Available != 0 {
		t.Errorf("more pages than there are: %v", err)
	}
	if _, err := Evaluate(c, [][]int32{{fakeVocab}}); err == nil {
		t.Error("a token beyond the vocabulary: no error")
	}
	if _, err := NewSequences(c, 2).Step(make([][]int32, 3)); err == nil {
		t.Error("three parts for two sequences: no error")
	}
	m.err = errors.New("device lost")
	if _, err := Evaluate(c, [][]int32{{1}}); !errors.Is(err, m.err) {
		t.Errorf("a failing model: %v", err)
	}
}
