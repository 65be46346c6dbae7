package checkpoint

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"latent/device"
)

func readConfig(t testing.TB, path string, overrides ...[]byte) *Config {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(data, overrides...)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return c
}

// releasedPath finds the configuration of a released model: published ones are
// in configs of the repository, for dummy weights; others are for tests only.
func releasedPath(name string) string {
	path := filepath.Join("..", "configs", name+".json")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return filepath.Join("testdata", "configs", name+".json")
}

// TestReleasedConfigs checks configurations of released models, in the original
// spelling, against published sizes: parameters in billions and bytes of
// attention cache a token.
func TestReleasedConfigs(t *testing.T) {
	for _, x := range []struct {
		name               string
		total, active, mtp float64
		bf16, fp8, index   int64 // bytes a token, the index keys in FP8
		softmax            float64
	}{
		{"deepseek-v3.2", 671.9, 37.5, 11.6, 70272, 40016, 8052, 0.13523378},
		{"deepseek-v3", 671.0, 36.6, 11.6, 70272, 40016, 0, 0.13523378},
		{"deepseek-v2", 235.7, 20.9, 0, 69120, 39360, 0, 0.11472139},
		{"deepseek-v2-lite", 15.7, 2.5, 0, 31104, 17712, 0, 0.11472139},
		{"moonlight", 16.0, 2.6, 0, 31104, 17712, 0, 0.07216878},
		{"kimi-k2", 1026.4, 31.7, 0, 70272, 40016, 0, 0.13086080},
		{"glm-4.7-flash", 29.9, 3.6, 0.6, 54144, 30832, 0, 0.0625},
		{"glm-5", 743.9, 40.8, 10, 89856, 51168, 10296, 0.0625},
		{"glm-5.2", 743.4, 40.3, 10, 89856, 51168, 2772, 0.0625},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := readConfig(t, releasedPath(x.name))
			p := c.Parameters()
			for _, n := range []struct {
				what string
				got  int64
				want float64
			}{{"total", p.Total, x.total}, {"active", p.Active, x.active}, {"MTP", p.MTP, x.mtp}} {
				if got := float64(n.got) / 1e9; math.Abs(got-n.want) > 0.06 {
					t.Errorf("%s parameters %.2f B, want %v B", n.what, got, n.want)
				}
			}
			bf16, _ := c.TokenBytes(device.CacheBF16)
			fp8, index := c.TokenBytes(device.CacheF8)
			if bf16 != x.bf16 || fp8 != x.fp8 || index != x.index {
				t.Errorf("bytes a token %d, %d, %d; want %d, %d, %d", bf16, fp8, index, x.bf16, x.fp8, x.index)
			}
			near(t, "softmax scale", float64(c.SoftmaxScale()), x.softmax, 1e-7)
		})
	}
}

