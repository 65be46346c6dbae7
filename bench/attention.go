package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"latent/device"
	"latent/model"
	"latent/pathway"
)

// AttentionOptions say what to measure: every plan on every combination of
// batch, prefix and length.
type AttentionOptions struct {
	Lengths  []int // new tokens of each sequence
	Prefixes []int // cached tokens before them
	Batches  []int // sequences in a step
	// Grid, if not empty, lists the pairs to measure, in place of every prefix
	// with every length.
	Grid  []Sequence
	Plans []string // see Plans
	// Phase is that of all sequences; without it, single new tokens behind a
	// prefix are generated and all others are a prompt's.
	Phase *pathway.Phase
	// RandomSteps of up to the largest batch, prefix and length are measured
	// besides, drawn with Seed, to see what the planner loses on mixed steps.
	RandomSteps int
	Seed        uint64
	// Check compares the logits of plans once they are measured.
	Check bool
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
	var prefixes, lengths []int
	for _, q := range o.grid() {
		prefixes, lengths = append(prefixes, q.Prefix), append(lengths, q.New)
	}
	for _, c := range []struct {
		name  string
		list  []int
		least int
	}{{"length", lengths, 1}, {"prefix", prefixes, 0}, {"batch", o.Batches, 1}} {
		for _, n := range c.list {
			if n < c.least || n > 1<<24 {
				return nil, fmt.Errorf("bench: %s %d, want at least %d", c.name, n, c.least)
			}
		}
	}
	if err := t.Model.FillCache(1); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	r := &AttentionReport{Model: t.Name, Key: t.Key, Calibration: t.Calibration, Layer: o.Layer, Layers: layers, Seed: o.Seed}
	r.Crossing, _ = t.Planner.Crossing()
	var cells []*Cell
	for _, batch := range o.Batches {
		for _, q := range o.grid() {
			c := &Cell{Batch: batch, Prefix: q.Prefix, New: q.New}
			if q.Prefix+q.New > t.Model.Options().MaxContext || PagesFor(batch, q.Prefix+q.New) > t.Pages {
				r.Omitted = append(r.Omitted, c.String())
				continue
			}
			cells = append(cells, c)
		}
	}
	if len(cells) == 0 {
		return nil, fmt.Errorf("bench: nothing fits: a context of %d tokens and %d pages of attention cache are too little for %v",
			t.Model.Options().MaxContext, t.Pages, r.Omitted)
	}
	grid := len(cells)
	cells = append(cells, randomSteps(t, o)...)
	for i, c := range cells {
		if err := measure(ctx, t, o, c); err != nil {
			return nil, fmt.Errorf("bench: %s: %w", c, err)
		}
		if i < grid {
			r.Cells = append(r.Cells, *c)
		} else {
			r.Random = append(r.Random, *c)
		}
		if o.Progress != nil {
			o.Progress(c, i+1, len(cells))
		}
	}
	r.Regrets, r.RandomRegrets = regrets(r.Cells), regrets(r.Random)
	return r, nil
}

// grid returns the pairs of prefix and length to measure.
func (o *AttentionOptions) grid() []Sequence {
	if len(o.Grid) > 0 {
		return o.Grid
	}
	var all []Sequence
	for _, prefix := range o.Prefixes {
		for _, length := range o.Lengths {
			all = append(all, Sequence{prefix, length})
		}
	}
	return all
}

// randomSteps draws steps of sequences of all kinds: half of them a generated
// token behind a prefix, the others a prompt's tokens, with or without one.
// Sizes are drawn evenly by their logarithm.
func randomSteps(t Target, o AttentionOptions) []*Cell {
	r := rand.New(rand.NewPCG(o.Seed, 0))
	size := func(most int) int { return int(math.Exp(r.Float64() * math.Log(float64(most)+1))) } // 1 to most
	batch, prefix, length := slices.Max(o.Batches), 0, 0
	for _, q := range o.grid() {
		prefix, length = max(prefix, q.Prefix), max(length, q.New)
	}
	rows := batch * length
	var cells []*Cell
	for try := 0; len(cells) < o.RandomSteps && try < 100*o.RandomSteps; try++ {
		c, total, pages := &Cell{}, 0, 0
		for range size(max(batch, 4)) {
			q := Sequence{New: 1}
			if r.IntN(2) == 0 {
				q.New = size(length)
			}
			if prefix > 0 && (q.New == 1 || r.IntN(2) == 0) {
				q.Prefix = size(prefix)
			}
			n := PagesFor(1, q.Prefix+q.New)
			if q.Prefix+q.New > t.Model.Options().MaxContext || pages+n > t.Pages || total+q.New > rows {
				continue
			}
			c.Sequences, total, pages = append(c.Sequences, q), total+q.New, pages+n
		}
		if c.Batch = len(c.Sequences); c.Batch > 0 {
			cells = append(cells, c)
		}
	}
	return cells
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
		p, err := newContender(t, name, o.Phase, c)
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
		c.Plans = append(c.Plans, p.result(t.Model.Geometry(), t.Model.KVBytesPerKey()))
	}
	c.summarise()
	if o.Check {
		return check(t, c, all)
	}
	return nil
}

