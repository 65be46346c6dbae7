package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"latent/checkpoint"
)

// goldenDir holds what Hugging Face transformers answers on small random models.
const goldenDir = "../../testdata/golden"

// TestLogitsGolden runs latent inspect logits on the golden models, alone and
// as a ragged batch, and compares the file it writes.
func TestLogitsGolden(t *testing.T) {
	for _, name := range []string{"deepseek_v32", "glm_moe_dsa", "deepseek_v3", "deepseek_v2_lite", "glm4_moe_lite", "deepseek_v32_real_head_dims_bf16"} {
		t.Run(name, func(t *testing.T) {
			g := openGolden(t, name)
			topK, _ := g.config["index_topk"].(float64)
			for _, policy := range []string{"adaptive", "threshold", "mla", "mha"} {
				for _, chunk := range []string{"0", "7"} {
					got := inspect(t, g.prompts, "--model", filepath.Join(goldenDir, name), "--dtype", "float32",
						"--attention-policy", policy, "--chunked-prefill-size", chunk)
					for i, prompt := range g.names {
						if d := got.logitsFrom(t, fmt.Sprintf("logits.%d", i), g.file, prompt+".logits"); !(d.worst < 2e-4) {
							t.Errorf("%s, %s, chunk %s: logits differ by %.3g", prompt, policy, chunk, d.worst)
						}
						layers := 0
						for key := range g.file.words {
							layer, found := strings.CutPrefix(key, prompt+".topk.")
							if !found {
								continue
							}
							layers++
							got.checkSelection(t, fmt.Sprintf("topk.%d.%s", i, layer), int(topK), g.file, key)
						}
						if wantLayers := strings.Count(strings.Join(got.names, "\n")+"\n", fmt.Sprintf("topk.%d.", i)); layers != wantLayers {
							t.Errorf("%s: selections of %d layers, golden ones of %d", prompt, wantLayers, layers)
						}
					}
				}
			}
		})
	}
}

// TestLogitsOddShapes makes up models whose sizes divide nothing evenly, and
// wants all ways to compute them to agree: every policy and chunking with
// one-shot absorbed attention, in every format, and a batch with its prompts
// alone. Formats of fewer bits must stay near float32.
func TestLogitsOddShapes(t *testing.T) {
	const seed = 7
	random := rand.New(rand.NewPCG(seed, 0))
	var prompts [][]int32
	for _, n := range []int{110, 1, 65, 24, 97} {
		ids := make([]int32, n)
		for i := range ids {
			ids[i] = random.Int32N(190)
		}
		prompts = append(prompts, ids)
	}
	t.Logf("token ids of seed %d", seed)
	configs, err := filepath.Glob("testdata/odd/*.json")
	if err != nil || len(configs) < 4 {
		t.Fatal(configs, err)
	}
	for _, config := range configs {
		t.Run(strings.TrimSuffix(filepath.Base(config), ".json"), func(t *testing.T) {
			run := func(prompts [][]int32, args ...string) *tensors {
				return inspect(t, prompts, append(args, "--model", config, "--load-format", "dummy", "--random-seed", "1")...)
			}
			exact := run(prompts, "--dtype", "float32", "--attention-policy", "mla")
			for _, format := range []struct {
				dtype, cache string
				near         float64 // bound on the mean difference from float32, in mean logits
			}{
				{"float32", "float32", 0},
				{"float32", "bfloat16", 0.2},
				{"float32", "fp8_e4m3", 0.5},
				{"bfloat16", "float32", 0.2},
				{"bfloat16", "auto", 0.2},
				{"bfloat16", "fp8_e4m3", 0.5},
			} {
				args := []string{"--dtype", format.dtype, "--kv-cache-dtype", format.cache}
				want := run(prompts, append(args, "--attention-policy", "mla")...)
				name := format.dtype + "/" + format.cache
				if near, _ := want.compare(t, exact, len(prompts)); !(near <= format.near) {
					t.Errorf("%s: mean difference from float32 is %.3g of the mean logit, want at most %.3g", name, near, format.near)
				}
				// A cache of fewer bits rounds values that differ in their last bit to
				// neighbours now and then.
				check, ways := (*tensors).mustBeNear, []string{"adaptive 7", "mha 0"}
				if format.cache == "float32" {
					check = (*tensors).mustEqual
					ways = []string{"adaptive 0", "adaptive 1", "adaptive 7", "adaptive 64", "threshold 0", "threshold 7", "mla 1", "mla 64", "mha 0", "mha 7"}
				}
				alone := run(prompts[:1], append(args, "--attention-policy", "adaptive")...)
				check(alone, t, name+", the first prompt alone", want, 1)
				for _, way := range ways {
					policy, chunk, _ := strings.Cut(way, " ")
					got := run(prompts, append(args, "--attention-policy", policy, "--chunked-prefill-size", chunk)...)
					check(got, t, name+", policy and chunk "+way, want, len(prompts))
				}
			}
		})
	}
}

