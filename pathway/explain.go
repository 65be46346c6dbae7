package pathway

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// Explanation is a plan in words and numbers, for people and as JSON. Times are
// predictions for the attention of one layer, in microseconds to the nanosecond.
type Explanation struct {
	Policy        Policy                `json:"policy"`
	Threshold     int                   `json:"threshold,omitempty"` // of the threshold policy
	Deterministic bool                  `json:"deterministic"`
	Approximate   bool                  `json:"approximate"`
	Calibration   string                `json:"calibration"` // its source
	Heads         int                   `json:"heads"`
	TopK          int                   `json:"index_topk"`
	Crossing      int                   `json:"crossing,omitempty"` // L*, as Planner.Crossing
	Sequences     []SequenceExplanation `json:"sequences"`
	Pathways      []PathwayTotal        `json:"pathways"`
	IndexerRows   int                   `json:"indexer_rows"` // rows that run the full indexer
	KeysOnlyRows  int                   `json:"keys_only_rows"`
	WaveKeys      int                   `json:"wave_keys"` // keys of a full wave
	Waves         []WaveExplanation     `json:"waves"`
	Predicted     float64               `json:"predicted_us"`
	Compared      []Comparison          `json:"compared"`
}

// SequenceExplanation is one extent with its segments.
type SequenceExplanation struct {
	Phase    Phase                `json:"phase"`
	Prefix   int                  `json:"prefix"`
	New      int                  `json:"new"`
	Policy   string               `json:"policy,omitempty"` // the extent's own
	Segments []SegmentExplanation `json:"segments"`
}

// SegmentExplanation is one decision. Positions count from the beginning of the
// sequence, so that the decisions of a request's steps can be listed together.
type SegmentExplanation struct {
	Phase        Phase                `json:"phase"`
	From         int                  `json:"from"` // position of the first row
	To           int                  `json:"to"`   // position behind the last row
	ContextFrom  int                  `json:"context_from"`
	ContextTo    int                  `json:"context_to"`
	Pathway      Pathway              `json:"pathway"`
	Reason       Reason               `json:"reason"`
	Predicted    float64              `json:"predicted_us"`
	Alternatives map[string]float64   `json:"alternatives"`
	Excluded     map[string]Exclusion `json:"excluded,omitempty"`
	considered   [Count]float64       // Alternatives in order
	excluded     [Count]Exclusion     // Excluded in order
}

// PathwayTotal sums a plan's segments on one pathway.
type PathwayTotal struct {
	Pathway   Pathway `json:"pathway"`
	Segments  int     `json:"segments"`
	Rows      int     `json:"rows"`
	Pairs     int64   `json:"pairs"`
	Keys      int     `json:"expanded_keys"`
	Overhead  float64 `json:"overhead_us"`
	Predicted float64 `json:"predicted_us"` // with the overhead
}

// WaveExplanation is one wave of K/V expansion.
type WaveExplanation struct {
	Keys   int                `json:"keys"`
	Chunks []ChunkExplanation `json:"chunks"`
}

// ChunkExplanation is a chunk of a wave: positions From to To of a sequence.
type ChunkExplanation struct {
	Sequence int `json:"sequence"`
	From     int `json:"from"`
	To       int `json:"to"`
}

// Comparison says what a policy would take for the same step.
type Comparison struct {
	Policy    string  `json:"policy"`
	Predicted float64 `json:"predicted_us"`
	// Ratio is Predicted over the plan's.
	Ratio float64 `json:"ratio"`
}

// ExplainSegment explains one segment of a plan for extents.
func (p *Planner) ExplainSegment(extents []Extent, s *Segment) SegmentExplanation {
	e := extents[s.Extent]
	x := SegmentExplanation{
		Phase: e.Phase,
		From:  e.Prefix + s.From, To: e.Prefix + s.To,
		ContextFrom: e.Prefix + s.From + 1, ContextTo: e.Prefix + s.To,
		Pathway: s.Pathway, Reason: s.Reason, Predicted: nanos(s.Cost),
		Alternatives: make(map[string]float64),
		considered:   s.Alternatives, excluded: s.Excluded,
	}
	for q := range numPathways {
		if s.Excluded[q] == Considered {
			x.Alternatives[q.String()] = nanos(s.Alternatives[q])
			continue
		}
		if x.Excluded == nil {
			x.Excluded = make(map[string]Exclusion)
		}
		x.Excluded[q.String()] = s.Excluded[q]
	}
	return x
}

