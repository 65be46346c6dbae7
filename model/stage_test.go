package model_test

import (
	"testing"
	"time"

	"latent/device"
	"latent/model"
	"latent/pathway"
)

// ticking is a device with a clock of its own, on which every operation of a
// kind takes the same time, in microseconds.
type ticking struct {
	device.Device
	now time.Duration
	ops map[string]time.Duration // what operations took, by name
}

func newTicking(d device.Device) *ticking {
	return &ticking{Device: d, ops: map[string]time.Duration{}}
}

func (d *ticking) tick(op string, us time.Duration) {
	d.now += us * time.Microsecond
	d.ops[op] += us * time.Microsecond
}

func (d *ticking) NewStopwatch() device.Stopwatch { return &tickingWatch{d: d} }

type tickingWatch struct {
	d     *ticking
	marks []time.Duration
}

func (w *tickingWatch) Reset() { w.marks = w.marks[:0] }
func (w *tickingWatch) Mark()  { w.marks = append(w.marks, w.d.now) }

func (w *tickingWatch) Laps(dst []time.Duration) []time.Duration {
	for i := 1; i < len(w.marks); i++ {
		dst = append(dst, w.marks[i]-w.marks[i-1])
	}
	return dst
}

func (d *ticking) Linear(dst, src device.Tensor, w device.Matrix, add bool) {
	d.tick("linear", 1)
	d.Device.Linear(dst, src, w, add)
}

func (d *ticking) RopeQuery(q device.Tensor, heads int, rope device.Rope) {
	d.tick("query", 10)
	d.Device.RopeQuery(q, heads, rope)
}

func (d *ticking) StoreLatent(c device.Cache, layer int, u, w device.Tensor, eps float32, r device.Rope) {
	d.tick("store", 100)
	d.Device.StoreLatent(c, layer, u, w, eps, r)
}

func (d *ticking) IndexScores(scores, q, w device.Tensor, c device.Cache, layer int, runs []device.Run) {
	d.tick("index", 1000)
	d.Device.IndexScores(scores, q, w, c, layer, runs)
}

func (d *ticking) SelectTopK(sel device.Selection, scores device.Tensor, topk int, runs []device.Run) {
	d.tick("top-k", 1100)
	d.Device.SelectTopK(sel, scores, topk, runs)
}

func (d *ticking) ExpandKV(kv device.Memory, c device.Cache, layer int, kvb device.KVB, ranges []device.KeyRange) {
	d.tick("expand", 1300)
	d.Device.ExpandKV(kv, c, layer, kvb, ranges)
}

func (d *ticking) MHA(out, lse, q device.Tensor, kv device.Memory, kvb device.KVB, sel device.Selection, scale float32, runs []device.Run) {
	d.tick("mha", 1700)
	d.Device.MHA(out, lse, q, kv, kvb, sel, scale, runs)
}

func (d *ticking) MergeLSE(out, lse, part, partLSE device.Tensor, runs []device.Run) {
	d.tick("merge", 1900)
	d.Device.MergeLSE(out, lse, part, partLSE, runs)
}

func (d *ticking) Absorb(dst, q device.Tensor, kvb device.KVB, runs []device.Run) {
	d.tick("absorb", 2300)
	d.Device.Absorb(dst, q, kvb, runs)
}

func (d *ticking) MLA(z, lse, qa device.Tensor, c device.Cache, layer int, sel device.Selection, scale float32, runs []device.Run) {
	d.tick("mla", 2900)
	d.Device.MLA(z, lse, qa, c, layer, sel, scale, runs)
}

func (d *ticking) Unabsorb(out, z device.Tensor, kvb device.KVB, runs []device.Run) {
	d.tick("unabsorb", 3100)
	d.Device.Unabsorb(out, z, kvb, runs)
}

func (d *ticking) SwiGLU(dst, src device.Tensor) {
	d.tick("mlp", 3700)
	d.Device.SwiGLU(dst, src)
}

func (d *ticking) Route(ids, weights, logits, bias device.Tensor, r device.Router) {
	d.tick("route", 4100)
	d.Device.Route(ids, weights, logits, bias, r)
}

