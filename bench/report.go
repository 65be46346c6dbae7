package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"latent/model"
	"latent/pathway"
)

// AttentionReport holds what was measured. Times are in microseconds.
type AttentionReport struct {
	Model       string      `json:"model"`
	Key         pathway.Key `json:"key"`         // device, formats and geometry
	Calibration string      `json:"calibration"` // what plans and predictions come from
	Layer       int         `json:"layer"`       // the layer of stages and layer times
	Layers      int         `json:"layers"`
	Omitted     []string    `json:"omitted,omitempty"` // BATCHxPREFIX+NEW that did not fit
	Cells       []Cell      `json:"cells"`
	Random      []Cell      `json:"random,omitempty"` // steps drawn with Seed
	Seed        uint64      `json:"seed"`
	// Crossing is L*, the context up to which the planner takes the MHA family
	// for a further row of a growing prompt; 0 if there is no such context.
	Crossing int `json:"crossing,omitempty"`
	// Regrets are of the plans that choose, over Cells and over Random.
	Regrets       []Regret `json:"regrets,omitempty"`
	RandomRegrets []Regret `json:"random_regrets,omitempty"`
}

// Regret says what a plan that chooses loses to the best fixed one in attention
// time: 0.1 is a tenth more.
type Regret struct {
	Plan  string  `json:"plan"`
	Cells int     `json:"cells"`
	Mean  float64 `json:"mean"`
	P95   float64 `json:"p95"`
	Worst float64 `json:"worst"`
	// Same counts the cells where the plan has the same rows on the same pathways
	// as the best fixed one, so that any difference is noise; Choice is the mean
	// with 0 for those.
	Same   int     `json:"same"`
	Choice float64 `json:"choice"`
	Cell   string  `json:"cell"`   // the worst one
	Best   string  `json:"best"`   // the fixed plan that was fastest there
	Why    string  `json:"reason"` // the plan's reasons there
}

// Sequence is one of a random step.
type Sequence struct {
	Prefix int `json:"prefix"`
	New    int `json:"new"`
}

// Cell is a combination of batch, prefix and length, or a step of Batch Sequences.
type Cell struct {
	Batch     int          `json:"batch"`
	Prefix    int          `json:"prefix"`
	New       int          `json:"new"`
	Sequences []Sequence   `json:"sequences,omitempty"`
	Plans     []PlanResult `json:"plans"`
	// MLAOverMHA is the attention time of the cheapest plan of the MLA family
	// over that of the MHA family, 0 if one of them was not measured.
	MLAOverMHA float64 `json:"mla_over_mha,omitempty"`
	// Regret is, of each plan that chooses, the attention time over that of the
	// best fixed one, less 1; nil if there are not both families to compare with.
	Regret map[string]float64 `json:"regret,omitempty"`
	// Best is the fixed plan with the least attention time.
	Best string `json:"best,omitempty"`
}

// sequences returns those of the step.
func (c *Cell) sequences() []Sequence {
	if c.Sequences != nil {
		return c.Sequences
	}
	return slices.Repeat([]Sequence{{c.Prefix, c.New}}, c.Batch)
}

// Rows returns the new tokens of the step.
func (c *Cell) Rows() (n int) {
	for _, q := range c.sequences() {
		n += q.New
	}
	return n
}

// String names the step: batch, prefix and new tokens as 2x512+1.
func (c *Cell) String() string {
	if c.Sequences == nil {
		return fmt.Sprintf("%dx%d+%d", c.Batch, c.Prefix, c.New)
	}
	var names []string
	for _, q := range c.Sequences {
		names = append(names, fmt.Sprintf("%d+%d", q.Prefix, q.New))
	}
	return strings.Join(names, " ")
}

// plan returns what was measured of a plan, nil if it was not.
func (c *Cell) plan(name string) *PlanResult {
	for i := range c.Plans {
		if c.Plans[i].Plan == name {
			return &c.Plans[i]
		}
	}
	return nil
}

// chooses tells whether a plan chooses between the families.
func chooses(plan string) bool { return plan == "adaptive" || plan == "threshold" }

// PlanResult is what a plan took.
type PlanResult struct {
	Plan       string             `json:"plan"`
	Rounds     int                `json:"rounds"`
	Rows       [pathway.Count]int `json:"rows"`      // by pathway
	Predicted  float64            `json:"predicted"` // attention, by the planner
	Attention  Stat               `json:"attention"` // what Predicted is about: without projections and cache writes
	Core       Stat               `json:"core"`      // the attention kernels alone
	CoreTFLOPS float64            `json:"core_tflops"`
	// CoreGBs is what the kernels must read of keys, values and records, over
	// their time; what is selected for several rows counts for each of them.
	CoreGBs        float64         `json:"core_gb_s"`
	WorkspaceBytes int64           `json:"workspace_bytes"`      // for expanded keys and values
	Reason         string          `json:"reason"`               // the planner's, of all segments
	Difference     *float64        `json:"difference,omitempty"` // of logits from the first plan's, over the largest
	Layer          Stat            `json:"layer"`                // the whole layer
	Step           Stat            `json:"step"`                 // all layers and the choice of a token, on the host's clock
	Stages         map[string]Stat `json:"stages"`               // those that ran, by name
}