// check compares the logits that the plans lead to with those of the first.
func check(t Target, c *Cell, all []*contender) error {
	var want []float32
	for i, p := range all {
		p.batch.Draws = nil
		got, err := t.Model.Forward(&p.batch, nil)
		if err != nil {
			return err
		}
		if i == 0 {
			want = slices.Clone(got)
		}
		worst, largest := 0.0, 0.0
		for j, v := range got {
			d := math.Abs(float64(v - want[j]))
			if math.IsNaN(d) {
				return fmt.Errorf("plan %s: logits that are no numbers", p.name)
			}
			worst, largest = max(worst, d), max(largest, math.Abs(float64(want[j])))
		}
		if largest > 0 {
			worst /= largest
		}
		c.Plans[i].Difference = &worst
	}
	return nil
}

// newContender plans a cell; nil if the plan is not for it.
func newContender(t Target, name string, phase *pathway.Phase, c *Cell) (*contender, error) {
	p := &contender{name: name}
	p.batch = newBatch(t.Model.Config().Vocab, phase, c)
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

// newBatch returns the step of a cell. Pages of its sequences are scattered over
// the cache, as in use.
func newBatch(vocabulary int, phase *pathway.Phase, c *Cell) model.Batch {
	var b model.Batch
	all := c.sequences()
	pages := make([][]int32, len(all))
	next := int32(0)
	for i, more := 0, true; more; i++ { // one page each, in turns
		more = false
		for s, q := range all {
			if i < PagesFor(1, q.Prefix+q.New) {
				pages[s] = append(pages[s], next)
				next++
				more = true
			}
		}
	}
	row := 0
	for s, q := range all {
		e := pathway.Extent{Prefix: q.Prefix, New: q.New, Phase: pathway.Prefill}
		if phase != nil {
			e.Phase = *phase
		} else if q.New == 1 && q.Prefix > 0 {
			e.Phase = pathway.Decode
		}
		b.Step.Seqs = append(b.Step.Seqs, device.Seq{Row: row, Rows: q.New, Prefix: q.Prefix, Pages: pages[s]})
		b.Extents = append(b.Extents, e)
		for p := q.Prefix; p < q.Prefix+q.New; p++ {
			b.Step.Tokens = append(b.Step.Tokens, int32((p*7919+s*104729)%vocabulary)) // primes: no two sequences alike
			b.Step.Positions = append(b.Step.Positions, int32(p))
			b.Step.Slots = append(b.Step.Slots, pages[s][p/device.PageTokens]*device.PageTokens+int32(p%device.PageTokens))
		}
		row += q.New
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
func (p *contender) result(g pathway.Geometry, keyBytes int64) PlanResult {
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
	r.Reason = reasons(&p.plan)
	for i := range p.plan.Waves {
		r.WorkspaceBytes = max(r.WorkspaceBytes, int64(p.plan.Waves[i].Keys)*keyBytes)
	}
	var flops, bytes float64
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
		// What must be read at least once: expanded keys, cached records, or the
		// records selected for each row.
		visible := float64(p.batch.Extents[s.Extent].Prefix + s.To)
		switch {
		case s.Pathway.Expanded():
			bytes += visible * float64(keyBytes)
		case s.Pathway == pathway.MLASparse:
			bytes += float64(s.Pairs) * float64(g.RecordSize)
		default:
			bytes += visible * float64(g.RecordSize)
		}
	}
	if r.Core.Median > 0 {
		r.CoreTFLOPS = flops / r.Core.Median * 1e-6
		r.CoreGBs = bytes / r.Core.Median * 1e-3
	}
	return r
}

// reasons lists why a plan's segments are what they are, each reason once.
func reasons(plan *pathway.Plan) string {
	var all []string
	for i := range plan.Segments {
		if name := plan.Segments[i].Reason.String(); !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return strings.Join(all, ", ")
}