// nanos rounds microseconds to nanoseconds.
func nanos(us float64) float64 { return math.Round(1000*us) / 1000 }

// Explanation explains a plan that p made for extents, and compares it with
// what each policy would do.
func (p *Planner) Explanation(extents []Extent, plan *Plan) Explanation {
	c := &p.config
	x := Explanation{
		Policy: c.Policy, Deterministic: c.Deterministic, Approximate: c.AllowApproximate,
		Calibration: c.Calibration.Source, Heads: c.Geometry.Heads, TopK: c.Geometry.TopK,
		WaveKeys: p.WaveKeys(), Predicted: nanos(plan.Predicted),
		Sequences: []SequenceExplanation{}, Pathways: []PathwayTotal{}, Waves: []WaveExplanation{},
	}
	if c.Policy == PolicyThreshold {
		x.Threshold = c.Threshold
	}
	x.Crossing, _ = p.Crossing()
	for _, e := range extents {
		s := SequenceExplanation{Phase: e.Phase, Prefix: e.Prefix, New: e.New, Segments: []SegmentExplanation{}}
		if e.Policy != PolicyDefault {
			s.Policy = e.Policy.String()
		}
		x.Sequences = append(x.Sequences, s)
	}
	var totals [Count]PathwayTotal
	for i := range plan.Segments {
		s := &plan.Segments[i]
		x.Sequences[s.Extent].Segments = append(x.Sequences[s.Extent].Segments, p.ExplainSegment(extents, s))
		t := &totals[s.Pathway]
		t.Segments++
		t.Rows += s.Rows()
		t.Pairs += s.Pairs
		t.Keys += s.Keys
		t.Predicted += s.Cost
		if s.Pathway.Selects() {
			x.IndexerRows += s.Rows()
		} else if c.Geometry.Indexer() {
			x.KeysOnlyRows += s.Rows()
		}
	}
	for q, t := range totals {
		if plan.Used[q] {
			t.Pathway, t.Overhead = Pathway(q), p.prices.overhead[q]
			t.Predicted = nanos(t.Predicted + t.Overhead)
			x.Pathways = append(x.Pathways, t)
		}
	}
	for _, w := range plan.Waves {
		wave := WaveExplanation{Keys: w.Keys}
		for _, k := range w.Chunks {
			wave.Chunks = append(wave.Chunks, ChunkExplanation{k.Extent, k.From, k.To})
		}
		x.Waves = append(x.Waves, wave)
	}
	var other Plan
	for policy := PolicyAdaptive; policy < numPolicies; policy++ {
		if p.PlanPolicy(policy, extents, &other) != nil {
			continue // not supported by the backend: nothing to compare with
		}
		name := policy.String()
		if policy == PolicyThreshold {
			name = fmt.Sprintf("threshold %d", c.Threshold)
		}
		k := Comparison{Policy: name, Predicted: nanos(other.Predicted), Ratio: 1}
		if plan.Predicted > 0 {
			k.Ratio = math.Round(1e4*other.Predicted/plan.Predicted) / 1e4
		}
		x.Compared = append(x.Compared, k)
	}
	return x
}

// Explain writes a plan that p made for extents as a table.
func (p *Planner) Explain(w io.Writer, extents []Extent, plan *Plan) error {
	return p.Explanation(extents, plan).WriteText(w)
}

// WriteText writes the explanation as tables for a terminal.
func (x Explanation) WriteText(w io.Writer) error {
	var b bytes.Buffer
	x.writeHead(&b)
	x.writeSegments(&b)
	x.writeTotals(&b)
	_, err := w.Write(b.Bytes())
	return err
}

