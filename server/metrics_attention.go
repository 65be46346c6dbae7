package server

import (
	"strconv"

	"latent"
	"latent/engine"
	"latent/pathway"
)

// phases is the number of pathway.Phase.
const phases = int(pathway.Verify) + 1

// attention counts the planner's decisions.
type attention struct {
	layers   int // of the model; 0 until it is attached
	cells    [pathway.Count][phases][pathway.ReasonCount]cell
	fullRows [phases]int64 // rows that the indexer scored and selected for
	keysOnly [phases]int64 // rows whose index keys alone were stored
	waveKeys int           // most keys of a wave in the latest step
	forward  float64       // seconds, measured

	plan, ratio *distribution
}

// cell counts the segments of one pathway, phase and reason.
type cell struct {
	segments, rows, pairs, keys int64
	predicted                   float64 // microseconds in one layer, with its share of the overhead
	forward                     float64 // seconds: its share of the measured forward passes
}

// step counts a step. The engine measures the forward pass as a whole, so its
// time is shared out among the segments in proportion to their predicted costs,
// as is the pathways' overhead.
func (a *attention) step(info *engine.StepInfo) {
	plan := info.Plan
	cost := 0.0
	for i := range plan.Segments {
		cost += plan.Segments[i].Cost
	}
	rows := info.Rows[0] + info.Rows[1] + info.Rows[2]
	for i := range plan.Segments {
		seg := &plan.Segments[i]
		phase := info.Extents[seg.Extent].Phase
		share := float64(seg.Rows()) / float64(rows)
		if cost > 0 {
			share = seg.Cost / cost
		}
		c := &a.cells[seg.Pathway][phase][seg.Reason]
		c.segments++
		c.rows += int64(seg.Rows())
		c.pairs += seg.Pairs
		c.keys += int64(seg.Keys)
		c.predicted += share * plan.Predicted
		c.forward += share * info.Forward.Seconds()
		if seg.Pathway.Selects() {
			a.fullRows[phase] += int64(seg.Rows())
		} else {
			a.keysOnly[phase] += int64(seg.Rows())
		}
	}
	a.waveKeys = 0
	for i := range plan.Waves {
		a.waveKeys = max(a.waveKeys, plan.Waves[i].Keys)
	}
	a.forward += info.Forward.Seconds()
	a.plan.observe(info.Planning.Seconds())
	if plan.Predicted > 0 && a.layers > 0 {
		a.ratio.observe(info.Forward.Seconds() / (plan.Predicted * 1e-6 * float64(a.layers)))
	}
}

// write writes the counters. Of pathway, phase and reason those appear that have
// occurred.
func (a *attention) write(w *exposition, e *latent.Engine) {
	for _, f := range []struct {
		name, help string
		value      func(*cell) float64
	}{
		{"attention_rows_total", "Query rows.", func(c *cell) float64 { return float64(c.rows) }},
		{"attention_segments_total", "Runs of rows that were decided as one.", func(c *cell) float64 { return float64(c.segments) }},
		{"attention_predicted_seconds_total", "Predicted time of attention in all layers, the pathways' overhead shared out by predicted cost.",
			func(c *cell) float64 { return c.predicted * 1e-6 * float64(a.layers) }},
		{"attention_forward_seconds_total", "Measured time of whole forward passes (attention and everything else), shared out among " +
			"the segments of a step by predicted attention cost: an attribution, not a measurement of attention.",
			func(c *cell) float64 { return c.forward }},
	} {
		w.family(f.name, counter, f.help)
		for p := range a.cells {
			for phase := range a.cells[p] {
				for reason := range a.cells[p][phase] {
					if c := &a.cells[p][phase][reason]; c.segments > 0 {
						w.sample(f.value(c), "pathway", pathway.Pathway(p).String(), "phase", pathway.Phase(phase).String(),
							"reason", pathway.Reason(reason).String())
					}
				}
			}
		}
	}
	for _, f := range []struct {
		name, help string
		value      func(pathway.Pathway, *cell) int64
	}{
		{"attention_pairs_total", "Query-key pairs that attention computed in a layer.", func(_ pathway.Pathway, c *cell) int64 { return c.pairs }},
		{"attention_expanded_keys_total", "Keys that were expanded from latents in a layer.", func(_ pathway.Pathway, c *cell) int64 { return c.keys }},
		{"attention_absorbed_rows_total", "Rows computed in the latent space.", func(p pathway.Pathway, c *cell) int64 {
			if p.Expanded() {
				return 0
			}
			return c.rows
		}},
	} {
		w.family(f.name, counter, f.help)
		for p := range a.cells {
			for phase := range a.cells[p] {
				var sum, segments int64
				for reason := range a.cells[p][phase] {
					c := &a.cells[p][phase][reason]
					sum += f.value(pathway.Pathway(p), c)
					segments += c.segments
				}
				if segments > 0 {
					w.sample(float64(sum), "pathway", pathway.Pathway(p).String(), "phase", pathway.Phase(phase).String())
				}
			}
		}
	}
	w.family("attention_indexer_rows_total", counter, "Rows for which the indexer scored and selected (full), or stored its keys alone (keys_only).")
	for phase := range phases {
		w.sample(float64(a.fullRows[phase]), "phase", pathway.Phase(phase).String(), "mode", "full")
		w.sample(float64(a.keysOnly[phase]), "phase", pathway.Phase(phase).String(), "mode", "keys_only")
	}
	w.single("forward_seconds_total", counter, "Measured time of forward passes.", a.forward)
	w.family("attention_plan_seconds", histogram, "Time that the planner took for a step.")
	w.distribution(a.plan)
	w.family("attention_prediction_ratio", histogram, "Measured time of a step's whole forward pass over the predicted time of its attention. "+
		"A forward pass does more than attention, so it is above 1 for small models; a change for the same load means a wrong calibration.")
	w.distribution(a.ratio)
	if e != nil {
		a.writeInfo(w, e)
	}
}

func (a *attention) writeInfo(w *exposition, e *latent.Engine) {
	c := e.Planner().Config()
	w.family("attention_workspace_bytes", gauge, "Expanded keys and values: the bound, and what the largest wave of the latest step took.")
	w.sample(float64(int64(a.waveKeys)*c.KVBytesPerKey), "kind", "used")
	w.sample(float64(c.WorkspaceBytes), "kind", "limit")
	w.family("attention_policy_info", gauge, "The policy in force; always 1.")
	w.sample(1, "policy", c.Policy.String(), "calibration", c.Calibration.Source, "threshold", strconv.Itoa(c.Threshold),
		"deterministic", strconv.FormatBool(c.Deterministic), "approximate", strconv.FormatBool(c.AllowApproximate))
}