// Stat describes repeated measurements, in microseconds.
type Stat struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	P90    float64 `json:"p90"`
	Q1     float64 `json:"q1"`
	Q3     float64 `json:"q3"`
}

// statOf describes times; ranks between two are interpolated.
func statOf(took []time.Duration) Stat {
	sorted := slices.Sorted(slices.Values(took))
	at := func(q float64) float64 { return quantile(sorted, q) / float64(time.Microsecond) }
	return Stat{Median: at(0.5), Min: at(0), P90: at(0.9), Q1: at(0.25), Q3: at(0.75)}
}

// quantile returns a quantile of sorted values, between ranks by proportion.
func quantile[T ~int64 | ~float64](sorted []T, q float64) float64 {
	x := q * float64(len(sorted)-1)
	i := int(x)
	j := min(i+1, len(sorted)-1)
	return float64(sorted[i]) + (x-math.Floor(x))*float64(sorted[j]-sorted[i])
}

// summarise compares the plans of a cell.
func (c *Cell) summarise() {
	best := map[string]float64{} // by family
	for i := range c.Plans {
		p := &c.Plans[i]
		if chooses(p.Plan) {
			continue
		}
		family, _, _ := strings.Cut(p.Plan, "-")
		if t, ok := best[family]; !ok || p.Attention.Median < t {
			best[family] = p.Attention.Median
		}
		if t, ok := best[""]; !ok || p.Attention.Median < t {
			best[""], c.Best = p.Attention.Median, p.Plan
		}
	}
	if !(best["mha"] > 0 && best["mla"] > 0) {
		return
	}
	c.MLAOverMHA = best["mla"] / best["mha"]
	for i := range c.Plans {
		if p := &c.Plans[i]; chooses(p.Plan) && p.Attention.Median > 0 {
			if c.Regret == nil {
				c.Regret = map[string]float64{}
			}
			c.Regret[p.Plan] = p.Attention.Median/best[""] - 1
		}
	}
}

// regrets sums up the regret of every plan that chooses.
func regrets(cells []Cell) []Regret {
	var out []Regret
	for _, plan := range Plans() {
		r := Regret{Plan: plan}
		var all []float64
		for i := range cells {
			c := &cells[i]
			v, ok := c.Regret[plan]
			if !ok {
				continue
			}
			if len(all) == 0 || v > r.Worst {
				r.Worst, r.Cell, r.Best, r.Why = v, c.String(), c.Best, c.plan(plan).Reason
			}
			all = append(all, v)
			r.Mean += v
			if c.plan(plan).Rows == c.plan(c.Best).Rows {
				r.Same++
			} else {
				r.Choice += v
			}
		}
		if r.Cells = len(all); r.Cells > 0 {
			r.Mean /= float64(r.Cells)
			r.Choice /= float64(r.Cells)
			r.P95 = quantile(slices.Sorted(slices.Values(all)), 0.95)
			out = append(out, r)
		}
	}
	return out
}

// WriteJSON writes the report as JSON.
func (r *AttentionReport) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// columns are those of the table, with the stages that they sum.
var columns = []struct {
	title  string
	stages []model.Stage
}{
	{"prepare", []model.Stage{model.StageQuery, model.StageStore}},
	{"index", []model.Stage{model.StageIndex}},
	{"top-k", []model.Stage{model.StageTopK}},
	{"expand", []model.Stage{model.StageExpand}},
	{"absorb", []model.Stage{model.StageAbsorb, model.StageUnabsorb}},
	{"core", []model.Stage{model.StageMHA, model.StageMLA}},
	{"merge", []model.Stage{model.StageMerge}},
	{"out", []model.Stage{model.StageOut}},
	{"mlp", []model.Stage{model.StageMLP, model.StageRoute, model.StageExperts}},
}

