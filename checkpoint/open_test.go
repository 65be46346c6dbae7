package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"latent/device"
)

const goldenDir = "../testdata/golden"

// TestOpenGolden opens every golden model, whose files another program wrote,
// and compares the tensors that the configuration calls for with those stored.
func TestOpenGolden(t *testing.T) {
	for name, want := range map[string]struct {
		tensors int
		indexed []int
		qRank   int
	}{
		"deepseek_v2_lite":                 {83, nil, 0},
		"deepseek_v3":                      {91, nil, 48},
		"deepseek_v32":                     {106, []int{0, 1, 2}, 48},
		"deepseek_v32_real_head_dims_bf16": {57, []int{0, 1}, 128},
		"glm4_moe_lite":                    {91, nil, 48},
		"glm_moe_dsa":                      {182, []int{0, 1, 3}, 48},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open(filepath.Join(goldenDir, name), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Verify(); err != nil {
				t.Error(err)
			}
			if got := len(c.Weights.(*Files).Stored()); got != want.tensors {
				t.Errorf("%d tensors, want %d", got, want.tensors)
			}
			if u := c.Unused(); len(u) > 0 {
				t.Errorf("unused tensors %v", u)
			}
			if c.HasMTP() {
				t.Error("found MTP tensors, want none")
			}
			if got := c.Config.Indexed(); !slices.Equal(got, want.indexed) {
				t.Errorf("indexed layers %v, want %v", got, want.indexed)
			}
			if c.Config.QueryRank != want.qRank {
				t.Errorf("q_lora_rank %d, want %d", c.Config.QueryRank, want.qRank)
			}
			if c.HasTokenizer() {
				t.Error("found a tokenizer, want none")
			}
			if c.Name != name {
				t.Errorf("name %q, want %q", c.Name, name)
			}
		})
	}
}

// TestOpenDemo opens the demo model from its folder and from an fs.FS.
func TestOpenDemo(t *testing.T) {
	const dir = "../demo/hf"
	onDisk, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer onDisk.Close()
	inMemory, err := OpenFS(os.DirFS(dir), "demo")
	if err != nil {
		t.Fatal(err)
	}
	defer inMemory.Close()
	if diff := cmp.Diff(onDisk.Config, inMemory.Config); diff != "" {
		t.Error(diff)
	}
	for _, c := range []*Checkpoint{onDisk, inMemory} {
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
		if !c.HasMTP() || !c.HasTokenizer() || len(c.Unused()) > 0 {
			t.Errorf("MTP %v, tokenizer %v, unused %v; want true, true, none", c.HasMTP(), c.HasTokenizer(), c.Unused())
		}
		// The training program counts 8,703,744 and 2,119,808, without the
		// router biases (8 in each of four MoE layers), buffers to it.
		if p := c.Config.Parameters(); p.Total != 8_703_744+3*8 || p.MTP != 2_119_808+8 {
			t.Errorf("%d parameters and %d of MTP, want 8703768 and 2119816", p.Total, p.MTP)
		}
		want := GenerationConfig{Sample: true, Temperature: 0.6, TopP: 0.95, RepetitionPenalty: 1, EOS: []int{1}, BOS: 0}
		if diff := cmp.Diff(want, c.Generation); diff != "" {
			t.Error(diff)
		}
		if got := c.StopTokens(); !slices.Equal(got, []int{1}) {
			t.Errorf("stop tokens %v, want [1]", got)
		}
	}
	for _, s := range Expected(onDisk.Config) {
		if !onDisk.Weights.Has(s.Name) {
			continue
		}
		a, errA := onDisk.Weights.Tensor(s.Name, s.Shape...)
		b, errB := inMemory.Weights.Tensor(s.Name, s.Shape...)
		if errA != nil || errB != nil || a.Type != b.Type || !bytes.Equal(a.Data, b.Data) || !slices.Equal(a.Scales, b.Scales) {
			t.Fatalf("%s differs between folder and fs.FS: %v, %v", s.Name, errA, errB)
		}
		if quantised := a.Type == device.F8E4M3; quantised != (a.Scales != nil) {
			t.Errorf("%s: type %v with %d scales", s.Name, a.Type, len(a.Scales))
		}
	}
}