// TestParseIDs reads both forms of the file with token ids, and refuses others.
func TestParseIDs(t *testing.T) {
	for _, c := range []struct {
		in   string
		want [][]int32
		err  string
	}{
		{in: " [1, 2,\n3] ", want: [][]int32{{1, 2, 3}}},
		{in: "[ [1,2], [3] ]", want: [][]int32{{1, 2}, {3}}},
		{in: "[[7]]", want: [][]int32{{7}}},
		{in: "", err: "want JSON, an array of token ids or an array of such arrays: unexpected end of JSON input"},
		{in: "[1, 2", err: "want JSON, an array of token ids or an array of such arrays: unexpected end of JSON input"},
		{in: "[1] [2]", err: "want JSON, an array of token ids or an array of such arrays: invalid character '[' after top-level value"},
		{in: `{"input_ids": [1]}`, err: `found {"input_ids": [1]}, want an array of token ids or an array of such arrays`},
		{in: "null", err: "found an empty array, want an array of token ids or an array of such arrays"},
		{in: "[]", err: "found an empty array, want an array of token ids or an array of such arrays"},
		{in: "[[1], []]", err: "prompt 1: found [], want an array of at least one token id"},
		{in: "[[1], 2]", err: "prompt 1: found 2, want an array of at least one token id"},
		{in: "[1, [2]]", err: "prompt 0: found [2] as number 1, want a token id"},
		{in: "[null]", err: "prompt 0: found null as number 0, want a token id"},
		{in: "[1.5]", err: "prompt 0: found 1.5 as number 0, want a token id"},
		{in: `["1"]`, err: `prompt 0: found "1" as number 0, want a token id`},
		{in: "[4294967297]", err: "prompt 0: found 4294967297 as number 0, want a token id"},
	} {
		got, err := parseIDs([]byte(c.in))
		switch {
		case c.err != "":
			if err == nil || err.Error() != c.err {
				t.Errorf("%q: error %v, want %s", c.in, err, c.err)
			}
		case err != nil || !slices.EqualFunc(got, c.want, slices.Equal):
			t.Errorf("%q: %v, %v, want %v", c.in, got, err, c.want)
		}
	}
}