func (x *Explanation) writeHead(b *bytes.Buffer) {
	rows := 0
	for _, s := range x.Sequences {
		rows += max(0, s.New)
	}
	fmt.Fprintf(b, "step: %d sequences, %d rows; policy %v", len(x.Sequences), rows, x.Policy)
	if x.Policy == PolicyThreshold {
		fmt.Fprintf(b, " %d", x.Threshold)
	}
	if x.Deterministic {
		b.WriteString(", deterministic")
	}
	if x.Approximate {
		b.WriteString(", approximate allowed")
	}
	fmt.Fprintf(b, "; %d heads; ", x.Heads)
	if x.TopK > 0 {
		fmt.Fprintf(b, "index_topk %d", x.TopK)
	} else {
		b.WriteString("no indexer")
	}
	fmt.Fprintf(b, "; calibration: %s\n", x.Calibration)
	if x.Crossing > 0 {
		fmt.Fprintf(b, "growing prompts turn from expanded to absorbed attention behind context %d\n", x.Crossing)
	}
	b.WriteString("predicted microseconds for the attention of one layer; * marks the choice\n\n")
}

func (x *Explanation) writeSegments(b *bytes.Buffer) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "seq\tphase\tprefix\tnew\tcontexts\tpathway\treason")
	for q := range numPathways {
		fmt.Fprintf(t, "\t%v", q)
	}
	fmt.Fprintln(t)
	for i, s := range x.Sequences {
		head := fmt.Sprintf("%d\t%v\t%d\t%d", i, s.Phase, s.Prefix, s.New)
		for _, g := range s.Segments {
			contexts := fmt.Sprintf("%d-%d", g.ContextFrom, g.ContextTo)
			if g.ContextFrom == g.ContextTo {
				contexts = fmt.Sprint(g.ContextTo)
			}
			fmt.Fprintf(t, "%s\t%s\t%v\t%v", head, contexts, g.Pathway, g.Reason)
			for q := range numPathways {
				switch {
				case g.excluded[q] != Considered:
					fmt.Fprintf(t, "\t%v", g.excluded[q])
				case q == g.Pathway:
					fmt.Fprintf(t, "\t*%.1f", g.considered[q])
				default:
					fmt.Fprintf(t, "\t%.1f", g.considered[q])
				}
			}
			fmt.Fprintln(t)
			head = "\t\t\t"
		}
	}
	t.Flush() // to a bytes.Buffer, which does not fail
	if x.overheadDecided() {
		b.WriteString("a cheaper pathway passed over would not have paid for its fixed overhead\n")
	}
	b.WriteByte('\n')
}

// overheadDecided tells whether a segment passed over a cheaper pathway that
// the plan does not use at all.
func (x *Explanation) overheadDecided() bool {
	var used [Count]bool
	for _, t := range x.Pathways {
		used[t.Pathway] = true
	}
	for _, s := range x.Sequences {
		for _, g := range s.Segments {
			for q, cost := range g.considered {
				if !used[q] && g.excluded[q] == Considered && cost < g.Predicted {
					return true
				}
			}
		}
	}
	return false
}

func (x *Explanation) writeTotals(b *bytes.Buffer) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "pathway\tsegments\trows\tpairs\texpanded keys\toverhead\tpredicted")
	for _, p := range x.Pathways {
		fmt.Fprintf(t, "%v\t%d\t%d\t%d\t%d\t%.1f\t%.1f\n", p.Pathway, p.Segments, p.Rows, p.Pairs, p.Keys, p.Overhead, p.Predicted)
	}
	fmt.Fprintf(t, "total\t\t\t\t\t\t%.1f\n", x.Predicted)
	t.Flush()
	if x.TopK > 0 {
		fmt.Fprintf(b, "indexer: %d rows scored, %d rows store their key only\n", x.IndexerRows, x.KeysOnlyRows)
	}
	for i, w := range x.Waves {
		chunks := make([]string, len(w.Chunks))
		for k, c := range w.Chunks {
			chunks[k] = fmt.Sprintf("seq %d [%d,%d)", c.Sequence, c.From, c.To)
		}
		fmt.Fprintf(b, "wave %d: %d of %d keys: %s\n", i, w.Keys, x.WaveKeys, strings.Join(chunks, ", "))
	}
	b.WriteByte('\n')
	t = tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "policy\tpredicted\tagainst this plan")
	for _, c := range x.Compared {
		fmt.Fprintf(t, "%s\t%.1f\t%+.1f%%\n", c.Policy, c.Predicted, 100*(c.Ratio-1))
	}
	t.Flush()
}
