package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"latent/device"
	"latent/model"
	"latent/pathway"
)

// AttentionOptions say what to measure: every plan on every combination of
// batch, prefix and length.
type AttentionOptions struct {
	Lengths  []int    // new tokens of each sequence
	Prefixes []int    // cached tokens before them
	Batches  []int    // sequences in a step
	Plans    []string // see Plans
	// Layer is the layer whose stages are reported; negative: the last one.
	Layer int
	// Warmup and Repeat count the rounds that are not and that are measured.
	// Every plan runs once a round in each of three ways: marking its stages,
	// marking layers only, and not at all. A cell whose rounds took Budget ends
	// early, after at least three of them.
	Warmup, Repeat int
	Budget         time.Duration
	// Progress, if not nil, is told when a cell is done.
	Progress func(c *Cell, done, total int)
}

// Plans lists the names of plans: the policies mha and mla, which pay for the
// indexer only where it is needed; mha-masked and mla-sparse, which select for
// every row; adaptive and threshold, which choose.
func Plans() []string {
	return []string{"mha", "mha-masked", "mla", "mla-sparse", "adaptive", "threshold"}
}

// Target is a model to measure. Its attention cache has Pages pages, and nobody
// else uses it meanwhile.
type Target struct {
	Model   *model.Model
	Planner *pathway.Planner
	Pages   int
	// Name, Key and Calibration go to the report: the model, what it runs on,
	// and where the planner's costs come from.
	Name        string
	Key         pathway.Key
	Calibration string
}

// PagesFor returns the pages of attention cache that a step of batch sequences
// of context tokens each needs.
func PagesFor(batch, context int) int {
	return batch * ((context + device.PageTokens - 1) / device.PageTokens)
}

// leastRounds is how many rounds a cell has whatever its budget.
const leastRounds = 3

// Attention measures t. Combinations that do not fit the model's context or the
// cache, and plans that a combination does not allow, are left out; the report
// lists the former.
func Attention(ctx context.Context, t Target, o AttentionOptions) (*AttentionReport, error) {
	layers := t.Model.Config().Layers
	if o.Layer < 0 {
		o.Layer = layers - 1
	}
	if o.Layer >= layers {
		return nil, fmt.Errorf("bench: layer %d of a model with %d", o.Layer, layers)
	}
	for _, p := range o.Plans {
		if !slices.Contains(Plans(), p) {
			return nil, fmt.Errorf("bench: unknown plan %q, want some of %v", p, Plans())
		}
	}
	for _, c := range []struct {
		name  string
		list  []int
		least int
	}{{"length", o.Lengths, 1}, {"prefix", o.Prefixes, 0}, {"batch", o.Batches, 1}} {
		for _, n := range c.list {
			if n < c.least || n > 1<<24 {
				return nil, fmt.Errorf("bench: %s %d, want at least %d", c.name, n, c.least)
			}
		}
	}
	if err := t.Model.FillCache(1); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	r := &AttentionReport{Model: t.Name, Key: t.Key, Calibration: t.Calibration, Layer: o.Layer, Layers: layers}
	var cells []*Cell
	for _, batch := range o.Batches {
		for _, prefix := range o.Prefixes {
			for _, length := range o.Lengths {
				c := &Cell{Batch: batch, Prefix: prefix, New: length}
				if prefix+length > t.Model.Options().MaxContext || PagesFor(batch, prefix+length) > t.Pages {
					r.Omitted = append(r.Omitted, fmt.Sprintf("%dx%d+%d", batch, prefix, length))
					continue
				}
				cells = append(cells, c)
			}
		}
	}
	if len(cells) == 0 {
		return nil, fmt.Errorf("bench: nothing fits: a context of %d tokens and %d pages of attention cache are too little for %v",
			t.Model.Options().MaxContext, t.Pages, r.Omitted)
	}
	for i, c := range cells {
		if err := measure(ctx, t, o, c); err != nil {
			return nil, fmt.Errorf("bench: %d sequences of %d+%d tokens: %w", c.Batch, c.Prefix, c.New, err)
		}
		r.Cells = append(r.Cells, *c)
		if o.Progress != nil {
			o.Progress(c, i+1, len(cells))
		}
	}
	return r, nil
}

// contender is a plan for a cell, and what was measured of it.
type contender struct {
	name   string
	batch  model.Batch
	plan   pathway.Plan
	stages []model.Stages
	layer  []time.Duration
	step   []time.Duration
}

// measure fills in a cell.
func measure(ctx context.Context, t Target, o AttentionOptions, c *Cell) error {
	var all []*contender
	for _, name := range o.Plans {
		p, err := newContender(t, name, c)
		if err != nil {
			return err
		}
		if p != nil {
			all = append(all, p)
		}
	}
	start := time.Now()
	for round := range o.Warmup + o.Repeat {
		if round == o.Warmup {
			start = time.Now()
		}
		if round >= o.Warmup+leastRounds && time.Since(start) > o.Budget {
			break
		}
		for i := range all {
			if err := ctx.Err(); err != nil {
				return err
			}
			// Nobody always comes first.
			if err := all[(i+round)%len(all)].run(t.Model, o.Layer, round >= o.Warmup); err != nil {
				return err
			}
		}
	}
	for _, p := range all {
		c.Plans = append(c.Plans, p.result(t.Model.Geometry()))
	}
	c.summarise()
	return nil
}