// inspect runs latent inspect logits and returns the tensors of its file.
func inspect(t *testing.T, prompts [][]int32, args ...string) *tensors {
	t.Helper()
	dir := t.TempDir()
	ids, out := filepath.Join(dir, "ids.json"), filepath.Join(dir, "out.safetensors")
	data, err := json.Marshal(prompts)
	if err == nil {
		err = os.WriteFile(ids, data, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	args = append([]string{"inspect", "logits", "--ids-file", ids, "--out", out, "--calibration", "builtin"}, args...)
	if code := run(args, nil, null, null, os.Stderr); code != 0 {
		t.Fatalf("latent %s: exit code %d", strings.Join(args, " "), code)
	}
	return openTensors(t, out)
}

// tensors are those of a safetensors file with 32-bit elements.
type tensors struct {
	names  []string
	shapes map[string][]int
	words  map[string][]uint32
}

func openTensors(t *testing.T, path string) *tensors {
	t.Helper()
	f, err := checkpoint.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := &tensors{shapes: map[string][]int{}, words: map[string][]uint32{}}
	for _, s := range f.Stored() {
		v, err := f.Tensor(s.Name, s.Shape...)
		if err != nil {
			t.Fatal(err)
		}
		words := make([]uint32, len(v.Data)/4)
		for i := range words {
			words[i] = binary.LittleEndian.Uint32(v.Data[4*i:])
		}
		out.names = append(out.names, s.Name)
		out.shapes[s.Name], out.words[s.Name] = s.Shape, words
	}
	return out
}

// difference says how two tensors of logits differ.
type difference struct{ worst, sum, size float64 }

// logitsFrom compares tensor name of a with wantName of want.
func (a *tensors) logitsFrom(t *testing.T, name string, want *tensors, wantName string) difference {
	t.Helper()
	x, y := a.words[name], want.words[wantName]
	if !slices.Equal(a.shapes[name], want.shapes[wantName]) || len(x) == 0 {
		t.Fatalf("%s has shape %v, %s has %v", name, a.shapes[name], wantName, want.shapes[wantName])
	}
	var d difference
	for i := range x {
		e := math.Abs(float64(math.Float32frombits(x[i])) - float64(math.Float32frombits(y[i])))
		if !(e <= d.worst) { // and NaN stays
			d.worst = e
		}
		d.sum += e
		d.size += math.Abs(float64(math.Float32frombits(y[i])))
	}
	return d
}

// compare returns the mean difference of the first prompts' logits, in mean
// sizes of a logit, and the share of rows that select something else.
func (a *tensors) compare(t *testing.T, want *tensors, prompts int) (logits, selections float64) {
	t.Helper()
	var sum, size, differ, rows float64
	for i := range prompts {
		name := fmt.Sprintf("logits.%d", i)
		d := a.logitsFrom(t, name, want, name)
		sum, size = sum+d.sum, size+d.size
		for _, name := range a.names {
			if !strings.HasPrefix(name, fmt.Sprintf("topk.%d.", i)) {
				continue
			}
			n, k := a.shapes[name][0], a.shapes[name][1]
			for row := range n {
				if !slices.Equal(a.words[name][row*k:(row+1)*k], want.words[name][row*k:(row+1)*k]) {
					differ++
				}
			}
			rows += float64(n)
		}
	}
	return sum / size, differ / max(rows, 1)
}

// mustBeNear wants nearly the same logits and selections of the first prompts.
func (a *tensors) mustBeNear(t *testing.T, what string, want *tensors, prompts int) {
	t.Helper()
	if logits, selections := a.compare(t, want, prompts); !(logits < 0.01 && selections < 0.05) {
		t.Errorf("%s: logits differ by %.3g of their mean, %.3g of the selections differ", what, logits, selections)
	}
}

// mustEqual wants the same logits, but for rounding, and the same selections of
// the first prompts.
func (a *tensors) mustEqual(t *testing.T, what string, want *tensors, prompts int) {
	t.Helper()
	for i := range prompts {
		name := fmt.Sprintf("logits.%d", i)
		if d := a.logitsFrom(t, name, want, name); !(d.worst < 2e-4) {
			t.Errorf("%s: %s differ by %.3g", what, name, d.worst)
		}
	}
	if _, selections := a.compare(t, want, prompts); selections != 0 {
		t.Errorf("%s: %.3g of the selections differ", what, selections)
	}
}

// checkSelection compares I32 [tokens, K] tensors of positions as sets, where
// there is something to select, and wants everything up to the token, padded
// with −1, where there is not.
func (a *tensors) checkSelection(t *testing.T, name string, topK int, want *tensors, wantName string) {
	t.Helper()
	shape := a.shapes[name]
	if !slices.Equal(shape, want.shapes[wantName]) || len(shape) != 2 {
		t.Fatalf("%s has shape %v, %s has %v", name, shape, wantName, want.shapes[wantName])
	}
	k := shape[1]
	for row := range shape[0] {
		got := a.words[name][row*k : (row+1)*k]
		ref := slices.Sorted(slices.Values(want.words[wantName][row*k : (row+1)*k]))
		if row < topK {
			ref = nil
			for p := range k {
				if p > row {
					p = -1
				}
				ref = append(ref, uint32(int32(p)))
			}
		}
		if !slices.Equal(got, ref) {
			t.Fatalf("%s: row %d selects %d, want %d", name, row, got, ref)
		}
	}
}

// golden is a golden set with its one-shot prompts.
type golden struct {
	config  map[string]any
	file    *tensors
	names   []string // of prompts: len1, len48, …
	prompts [][]int32
}

func openGolden(t *testing.T, name string) *golden {
	t.Helper()
	g := &golden{file: openTensors(t, filepath.Join(goldenDir, name, "golden.safetensors"))}
	data, err := os.ReadFile(filepath.Join(goldenDir, name, "config.json"))
	if err == nil {
		err = json.Unmarshal(data, &g.config)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tensor := range g.file.names {
		prompt, found := strings.CutSuffix(tensor, ".input_ids")
		if !found {
			continue
		}
		var ids []int32
		for _, w := range g.file.words[tensor] {
			ids = append(ids, int32(w))
		}
		g.names, g.prompts = append(g.names, prompt), append(g.prompts, ids)
	}
	if len(g.names) < 4 {
		t.Fatalf("%s has %d prompts", name, len(g.names))
	}
	return g
}