// WriteText writes tables: the stages of every plan, and where the families of
// pathways cross.
func (r *AttentionReport) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "%s, layer %d of %d, on %s; %d heads, %s, cache %s; costs: %s\n", r.Model, r.Layer, r.Layers, r.Key.Device,
		r.Key.Geometry.Heads, r.Key.Weights, r.Key.Cache, r.Calibration)
	fmt.Fprintf(w, "median times of one layer in µs; attention: index to merge; step: all layers to the token, in ms\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "batch\tprefix\tnew\tplan\t")
	for _, c := range columns {
		fmt.Fprintf(t, "%s\t", c.title)
	}
	fmt.Fprintln(t, "attention\tpredicted\tlayer\tµs/row\tTFLOP/s\tGB/s\tworkspace\tstep\tp90/min\t")
	for i := range len(r.Cells) + len(r.Random) {
		c, prefix, length := r.cell(i), "", ""
		if c.Sequences == nil {
			prefix, length = strconv.Itoa(c.Prefix), strconv.Itoa(c.New)
		} else {
			prefix, length = "mixed", strconv.Itoa(c.Rows())
		}
		for j := range c.Plans {
			p := &c.Plans[j]
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t", c.Batch, prefix, length, p.Plan)
			for _, col := range columns {
				fmt.Fprintf(t, "%s\t", micros(p.sum(col.stages)))
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%.3g\t%.3g\t%.3g\t%s\t%.2f\t%.2f\t\n", micros(p.Attention.Median), micros(p.Predicted), micros(p.Layer.Median),
				p.Layer.Median/float64(c.Rows()), p.CoreTFLOPS, p.CoreGBs, size(p.WorkspaceBytes), p.Step.Median/1e3, p.Layer.P90/p.Layer.Min)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := r.writeCrossover(w); err != nil {
		return err
	}
	r.writeDifferences(w)
	if len(r.Omitted) > 0 {
		fmt.Fprintf(w, "\nleft out, beyond the model's context or the cache: %v\n", r.Omitted)
	}
	return r.writeRegret(w)
}

// micros writes a time with three digits or more; nothing for none.
func micros(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// writeCrossover writes, for each batch, the time of MLA over that of MHA by
// prefix and new tokens: above 1 MHA is faster.
func (r *AttentionReport) writeCrossover(w io.Writer) error {
	var batches []int
	for i := range r.Cells {
		if r.Cells[i].MLAOverMHA > 0 && !slices.Contains(batches, r.Cells[i].Batch) {
			batches = append(batches, r.Cells[i].Batch)
		}
	}
	for _, batch := range batches {
		ratio := map[[2]int]float64{}
		var prefixes, lengths []int
		for i := range r.Cells {
			c := &r.Cells[i]
			if c.Batch != batch || c.MLAOverMHA == 0 {
				continue
			}
			ratio[[2]int{c.Prefix, c.New}] = c.MLAOverMHA
			prefixes, lengths = append(prefixes, c.Prefix), append(lengths, c.New)
		}
		slices.Sort(prefixes)
		slices.Sort(lengths)
		prefixes, lengths = slices.Compact(prefixes), slices.Compact(lengths)
		fmt.Fprintf(w, "\nattention time of MLA over MHA, batch %d (above 1: MHA is faster)\n", batch)
		t := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight)
		fmt.Fprint(t, "prefix \\ new\t")
		for _, n := range lengths {
			fmt.Fprintf(t, "%d\t", n)
		}
		fmt.Fprintln(t)
		for _, p := range prefixes {
			fmt.Fprintf(t, "%d\t", p)
			for _, n := range lengths {
				if v, ok := ratio[[2]int{p, n}]; ok {
					fmt.Fprintf(t, "%.2f\t", v)
				} else {
					fmt.Fprint(t, "\t")
				}
			}
			fmt.Fprintln(t)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// writeDifferences writes how far the logits of plans are apart, if they were
// compared.
func (r *AttentionReport) writeDifferences(w io.Writer) {
	for _, plan := range Plans() {
		worst, where := -1.0, ""
		for i := range len(r.Cells) + len(r.Random) {
			c := r.cell(i)
			if p := c.plan(plan); p != nil && p.Difference != nil && *p.Difference > worst {
				worst, where = *p.Difference, c.String()
			}
		}
		if worst >= 0 {
			fmt.Fprintf(w, "\nlogits of %s: at most %.2g of the largest from those of the first plan, at %s\n", plan, worst, where)
		}
	}
}

// cell returns the grid's cells, then the random ones.
func (r *AttentionReport) cell(i int) *Cell {
	if i < len(r.Cells) {
		return &r.Cells[i]
	}
	return &r.Random[i-len(r.Cells)]
}

// size writes a number of bytes.
func size(n int64) string {
	switch {
	case n == 0:
		return "-"
	case n < 1<<20:
		return fmt.Sprintf("%.3gKiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.3gMiB", float64(n)/(1<<20))
}

// writeRegret writes what the plans that choose lose to the best fixed ones.
func (r *AttentionReport) writeRegret(w io.Writer) error {
	for _, part := range []struct {
		of  string
		all []Regret
	}{{"the grid", r.Regrets}, {fmt.Sprintf("random steps (seed %d)", r.Seed), r.RandomRegrets}} {
		for _, g := range part.all {
			if _, err := fmt.Fprintln(w, "\n"+g.sentence(part.of)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sentence words the regret over what was measured.
func (g *Regret) sentence(of string) string {
	return fmt.Sprintf("regret of %s against the best fixed plan over %s, attention time: n %d, mean %.1f %%, P95 %.1f %%, worst %.1f %% at %s, where %s is best (its reason: %s); the same work as the best one in %d, with 0 for these mean %.1f %%",
		g.Plan, of, g.Cells, 100*g.Mean, 100*g.P95, 100*g.Worst, g.Cell, g.Best, g.Why, g.Same, 100*g.Choice)
}