// TestFamilies reads the keys that differ between families.
func TestFamilies(t *testing.T) {
	read := func(name string) *Config { return readConfig(t, releasedPath(name)) }
	v3Router := RouterConfig{Bias: true, Groups: 8, KeepGroups: 4, Choose: 8, Normalize: true, Scale: 2.5}
	for name, want := range map[string]RouterConfig{
		"deepseek-v3.2":    v3Router,
		"deepseek-v3":      v3Router,
		"deepseek-v2":      {Softmax: true, GroupMax: true, Groups: 8, KeepGroups: 3, Choose: 6, Scale: 16},
		"deepseek-v2-lite": {Softmax: true, Groups: 1, KeepGroups: 1, Choose: 6, Scale: 1},
		"moonlight":        {Bias: true, Groups: 1, KeepGroups: 1, Choose: 6, Normalize: true, Scale: 2.446},
		"kimi-k2":          {Bias: true, Groups: 1, KeepGroups: 1, Choose: 8, Normalize: true, Scale: 2.827},
		"glm-4.7-flash":    {Bias: true, Groups: 1, KeepGroups: 1, Choose: 4, Normalize: true, Scale: 1.8},
		"glm-5.2":          {Bias: true, Groups: 1, KeepGroups: 1, Choose: 8, Normalize: true, Scale: 2.5},
	} {
		if diff := cmp.Diff(want, read(name).Router); diff != "" {
			t.Errorf("%s: router (-want +got):\n%s", name, diff)
		}
	}

	v32, glm := read("deepseek-v3.2"), read("glm-5.2")
	if v32.Indexer.Interleaved || !glm.Indexer.Interleaved {
		t.Error("indexer RoPE: want half-split for deepseek_v32, interleaved for glm_moe_dsa")
	}
	if !v32.BlockFP8 || !v32.ScaleUE8M0 || read("deepseek-v3").ScaleUE8M0 || glm.BlockFP8 {
		t.Error("FP8 flags: want blocks for V3.2 and V3, power-of-two scales for V3.2 only, none for GLM")
	}
	// Offset 3, frequency 4: 0, 1, 2, 6, 10, …, 74.
	layers := []int{0, 1}
	for i := 2; i <= 74; i += 4 {
		layers = append(layers, i)
	}
	if got := glm.Indexed(); !slices.Equal(got, layers) {
		t.Errorf("GLM-5.2 full layers %v, want %v", got, layers)
	}
	if got := len(v32.Indexed()); got != 61 {
		t.Errorf("V3.2 has %d full layers, want 61", got)
	}
	kimi := read("kimi-k2")
	if kimi.ModelType != "kimi_k2" || !slices.Equal(kimi.EOS, []int{163586}) || !kimi.BlockFP8 {
		t.Errorf("wrapper: got model type %q, eos %v, FP8 %v; want the text model's and the wrapper's", kimi.ModelType, kimi.EOS, kimi.BlockFP8)
	}
	if m := read("moonlight"); m.Rope.YaRN != nil || m.Rope.Theta != 5e4 || m.QueryRank != 0 || m.Eps != 1e-5 {
		t.Errorf("Moonlight: got %+v", m)
	}
}

// TestSpellings rewrites the golden configurations, which have the newer
// spelling, in the original one.
func TestSpellings(t *testing.T) {
	for name, old := range map[string]string{
		"deepseek_v32": `{"rope_parameters":null,"mlp_layer_types":null,"layer_types":null,"dtype":null,"torch_dtype":"float32",
			"rope_theta":10000,"rope_scaling":{"type":"yarn","factor":4,"original_max_position_embeddings":64,"beta_fast":32.0,
			"beta_slow":1.0,"mscale":1,"mscale_all_dim":1},"scoring_func":"sigmoid","topk_method":"noaux_tc","moe_layer_freq":1}`,
		"glm_moe_dsa": `{"rope_parameters":null,"mlp_layer_types":null,"rope_theta":50000.0,"rope_scaling":null,
			"indexer_types":null,"index_topk_pattern":"FFSFS","indexer_rope_interleave":true,"head_dim":192,
			"n_routed_experts":null,"num_experts":8}`,
		"glm4_moe_lite":    `{"rope_parameters":{"rope_theta":50000},"mlp_layer_types":null,"rope_theta":1,"num_local_experts":8}`,
		"deepseek_v2_lite": `{"topk_method":null,"n_group":null,"topk_group":null,"scoring_func":"softmax"}`,
	} {
		path := filepath.Join(goldenDir, name, "config.json")
		if diff := cmp.Diff(readConfig(t, path), readConfig(t, path, []byte(old))); diff != "" {
			t.Errorf("%s (-v5 +original):\n%s", name, diff)
		}
	}
}

