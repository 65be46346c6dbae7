package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
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
}

// Cell is a combination of batch, prefix and length.
type Cell struct {
	Batch  int          `json:"batch"`
	Prefix int          `json:"prefix"`
	New    int          `json:"new"`
	Plans  []PlanResult `json:"plans"`
	// MLAOverMHA is the attention time of the cheapest plan of the MLA family
	// over that of the MHA family, 0 if one of them was not measured.
	MLAOverMHA float64 `json:"mla_over_mha,omitempty"`
	// Regret is the attention time of the adaptive plan over that of the best
	// fixed one, less 1; nil if there are none to compare.
	Regret *float64 `json:"regret,omitempty"`
}

// PlanResult is what a plan took.
type PlanResult struct {
	Plan       string             `json:"plan"`
	Rounds     int                `json:"rounds"`
	Rows       [pathway.Count]int `json:"rows"`      // by pathway
	Predicted  float64            `json:"predicted"` // attention, by the planner
	Attention  Stat               `json:"attention"` // what Predicted is about: without projections and cache writes
	Core       Stat               `json:"core"`      // the attention kernels alone
	CoreTFLOPS float64            `json:"core_tflops"`
	Layer      Stat               `json:"layer"`  // the whole layer
	Step       Stat               `json:"step"`   // all layers and the choice of a token, on the host's clock
	Stages     map[string]Stat    `json:"stages"` // those that ran, by name
}

// Stat describes repeated measurements, in microseconds.
type Stat struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	P90    float64 `json:"p90"`
}

// statOf describes times; ranks between two are interpolated.
func statOf(took []time.Duration) Stat {
	sorted := slices.Sorted(slices.Values(took))
	at := func(q float64) float64 {
		x := q * float64(len(sorted)-1)
		i := int(x)
		j := min(i+1, len(sorted)-1)
		v := float64(sorted[i]) + (x-math.Floor(x))*float64(sorted[j]-sorted[i])
		return v / float64(time.Microsecond)
	}
	return Stat{Median: at(0.5), Min: at(0), P90: at(0.9)}
}

// summarise compares the plans of a cell.
func (c *Cell) summarise() {
	best := map[string]float64{} // by family
	adaptive := 0.0
	for i := range c.Plans {
		family := ""
		switch p := &c.Plans[i]; p.Plan {
		case "mha", "mha-masked":
			family = "mha"
		case "mla", "mla-sparse":
			family = "mla"
		case "adaptive":
			adaptive = p.Attention.Median
		}
		if family != "" {
			for _, f := range []string{family, ""} {
				if t, ok := best[f]; !ok || c.Plans[i].Attention.Median < t {
					best[f] = c.Plans[i].Attention.Median
				}
			}
		}
	}
	if best["mha"] > 0 && best["mla"] > 0 {
		c.MLAOverMHA = best["mla"] / best["mha"]
		if adaptive > 0 {
			regret := adaptive/best[""] - 1
			c.Regret = &regret
		}
	}
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
	fmt.Fprintln(t, "attention\tpredicted\tlayer\tµs/row\tTFLOP/s\tstep\tp90/min\t")
	for i := range r.Cells {
		c := &r.Cells[i]
		for j := range c.Plans {
			p := &c.Plans[j]
			fmt.Fprintf(t, "%d\t%d\t%d\t%s\t", c.Batch, c.Prefix, c.New, p.Plan)
			for _, col := range columns {
				sum := 0.0
				for _, s := range col.stages {
					sum += p.Stages[s.String()].Median
				}
				fmt.Fprintf(t, "%s\t", micros(sum))
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%.3g\t%.3g\t%.2f\t%.2f\t\n", micros(p.Attention.Median), micros(p.Predicted), micros(p.Layer.Median),
				p.Layer.Median/float64(c.Batch*c.New), p.CoreTFLOPS, p.Step.Median/1e3, p.Layer.P90/p.Layer.Min)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := r.writeCrossover(w); err != nil {
		return err
	}
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

// writeRegret writes what the adaptive plans lose to the best fixed ones.
func (r *AttentionReport) writeRegret(w io.Writer) error {
	sum, n := 0.0, 0
	var worst *Cell
	for i := range r.Cells {
		c := &r.Cells[i]
		if c.Regret == nil {
			continue
		}
		sum += *c.Regret
		n++
		if worst == nil || *c.Regret > *worst.Regret {
			worst = c
		}
	}
	if n == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\nregret of adaptive against the best fixed plan, attention time: mean %.1f %%, worst %.1f %% at batch %d, prefix %d, new %d\n",
		100*sum/float64(n), 100**worst.Regret, worst.Batch, worst.Prefix, worst.New)
	return err
}
