package checkpoint

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// FuzzConfig parses arbitrary configurations. What is accepted must be sane
// enough to list tensors, count and build RoPE tables from.
func FuzzConfig(f *testing.F) {
	paths, _ := filepath.Glob("testdata/configs/*.json")
	published, _ := filepath.Glob("../configs/*.json")
	paths = append(paths, published...)
	golden, _ := filepath.Glob(goldenDir + "/*/config.json")
	for _, p := range append(paths, golden...) {
		data, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, []byte(`{}`))
		f.Add(data, []byte(`{"num_hidden_layers": 2, "mlp_layer_types": null, "layer_types": null, "indexer_types": null}`))
	}
	bad, err := os.ReadFile("testdata/bad/config")
	if err != nil {
		f.Fatal(err)
	}
	base, err := os.ReadFile(goldenDir + "/deepseek_v32/config.json")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(bad)) {
		if strings.HasPrefix(line, "{") {
			f.Add(base, []byte(line))
		}
	}
	f.Fuzz(func(t *testing.T, data, override []byte) {
		c, err := ParseConfig(data, override)
		if err != nil {
			if c != nil {
				t.Error("a configuration beside an error")
			}
			if e, ok := errors.AsType[*ConfigError](err); ok && (e.Key == "" || e.Found == "" || e.Want == "") {
				t.Errorf("incomplete error %+v", e)
			}
			return
		}
		for _, n := range []int{c.Vocab, c.Hidden, c.Layers, c.MaxPos, c.Heads, c.Latent, c.Nope, c.RopeDim, c.Value} {
			if n < 1 {
				t.Fatalf("a size below 1: %+v", c)
			}
		}
		if len(c.MoE) != c.Layers || c.Indexer != nil && (len(c.Indexer.Full) != c.Layers || !c.Indexer.Full[0]) {
			t.Fatalf("lists do not fit the layers: %+v", c)
		}
		if r := c.Router; c.Experts > 0 && (r.Choose < 1 || c.Experts%r.Groups != 0 || r.Choose > c.Experts/r.Groups*r.KeepGroups) {
			t.Fatalf("impossible router: %+v", c)
		}
		for _, v := range append(c.RopeFrequencies(), c.SoftmaxScale(), c.RopeFactor(), c.Eps) {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) || v < 0 {
				t.Fatalf("not a finite positive number: %v of %+v", v, c)
			}
		}
		if c.Experts*(c.Layers+c.MTPLayers) > 1000 {
			return
		}
		names := map[string]bool{}
		for _, s := range Expected(c) {
			if names[s.Name] {
				t.Fatalf("%s is expected twice", s.Name)
			}
			names[s.Name] = true
			n := int64(1)
			for _, d := range s.Shape {
				if n *= int64(d); d < 1 || n > 2*maxElements {
					t.Fatalf("%s has shape %v", s.Name, s.Shape)
				}
			}
		}
		if p := c.Parameters(); p.Total < 1 || p.Active < 1 || p.Active > p.Total || p.MTP < 0 {
			t.Fatalf("impossible counts %+v of %+v", p, c)
		}
	})
}

// FuzzSafetensors parses arbitrary files. Accepted tensors must lie apart from
// one another inside the file, and be readable or refused without a panic.
func FuzzSafetensors(f *testing.F) {
	header, err := os.ReadFile("testdata/bad/safetensors")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(header)) {
		if strings.HasPrefix(line, "{") {
			f.Add(rawFile(line, make([]byte, 12)))
		}
	}
	f.Add(rawSafetensors(f, 3, rawTensor{"a.weight", "F8_E4M3", []int{1, 2}, []byte{1, 2}},
		rawTensor{"a.weight_scale_inv", "F8_E8M0", []int{1, 1}, []byte{127}},
		rawTensor{"x.mlp.experts.gate_up_proj", "BF16", []int{1, 2, 1}, make([]byte, 4)},
		rawTensor{"x.mlp.experts.0.down_proj.weight", "F32", []int{0, 9}, nil}))
	f.Fuzz(func(t *testing.T, data []byte) {
		w := &Files{tensors: map[string]located{}}
		err := w.add("file", func() ([]byte, func() error, error) { return data, func() error { return nil }, nil }, nil)
		if err != nil {
			return
		}
		type span struct{ begin, end int64 }
		var spans []span
		for name, e := range w.tensors {
			if e.begin < 8 || e.end < e.begin || e.end > int64(len(data)) {
				t.Fatalf("%q lies outside the file: %+v", name, e)
			}
			n := int64(1)
			for _, d := range e.shape {
				n *= int64(d)
			}
			if e.end-e.begin != n*int64(dtypeBits(e.dtype))/8 {
				t.Fatalf("%q has %d bytes for %s %v", name, e.end-e.begin, e.dtype, e.shape)
			}
			if e.end > e.begin {
				spans = append(spans, span{e.begin, e.end})
			}
			x, err := w.Tensor(name, e.shape...)
			if err == nil && int64(len(x.Data)) != e.end-e.begin {
				t.Fatalf("%q: read %d bytes of %d", name, len(x.Data), e.end-e.begin)
			}
			for _, kind := range []string{"gate_proj", "up_proj", "down_proj"} {
				if prefix, ok := strings.CutSuffix(name, "gate_up_proj"); ok && len(e.shape) == 3 {
					w.Tensor(prefix+"0."+kind+".weight", e.shape[1]/2, e.shape[2])
				}
			}
		}
		sort.Slice(spans, func(i, j int) bool { return spans[i].begin < spans[j].begin })
		for i := 1; i < len(spans); i++ {
			if spans[i].begin < spans[i-1].end {
				t.Fatalf("overlap: %v", spans)
			}
		}
	})
}

// FuzzIndex parses arbitrary shard indexes. Accepted file names must stay
// inside the folder.
func FuzzIndex(f *testing.F) {
	bad, err := os.ReadFile("testdata/bad/index")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(bad)) {
		if strings.HasPrefix(line, "{") {
			f.Add([]byte(line))
		}
	}
	f.Add([]byte(`{"metadata":{"total_size":6},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := parseIndex(data)
		if err != nil {
			return
		}
		shards := map[string]bool{}
		for _, s := range x.shards {
			if !fs.ValidPath(s) || !filepath.IsLocal(s) || filepath.Dir(s) != "." || filepath.Base(s) != s || shards[s] {
				t.Fatalf("shard %q", s)
			}
			shards[s] = true
		}
		for tensor, s := range x.of {
			if !shards[s] {
				t.Fatalf("%q is in %q, which is not listed", tensor, s)
			}
		}
		if len(x.of) == 0 {
			t.Fatal("an empty index")
		}
	})
}
