package latent_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"latent"
	"latent/chat"
	"latent/checkpoint"
	"latent/sample"
)

// TestDemoGolden compares the embedded demo model with what Hugging Face
// transformers answers on exactly its weights: prompts to tokens, logits of
// the last position, and greedy tokens to the end, on every policy.
func TestDemoGolden(t *testing.T) {
	files, err := checkpoint.OpenFile("demo/testdata/golden.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	text, err := os.ReadFile("demo/testdata/golden_prompts.json")
	if err != nil {
		t.Fatal(err)
	}
	var prompts []string
	if err := json.Unmarshal(text, &prompts); err != nil {
		t.Fatal(err)
	}
	words := func(name string) []uint32 {
		for _, s := range files.Stored() {
			if s.Name != name {
				continue
			}
			v, err := files.Tensor(name, s.Shape...)
			if err != nil {
				t.Fatal(err)
			}
			out := make([]uint32, len(v.Data)/4)
			for i := range out {
				out[i] = binary.LittleEndian.Uint32(v.Data[4*i:])
			}
			return out
		}
		t.Fatalf("no %s", name)
		return nil
	}
	ids := func(name string) []int32 {
		var out []int32
		for _, w := range words(name) {
			out = append(out, int32(w))
		}
		return out
	}
	ctx := context.Background()
	for _, policy := range []string{"adaptive", "threshold", "mla", "mha"} {
		t.Run(policy, func(t *testing.T) {
			opts := latent.Options{Device: "cpu", DType: "float32", AttentionPolicy: policy, Calibration: "builtin"}
			loaded, err := latent.Load(ctx, opts)
			if err != nil {
				t.Fatal(err)
			}
			defer loaded.Close()
			e, err := latent.Open(ctx, opts)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			for i, prompt := range prompts {
				key := fmt.Sprintf("fp8.prompt%d.", i)
				want := ids(key + "input_ids")
				got, _, err := e.Encode(latent.Request{Messages: []chat.Message{{Role: chat.User, Content: prompt}}})
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("prompt %d: tokens %v, want %v", i, got, want)
				}
				eval, err := loaded.Evaluate([][]int32{want}, 0)
				if err != nil {
					t.Fatal(err)
				}
				v := loaded.Config().Vocab
				last, worst := eval[0].Logits[(len(want)-1)*v:], 0.0
				for j, w := range words(key + "last_logits") {
					worst = max(worst, math.Abs(float64(last[j])-float64(math.Float32frombits(w))))
				}
				if !(worst < 2e-4) {
					t.Errorf("prompt %d: logits differ by %.3g", i, worst)
				}
				greedy := sample.Defaults()
				greedy.Temperature = 0
				var tokens []int32
				for d, err := range e.Generate(ctx, latent.Request{Tokens: want, Sampling: &greedy, MaxTokens: 60}) {
					if err != nil {
						t.Fatal(err)
					}
					for _, token := range d.Tokens {
						tokens = append(tokens, token.ID)
					}
				}
				if wantIDs := ids(key + "greedy_ids"); !slices.Equal(tokens, wantIDs) {
					t.Errorf("prompt %d: greedy tokens %v, want %v", i, tokens, wantIDs)
				}
			}
		})
	}
}
