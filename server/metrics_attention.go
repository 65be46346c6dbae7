package server

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"latent/engine"
	"latent/pathway"
)

// phases is the number of pathway.Phase.
const phases = int(pathway.Verify) + 1

// attention counts the planner's decisions, and compares the predicted with the
// measured times. Of pathway, phase and reason those appear that have occurred.
type attention struct {
	layers   atomic.Int64                // of the model; 0 until it is attached
	waveKeys atomic.Int64                // most keys of a wave in the latest step
	totals   [pathway.Count]atomic.Int64 // rows, for the log

	rows, segments, predicted *prometheus.CounterVec // by pathway, phase, reason
	pairs, keys, absorbed     *prometheus.CounterVec // by pathway, phase
	indexer                   *prometheus.CounterVec // by phase, mode
	measured                  *prometheus.CounterVec // by kind
	plan, ratio               prometheus.Histogram
}

// Modes of the indexer, for a row.
const (
	modeFull     = "full"      // scored and selected
	modeKeysOnly = "keys_only" // its index key was stored, no more
)

// Kinds of measured work, as model.Times has them.
const (
	kindSelect   = "select"
	kindExpanded = "expanded"
	kindAbsorbed = "absorbed"
)

func newAttention(f promauto.Factory) *attention {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	a := &attention{
		rows:     counters("attention_rows_total", "Query rows.", "pathway", "phase", "reason"),
		segments: counters("attention_segments_total", "Runs of rows that were decided as one.", "pathway", "phase", "reason"),
		predicted: counters("attention_predicted_seconds_total",
			"Predicted time of attention in all layers, the pathways' overhead shared out by predicted cost.", "pathway", "phase", "reason"),
		pairs:    counters("attention_pairs_total", "Query-key pairs that attention computed in a layer.", "pathway", "phase"),
		keys:     counters("attention_expanded_keys_total", "Keys that were expanded from latents in a layer.", "pathway", "phase"),
		absorbed: counters("attention_absorbed_rows_total", "Rows computed in the latent space.", "pathway", "phase"),
		indexer: counters("attention_indexer_rows_total",
			"Rows for which the indexer scored and selected (full), or stored its keys alone (keys_only).", "phase", "mode"),
		measured: counters("attention_seconds_total", "Measured time of attention in all layers, without projections and cache writes: "+
			"the indexer's queries, scores and selection (select), expansion, MHA and merging (expanded), absorption and MLA (absorbed). "+
			"Not by phase: a step computes the rows of all phases together.", "kind"),
		plan: f.NewHistogram(prometheus.HistogramOpts{
			Name: "attention_plan_seconds", Help: "Time that the planner took for a step.", Buckets: planBuckets,
		}),
		ratio: f.NewHistogram(prometheus.HistogramOpts{
			Name: "attention_prediction_ratio", Buckets: ratioBuckets,
			Help: "Measured over predicted time of a step's attention in all layers; far from 1: the machine is busy otherwise, or the calibration does not fit it.",
		}),
	}
	for phase := range phases {
		for _, mode := range []string{modeFull, modeKeysOnly} {
			a.indexer.WithLabelValues(pathway.Phase(phase).String(), mode)
		}
	}
	for _, kind := range []string{kindSelect, kindExpanded, kindAbsorbed} {
		a.measured.WithLabelValues(kind)
	}
	return a
}

// cell sums the segments of one pathway, phase and reason in a step.
type cell struct {
	segments, rows, keys int
	pairs                int64
	cost                 float64 // microseconds in one layer
}

// step counts a step. Series are looked up once for each cell, not for each of
// its segments, which may be hundreds.
func (a *attention) step(info *engine.StepInfo) {
	plan := info.Plan
	var cells [pathway.Count][phases][pathway.ReasonCount]cell
	cost := 0.0
	for i := range plan.Segments {
		seg := &plan.Segments[i]
		c := &cells[seg.Pathway][info.Extents[seg.Extent].Phase][seg.Reason]
		c.segments++
		c.rows += seg.Rows()
		c.keys += seg.Keys
		c.pairs += seg.Pairs
		c.cost += seg.Cost
		cost += seg.Cost
	}
	// Both times are counted once the number of layers is known, so that they
	// can be compared.
	layers := float64(a.layers.Load())
	predicted := plan.Predicted * 1e-6 * layers
	for p := range cells {
		for phase := range cells[p] {
			for reason := range cells[p][phase] {
				if c := &cells[p][phase][reason]; c.segments > 0 {
					share := float64(c.rows) / float64(info.Rows[0]+info.Rows[1]+info.Rows[2])
					if cost > 0 {
						share = c.cost / cost
					}
					a.count(pathway.Pathway(p), pathway.Phase(phase), pathway.Reason(reason), c, share*predicted)
				}
			}
		}
	}
	most := 0
	for i := range plan.Waves {
		most = max(most, plan.Waves[i].Keys)
	}
	a.waveKeys.Store(int64(most))
	a.plan.Observe(info.Planning.Seconds())
	if layers > 0 {
		a.measured.WithLabelValues(kindSelect).Add(info.Attention.Select.Seconds())
		a.measured.WithLabelValues(kindExpanded).Add(info.Attention.Expanded.Seconds())
		a.measured.WithLabelValues(kindAbsorbed).Add(info.Attention.Absorbed.Seconds())
	}
	if predicted > 0 && info.Attention.Total() > 0 { // not every step is timed
		a.ratio.Observe(info.Attention.Total().Seconds() / predicted)
	}
}

// count counts a cell, which was predicted to take so many seconds.
func (a *attention) count(p pathway.Pathway, phase pathway.Phase, reason pathway.Reason, c *cell, predicted float64) {
	rows := float64(c.rows)
	a.totals[p].Add(int64(c.rows))
	labels := []string{p.String(), phase.String(), reason.String()}
	a.rows.WithLabelValues(labels...).Add(rows)
	a.segments.WithLabelValues(labels...).Add(float64(c.segments))
	a.predicted.WithLabelValues(labels...).Add(predicted)
	labels = labels[:2]
	a.pairs.WithLabelValues(labels...).Add(float64(c.pairs))
	a.keys.WithLabelValues(labels...).Add(float64(c.keys))
	latentRows := rows
	if p.Expanded() {
		latentRows = 0
	}
	a.absorbed.WithLabelValues(labels...).Add(latentRows)
	mode := modeKeysOnly
	if p.Selects() {
		mode = modeFull
	}
	a.indexer.WithLabelValues(phase.String(), mode).Add(rows)
}

// rowTotals returns the rows so far by pathway.
func (a *attention) rowTotals() (rows [pathway.Count]int64) {
	for p := range rows {
		rows[p] = a.totals[p].Load()
	}
	return rows
}