// TestDefaults removes keys that a family implies.
func TestDefaults(t *testing.T) {
	none := func(keys ...string) []byte {
		s := "{"
		for i, k := range keys {
			if i > 0 {
				s += ","
			}
			s += `"` + k + `":null`
		}
		return []byte(s + "}")
	}
	parse := func(name string, keys ...string) *Config {
		keys = append(keys, "rms_norm_eps", "max_position_embeddings", "n_routed_experts",
			"routed_scaling_factor", "norm_topk_prob", "mlp_layer_types", "first_k_dense_replace")
		path := filepath.Join(goldenDir, name, "config.json")
		return readConfig(t, path, none(keys...), []byte(`{"num_experts":64,"num_hidden_layers":5}`))
	}
	v2 := parse("deepseek_v2_lite")
	if v2.Eps != 1e-6 || v2.MaxPos != 2048 || v2.Router.Scale != 1 || v2.Router.Normalize || !v2.MoE[0] {
		t.Errorf("deepseek_v2: got %+v", v2)
	}
	v3 := parse("deepseek_v3", "topk_group", "rope_interleave", "num_nextn_predict_layers")
	if v3.Eps != 1e-6 || v3.MaxPos != 4096 || v3.Router.Scale != 2.5 || !v3.Router.Normalize || v3.Router.Groups != 4 || v3.Router.KeepGroups != 4 ||
		!slices.Equal(v3.MoE, []bool{false, false, false, true, true}) ||
		!v3.Rope.Interleaved {
		t.Errorf("deepseek_v3: got %+v", v3)
	}
	v32 := readConfig(t, filepath.Join(goldenDir, "deepseek_v32", "config.json"),
		none("index_topk", "index_n_heads", "index_head_dim", "max_position_embeddings"))
	if x := v32.Indexer; x.TopK != 2048 || x.Heads != 64 || x.Dim != 128 || v32.MaxPos != 163840 {
		t.Errorf("deepseek_v32: got %+v", v32)
	}
	glm := parse("glm_moe_dsa", "index_n_heads", "indexer_types", "layer_types")
	if glm.Eps != 1e-5 || glm.Router.Groups != 1 || glm.Indexer.Heads != 32 || !slices.Equal(glm.MoE, []bool{false, false, false, true, true}) {
		t.Errorf("glm_moe_dsa: got %+v", glm)
	}
	lite := parse("glm4_moe_lite", "n_group", "topk_group")
	if lite.Eps != 1e-5 || lite.Router.Groups != 1 || lite.Router.Scale != 1.8 || !slices.Equal(lite.MoE, []bool{false, true, true, true, true}) {
		t.Errorf("glm4_moe_lite: got %+v", lite)
	}
}

// TestOverrideMergesObjects lays a nested object over the file's.
func TestOverrideMergesObjects(t *testing.T) {
	path := releasedPath("deepseek-v3.2")
	want := readConfig(t, path)
	want.Rope.YaRN.Factor, want.Layers, want.MoE, want.Indexer.Full = 20, 5, want.MoE[:5], want.Indexer.Full[:5]
	got := readConfig(t, path, []byte(`{"rope_scaling":{"factor":20}}`), []byte(`{"num_hidden_layers":5}`))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestFactorOne reads a scaling factor of 1 as no scaling.
func TestFactorOne(t *testing.T) {
	c := readConfig(t, releasedPath("deepseek-v3"), []byte(`{"rope_scaling":{"factor":1}}`))
	if c.Rope.YaRN != nil {
		t.Errorf("got %+v, want no YaRN", c.Rope.YaRN)
	}
}

// TestMoELayerFrequency reads moe_layer_freq: layer i is sparse iff i is at
// least first_k_dense_replace and a multiple of it.
func TestMoELayerFrequency(t *testing.T) {
	c := readConfig(t, releasedPath("deepseek-v3"),
		[]byte(`{"num_hidden_layers":8,"first_k_dense_replace":3,"moe_layer_freq":2}`))
	if want := []bool{false, false, false, false, true, false, true, false}; !slices.Equal(c.MoE, want) {
		t.Errorf("sparse layers %v, want %v", c.MoE, want)
	}
}

// TestBenchConfig keeps the benchmark model at the size its published
// comparison was made with: 0.85 B parameters, about 0.2 B active.
func TestBenchConfig(t *testing.T) {
	c := readConfig(t, "../configs/bench-0.85b.json")
	p := c.Parameters()
	if p.Total < 800e6 || p.Total > 900e6 || p.Active < 150e6 || p.Active > 250e6 {
		t.Errorf("%.0f M parameters, %.0f M active; want 850 and 200", float64(p.Total)/1e6, float64(p.Active)/1e6)
	}
	if c.Indexer.TopK != 256 || c.Heads != 16 || c.Layers != 8 || c.BlockFP8 || c.DType != "bfloat16" {
		t.Errorf("got %+v", c)
	}
	t.Logf("%d parameters, %d active", p.Total, p.Active)
}