func (d *ticking) MoE(dst, src, ids, weights device.Tensor, e device.Experts) {
	d.tick("experts", 4300)
	d.Device.MoE(dst, src, ids, weights, e)
}

// TestStages runs a step with every stage on a device whose operations have
// known times, and wants each operation's time in its stage, the same sums
// whatever was asked for, and no marks that nobody asked for.
func TestStages(t *testing.T) {
	var d *ticking
	g := openGolden(t, "../testdata/golden/glm_moe_dsa", variant{
		device: func(base device.Device) device.Device {
			d = newTicking(base)
			return d
		},
		opts: func(o *model.Options) { o.ScoreBytes, o.AbsorbBytes = 1<<12, 1<<16 },
	})
	// Waves of 64 keys, so that there is something to merge.
	p := g.planner(t, pathway.Config{WorkspaceBytes: 64 * g.model.KVBytesPerKey()})
	const rows = 200
	b := &model.Batch{Plan: new(pathway.Plan), Extents: []pathway.Extent{
		{New: rows, Policy: pathway.PolicyMHA}, {New: rows, Policy: pathway.PolicyMLA}}}
	for i := range b.Extents {
		pages := []int32{int32(4 * i), int32(4*i + 1), int32(4*i + 2), int32(4*i + 3)}
		b.Step.Seqs = append(b.Step.Seqs, device.Seq{Row: i * rows, Rows: rows, Pages: pages})
		for pos := range rows {
			b.Step.Tokens = append(b.Step.Tokens, int32(pos%64))
			b.Step.Positions = append(b.Step.Positions, int32(pos))
			b.Step.Slots = append(b.Step.Slots, pages[pos/64]*64+int32(pos%64))
		}
	}
	p.Plan(b.Extents, b.Plan)
	forward := func(trace *model.Trace) model.Times {
		clear(d.ops)
		if _, err := g.model.Forward(b, trace); err != nil {
			t.Fatal(err)
		}
		return b.Times
	}

	var sum model.Stages
	layers := 0
	times := forward(&model.Trace{Stages: func(layer int, took *model.Stages) {
		if layer != layers {
			t.Errorf("layer %d told of after %d layers", layer, layers)
		}
		layers++
		for s, d := range took {
			sum[s] += d
		}
	}})
	if layers != g.cfg.Layers {
		t.Fatalf("%d layers told of, the model has %d", layers, g.cfg.Layers)
	}
	products := time.Duration(0)
	for s, got := range sum {
		op := d.ops[model.Stage(s).String()]
		// A stage's own products, a microsecond each, are all it has beside its
		// operation.
		if extra := got - op; extra < 0 || extra >= 100*time.Microsecond {
			t.Errorf("stage %v took %v, its operation %v", model.Stage(s), got, op)
		}
		products += got - op
		if op == 0 && model.Stage(s) != model.StageOut {
			t.Errorf("stage %v did not run", model.Stage(s))
		}
	}
	if products != d.ops["linear"] {
		t.Errorf("products took %v, in stages %v", d.ops["linear"], products)
	}
	if want := time.Duration(g.cfg.Layers) * time.Microsecond; sum[model.StageOut] != want {
		t.Errorf("output projections took %v, want %v", sum[model.StageOut], want)
	}
	if times != sum.Times() || times.Total() == 0 {
		t.Errorf("a pass with stages has times %v, its stages make %v", times, sum.Times())
	}

	if got := forward(nil); got != times {
		t.Errorf("without a trace: times %v, want %v", got, times)
	}
	var whole time.Duration
	layers = 0
	got := forward(&model.Trace{Layer: func(layer int, took time.Duration) {
		if layer != layers || took == 0 {
			t.Errorf("layer %d told of after %d layers: %v", layer, layers, took)
		}
		layers++
		whole += took
	}})
	if layers != g.cfg.Layers || whole != sum.Total() || got.Total() != 0 {
		t.Errorf("%d layers took %v, their stages %v; times %v", layers, whole, sum.Total(), got)
	}
}