// newContender plans a cell; nil if the plan is not for it.
func newContender(t Target, name string, c *Cell) (*contender, error) {
	p := &contender{name: name}
	p.batch = newBatch(t.Model.Config().Vocab, c)
	p.batch.Plan = &p.plan
	indexer := t.Model.Config().Indexer != nil
	var err error
	switch name {
	case "mha-masked", "mla-sparse":
		if !indexer {
			return nil, nil
		}
		q := pathway.MHAMasked
		if name == "mla-sparse" {
			q = pathway.MLASparse
		}
		err = t.Planner.PlanPathway(q, p.batch.Extents, &p.plan)
	default:
		var policy pathway.Policy
		if policy, err = pathway.ParsePolicy(name); err == nil {
			err = t.Planner.PlanPolicy(policy, p.batch.Extents, &p.plan)
		}
	}
	return p, err
}

// newBatch returns the step of a cell: equal sequences, whose pages are
// scattered over the cache as in use.
func newBatch(vocabulary int, c *Cell) model.Batch {
	var b model.Batch
	context := c.Prefix + c.New
	phase := pathway.Prefill
	if c.New == 1 && c.Prefix > 0 {
		phase = pathway.Decode
	}
	for s := range c.Batch {
		var pages []int32
		for i := range PagesFor(1, context) {
			pages = append(pages, int32(i*c.Batch+s))
		}
		b.Step.Seqs = append(b.Step.Seqs, device.Seq{Row: s * c.New, Rows: c.New, Prefix: c.Prefix, Pages: pages})
		b.Extents = append(b.Extents, pathway.Extent{Prefix: c.Prefix, New: c.New, Phase: phase})
		for p := c.Prefix; p < context; p++ {
			b.Step.Tokens = append(b.Step.Tokens, int32((p*7919+s*104729)%vocabulary)) // primes: no two sequences alike
			b.Step.Positions = append(b.Step.Positions, int32(p))
			b.Step.Slots = append(b.Step.Slots, pages[p/device.PageTokens]*device.PageTokens+int32(p%device.PageTokens))
		}
	}
	return b
}

// run computes the step in each of the three ways.
func (p *contender) run(m *model.Model, layer int, measured bool) error {
	var stages model.Stages
	var whole time.Duration
	p.batch.LogitRows, p.batch.Draws = nil, nil
	_, err := m.Forward(&p.batch, &model.Trace{Stages: func(l int, took *model.Stages) {
		if l == layer {
			stages = *took
		}
	}})
	if err != nil {
		return err
	}
	_, err = m.Forward(&p.batch, &model.Trace{Layer: func(l int, took time.Duration) {
		if l == layer {
			whole = took
		}
	}})
	if err != nil {
		return err
	}
	// As a server would: the most likely token after each sequence.
	for s := range p.batch.Step.Seqs {
		q := &p.batch.Step.Seqs[s]
		p.batch.LogitRows = append(p.batch.LogitRows, int32(q.Row+q.Rows-1))
		p.batch.Draws = append(p.batch.Draws, device.Draw{TopP: 1, Vocabulary: int32(m.Config().Vocab)})
	}
	start := time.Now()
	if _, err := m.Forward(&p.batch, nil); err != nil {
		return err
	}
	if measured {
		p.stages = append(p.stages, stages)
		p.layer = append(p.layer, whole)
		p.step = append(p.step, time.Since(start))
	}
	return nil
}

// result sums up what was measured.
func (p *contender) result(g pathway.Geometry) PlanResult {
	r := PlanResult{Plan: p.name, Rounds: len(p.layer), Predicted: p.plan.Predicted, Stages: map[string]Stat{},
		Layer: statOf(p.layer), Step: statOf(p.step)}
	total, core := make([]time.Duration, len(p.stages)), make([]time.Duration, len(p.stages))
	for s := range model.StageCount {
		took := make([]time.Duration, len(p.stages))
		for i := range took {
			took[i] = p.stages[i][s]
		}
		if slices.Max(took) > 0 {
			r.Stages[model.Stage(s).String()] = statOf(took)
		}
	}
	for i := range p.stages {
		t := p.stages[i].Times()
		total[i] = t.Total()
		core[i] = p.stages[i][model.StageMHA] + p.stages[i][model.StageMLA]
	}
	r.Attention, r.Core = statOf(total), statOf(core)
	var flops float64
	for i := range p.plan.Segments {
		s := &p.plan.Segments[i]
		r.Rows[s.Pathway] += s.Rows()
		// 2·(dn+dr+dv) operations a pair and head over expanded keys, 2·(2·R+dr)
		// in latent space.
		width := g.Nope + g.Rope + g.Value
		if !s.Pathway.Expanded() {
			width = 2*g.Latent + g.Rope
		}
		flops += float64(s.Pairs) * float64(2*width*g.Heads)
	}
	if r.Core.Median > 0 {
		r.CoreTFLOPS = flops / r.Core.Median * 1e-6
	}
	return r
}
