package model_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"latent/checkpoint"
	"latent/device"
	"latent/device/cpu"
	"latent/engine"
	"latent/model"
	"latent/pathway"
)

// Tolerances against Hugging Face transformers in float32, see the recipe of
// the golden files: rounding alone moves logits by up to 4e-5.
const (
	logitTolerance  = 2e-4
	hiddenTolerance = 5e-4
)

// goldenSets are the folders of testdata/golden: a checkpoint each, and what
// Hugging Face transformers computes with it.
func goldenSets(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob("../testdata/golden/*/config.json")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no golden sets: %v", err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

// golden is one golden set and the model it is for.
type golden struct {
	dir   string
	cfg   *checkpoint.Config
	files *checkpoint.Files
	model *model.Model
	dev   device.Device
}

// variant changes a model before it runs: what the tests of mistakes need.
type variant struct {
	config func(*checkpoint.Config)
	device func(device.Device) device.Device
	opts   func(*model.Options)
}

func openGolden(t testing.TB, dir string, v variant) *golden {
	t.Helper()
	c, err := checkpoint.Open(dir, checkpoint.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	g := &golden{dir: dir, cfg: c.Config}
	if g.files, err = checkpoint.OpenFile(filepath.Join(dir, "golden.safetensors")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.files.Close() })
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	g.dev = dev
	if v.device != nil {
		g.dev = v.device(dev)
	}
	if v.config != nil {
		v.config(c.Config)
	}
	opts := model.Options{Arithmetic: device.F32, CacheFormat: device.CacheF32}
	if v.opts != nil {
		v.opts(&opts)
	}
	if g.model, err = model.Load(g.dev, c.Config, c.Weights, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.model.Close)
	if err := g.model.AllocateCache(goldenPages); err != nil {
		t.Fatal(err)
	}
	return g
}

// goldenPages is enough for all prompts of a golden set at once.
const goldenPages = 24

func (g *golden) planner(t testing.TB, c pathway.Config) *pathway.Planner {
	t.Helper()
	c.Geometry = g.model.Geometry()
	c.Calibration = pathway.Estimate(c.Geometry, 50e9, 10e9)
	c.KVBytesPerKey = g.model.KVBytesPerKey()
	if c.WorkspaceBytes == 0 {
		c.WorkspaceBytes = 64 << 20
	}
	p, err := pathway.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (g *golden) eval(p *pathway.Planner) engine.EvalConfig {
	return engine.EvalConfig{Model: g.model, Planner: p, Pages: goldenPages, MaxContext: g.cfg.MaxPos, Vocab: g.cfg.Vocab}
}

func (g *golden) has(name string) bool { return g.files.Has(name) }

func (g *golden) raw(t testing.TB, name string) []byte {
	t.Helper()
	for _, s := range g.files.Stored() {
		if s.Name == name {
			v, err := g.files.Tensor(name, s.Shape...)
			if err != nil {
				t.Fatal(err)
			}
			return v.Data
		}
	}
	t.Fatalf("%s has no %s", g.dir, name)
	return nil
}

func (g *golden) ints(t testing.TB, name string) []int32 {
	t.Helper()
	raw := g.raw(t, name)
	out := make([]int32, len(raw)/4)
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out
}

func (g *golden) floats(t testing.TB, name string) []float32 {
	t.Helper()
	raw := g.raw(t, name)
	out := make([]float32, len(raw)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out
}

// lengths returns the n of the prompts len{n}.
func (g *golden) lengths() []int {
	var out []int
	for n := range 512 {
		if g.has(fmt.Sprintf("len%d.input_ids", n)) {
			out = append(out, n)
		}
	}
	return out
}

// worst returns the largest difference; NaN counts as infinite.
func worst(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	w := 0.0
	for i := range got {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if math.IsNaN(d) {
			return math.Inf(1)
		}
		w = max(w, d)
	}
	return w
}

// tracer collects selections and hidden states by prompt and position.
type tracer struct {
	step      *device.Step
	sequences []int
	selected  map[[3]int][]int32 // prompt, layer, position
	hidden    map[[3]int][]float32
	width     int
}

func (tr *tracer) observe(step *device.Step, sequences []int) *model.Trace {
	tr.step, tr.sequences = step, slices.Clone(sequences)
	return &model.Trace{
		Hidden: func(depth int, h []float32) {
			for r := range step.Tokens {
				s, p := tr.locate(r)
				tr.hidden[[3]int{s, depth, p}] = slices.Clone(h[r*tr.width : (r+1)*tr.width])
			}
		},
		Selection: func(layer, row int, positions []int32) {
			s, p := tr.locate(row)
			tr.selected[[3]int{s, layer, p}] = slices.Clone(positions)
		},
	}
}

// locate returns prompt and position of a row.
func (tr *tracer) locate(row int) (sequence, position int) {
	for i, q := range tr.step.Seqs {
		if row >= q.Row && row < q.Row+q.Rows {
			return tr.sequences[i], q.Prefix + row - q.Row
		}
	}
	panic("row of no sequence")
}

// policies are planner configurations that together take every pathway.
func policies(cfg *checkpoint.Config) map[string]pathway.Config {
	return map[string]pathway.Config{
		"adaptive":      {Policy: pathway.PolicyAdaptive},
		"threshold":     {Policy: pathway.PolicyThreshold},
		"mla":           {Policy: pathway.PolicyMLA},
		"mha":           {Policy: pathway.PolicyMHA},
		"mha-chunks":    {Policy: pathway.PolicyMHA, WorkspaceBytes: 1}, // the least: one page of keys a wave
		"deterministic": {Deterministic: true},
	}
}

func (g *golden) policy(t testing.TB, c pathway.Config) *pathway.Planner {
	if c.WorkspaceBytes == 1 {
		c.WorkspaceBytes = g.model.KVBytesPerKey() * pathway.PageTokens
	}
	return g.planner(t, c)
}

// TestGolden compares logits, hidden states and selections with Hugging Face
// transformers, for every golden set in every combination of policy and chunk
// size, all prompts of a set as one ragged batch.
func TestGolden(t *testing.T) {
	for _, dir := range goldenSets(t) {
		g := openGolden(t, dir, variant{})
		for name, config := range policies(g.cfg) {
			p := g.policy(t, config)
			for _, chunk := range []int{0, 1, 7, 16, 64} {
				if testing.Short() && chunk != 0 && chunk != 16 {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/chunk%d", filepath.Base(dir), name, chunk), func(t *testing.T) {
					g.checkPrompts(t, p, chunk)
				})
			}
		}
	}
}

func (g *golden) checkPrompts(t *testing.T, p *pathway.Planner, chunk int) {
	var prompts [][]int32
	lengths := g.lengths()
	for _, n := range lengths {
		prompts = append(prompts, g.ints(t, fmt.Sprintf("len%d.input_ids", n)))
	}
	tr := &tracer{selected: map[[3]int][]int32{}, hidden: map[[3]int][]float32{}, width: g.cfg.Hidden}
	c := g.eval(p)
	c.Chunk, c.Trace = chunk, tr.observe
	logits, err := engine.Evaluate(c, prompts)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range lengths {
		key := fmt.Sprintf("len%d.", n)
		if d := worst(logits[i], g.floats(t, key+"logits")); d > logitTolerance {
			t.Errorf("length %d: logits differ by %.3g", n, d)
		}
		if g.has(key + "hidden") {
			g.checkHidden(t, tr, i, n)
		}
		g.checkSelections(t, tr, i, n)
	}
}

// checkHidden compares the residual stream up to the last layer's input; the
// golden's last entry is after the final norm.
func (g *golden) checkHidden(t *testing.T, tr *tracer, prompt, n int) {
	want := g.floats(t, fmt.Sprintf("len%d.hidden", n))
	d := g.cfg.Hidden
	for depth := range g.cfg.Layers {
		for p := range n {
			at := (depth*n + p) * d
			if w := worst(tr.hidden[[3]int{prompt, depth, p}], want[at:at+d]); w > hiddenTolerance {
				t.Errorf("length %d, depth %d, position %d: hidden states differ by %.3g", n, depth, p, w)
				return
			}
		}
	}
}

// checkSelections compares what was selected with the golden's sets. Rows that
// needed no selection were not traced: their set is everything they see.
func (g *golden) checkSelections(t *testing.T, tr *tracer, prompt, n int) {
	if g.cfg.Indexer == nil {
		return
	}
	k := min(n, g.cfg.Indexer.TopK)
	for _, layer := range g.cfg.Indexed() {
		want := g.ints(t, fmt.Sprintf("len%d.topk.layer%d", n, layer))
		for p := range n {
			set := slices.DeleteFunc(slices.Clone(want[p*k:(p+1)*k]), func(s int32) bool { return int(s) > p })
			got, traced := tr.selected[[3]int{prompt, layer, p}]
			if !traced && p+1 > g.cfg.Indexer.TopK {
				t.Errorf("length %d, layer %d, position %d: nothing was selected", n, layer, p)
				return
			}
			if traced && !slices.Equal(got, set) {
				t.Errorf("length %d, layer %d, position %d: selected %v, want %v", n, layer, p, got, set)
				return
			}
		}
	}
}

// TestGoldenCached runs a prefix, an extension of it in one call, and single
// steps that cross index_topk, beside other sequences in the same steps.
func TestGoldenCached(t *testing.T) {
	for _, dir := range goldenSets(t) {
		g := openGolden(t, dir, variant{})
		for name, config := range policies(g.cfg) {
			t.Run(filepath.Base(dir)+"/"+name, func(t *testing.T) { g.checkCached(t, g.policy(t, config)) })
		}
	}
}

func (g *golden) checkCached(t *testing.T, p *pathway.Planner) {
	prefix, extension := g.ints(t, "cached.prefix_ids"), g.ints(t, "cached.extend_ids")
	greedy := g.ints(t, "cached.greedy_ids")
	// A neighbour of another length takes part in every step.
	neighbour := g.ints(t, fmt.Sprintf("len%d.input_ids", g.lengths()[len(g.lengths())-1]))
	next := func(n int) []int32 {
		n = min(n, len(neighbour))
		part := neighbour[:n]
		neighbour = neighbour[n:]
		return part
	}
	s := engine.NewSequences(g.eval(p), 2)
	step := func(ids []int32, beside int) []float32 {
		logits, err := s.Step([][]int32{next(beside), ids})
		if err != nil {
			t.Fatal(err)
		}
		return logits[1]
	}
	compare := func(what string, got []float32, want []float32) {
		if d := worst(got, want); d > logitTolerance {
			t.Errorf("%s: logits differ by %.3g", what, d)
		}
	}
	compare("prefix", step(prefix, 5), g.floats(t, "cached.prefix_logits"))
	last := step(extension, 40)
	compare("extension", last, g.floats(t, "cached.extend_logits"))
	steps := g.floats(t, "cached.step_logits")
	v := g.cfg.Vocab
	for i, id := range greedy {
		row := last[len(last)-v:]
		compare(fmt.Sprintf("step %d", i), row, steps[i*v:(i+1)*v])
		if got := argmax(row); got != id {
			t.Fatalf("step %d: greedy token %d, want %d", i, got, id)
		}
		last = step([]int32{id}, 1)
	}
	compare("last step", last, steps[len(greedy)*v:])
}

func argmax(x []float32) int32 {
	best := 0
	for i := range x {
		if x[i] > x[best] {
			best = i
		}
	}
	return int32(best)
}

// TestMain is here so that a missing golden folder is a failure, not silence.
func TestMain(m *testing.M) {
	if _, err := os.Stat("../testdata/golden"); err != nil {
		fmt.Fprintln(os.Stderr, "testdata/golden is missing:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