// folderFS makes a folder in memory from config keys laid over those of a
// golden model, and files.
func folderFS(t *testing.T, golden string, over string, files map[string][]byte) fstest.MapFS {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goldenDir, golden, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := decodeObject(data)
	if err != nil {
		t.Fatal(err)
	}
	if over != "" {
		o, err := decodeObject([]byte(over))
		if err != nil {
			t.Fatal(err)
		}
		merge(m, o)
	}
	if data, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	fsys := fstest.MapFS{"config.json": {Data: data}}
	for name, data := range files {
		fsys[name] = &fstest.MapFile{Data: data}
	}
	return fsys
}

// TestOpenErrors names the file on disk that is at fault.
func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config, err := os.ReadFile(goldenDir + "/deepseek_v3/config.json")
	if err != nil {
		t.Fatal(err)
	}
	file := write("file", "")
	write("empty/other", "")
	write("noweights/config.json", string(config))
	write("zero/config.json", string(config))
	zero := write("zero/model.safetensors", "")
	write("folder/config.json", string(config))
	write("folder/model.safetensors/x", "")
	for _, x := range []struct {
		path string
		opts Options
		want string
	}{
		{filepath.Join(dir, "nothing"), Options{}, "open model: stat " + filepath.Join(dir, "nothing") + ": no such file or directory"},
		{file, Options{}, "open model: found the file " + file + ", want a folder with config.json and *.safetensors"},
		{file, Options{Dummy: true}, file + ": not valid JSON: it ends too early"},
		{filepath.Join(dir, "empty"), Options{}, filepath.Join(dir, "empty", "config.json") + ": no such file or directory"},
		{filepath.Join(dir, "noweights"), Options{}, filepath.Join(dir, "noweights") +
			": found no weights, want model.safetensors, model.safetensors.index.json or other *.safetensors files; to run without weights use the load format dummy"},
		{filepath.Join(dir, "noweights"), Options{Override: `{"n_group":3}`},
			filepath.Join(dir, "noweights", "config.json") + ": n_group: found 3, want a divisor of n_routed_experts = 8"},
		{filepath.Join(dir, "noweights"), Options{Override: `{`}, filepath.Join(dir, "noweights", "config.json") + ": override: not valid JSON: it ends too early"},
		{filepath.Join(dir, "zero"), Options{}, zero + ": not a safetensors file: found 0 bytes, want a header length of 8 bytes"},
		{filepath.Join(dir, "folder"), Options{}, filepath.Join(dir, "folder", "model.safetensors") + ": not a regular file"},
	} {
		c, err := Open(x.path, x.opts)
		if c != nil || err == nil || err.Error() != x.want {
			t.Errorf("Open(%s): got %v, want %s", x.path, err, x.want)
		}
	}
}

// TestOpenDummy opens a model without weights, from its folder and from a bare
// configuration file.
func TestOpenDummy(t *testing.T) {
	for path, name := range map[string]string{goldenDir + "/deepseek_v3": "deepseek_v3", releasedPath("deepseek-v3"): "deepseek-v3"} {
		c, err := Open(path, Options{Dummy: true, Seed: 1, Override: `{"hidden_size":256,"num_attention_heads":4,"intermediate_size":512,"num_hidden_layers":1,"mlp_layer_types":null,"first_k_dense_replace":1}`})
		if err != nil {
			t.Fatal(err)
		}
		if c.Name != name || c.Config.Layers != 1 || !c.HasMTP() {
			t.Errorf("%s: name %q, %d layers, MTP %v; want %q, 1, true", path, c.Name, c.Config.Layers, c.HasMTP(), name)
		}
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
		for _, s := range c.Stored() {
			if !strings.HasPrefix(s.Name, "model.layers.0.") {
				continue
			}
			x, err := c.Weights.Tensor(s.Name, s.Shape...)
			if typ, ok := deviceType(s.DType); err != nil || !ok || x.Type != typ || int64(len(x.Data)) != s.Bytes {
				t.Errorf("%+v: got %v with %d bytes, %v", s, x.Type, len(x.Data), err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMissingTensorError lets callers tell a missing tensor from a bad one.
func TestMissingTensorError(t *testing.T) {
	c, err := Open(goldenDir+"/deepseek_v3", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Weights.Tensor("model.layers.3.enorm.weight", 64)
	if e, ok := errors.AsType[*MissingTensorError](err); !ok || e.Tensor != "model.layers.3.enorm.weight" {
		t.Errorf("got %v", err)
	}
	_, err = c.Weights.Tensor("model.norm.weight", 65)
	if want := c.Path + "/model.safetensors: tensor model.norm.weight: found shape [64], want [65]"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
