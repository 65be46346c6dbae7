package bench

import (
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"

	"latent/model"
	"latent/pathway"
	"latent/report"
)

// batches, prefixes and lengths of the grid, in order.
func (r *AttentionReport) sizes() (batches, prefixes, lengths []int) {
	sorted := func(of func(c *Cell) int) []int {
		seen := map[int]bool{}
		for i := range r.Cells {
			seen[of(&r.Cells[i])] = true
		}
		return slices.Sorted(maps.Keys(seen))
	}
	return sorted(func(c *Cell) int { return c.Batch }), sorted(func(c *Cell) int { return c.Prefix }), sorted(func(c *Cell) int { return c.New })
}

// Crossovers returns charts of the attention time of a row against the context,
// a line for each plan: one for every batch and number of new tokens, or where
// the grid has more of these than of prefixes, for every batch and prefix. Marks
// are at index_topk, where MLA is measured to overtake MHA, and at the planner's
// L*, as far as they are near what was measured.
func (r *AttentionReport) Crossovers() []report.Lines {
	batches, prefixes, lengths := r.sizes()
	var charts []report.Lines
	for _, batch := range batches {
		if len(prefixes) >= len(lengths) {
			for _, n := range lengths {
				charts = r.crossover(charts, fmt.Sprintf("batch %d, %d new", batch, n),
					func(c *Cell) bool { return c.Batch == batch && c.New == n })
			}
			continue
		}
		for _, prefix := range prefixes {
			charts = r.crossover(charts, fmt.Sprintf("batch %d, prefix %d", batch, prefix),
				func(c *Cell) bool { return c.Batch == batch && c.Prefix == prefix })
		}
	}
	return charts
}

// crossover adds a chart of the cells that belong, if there are any: a grid may
// have holes.
func (r *AttentionReport) crossover(charts []report.Lines, of string, belongs func(c *Cell) bool) []report.Lines {
	g := r.Key.Geometry
	chart := report.Lines{Title: fmt.Sprintf("Attention by context: %s; %d heads, cache %s", of, g.Heads, r.Key.Cache),
		XLabel: "context, tokens", YLabel: "attention of one layer, µs per row, with quartiles", LogX: true, LogY: true}
	var cells []*Cell
	for i := range r.Cells {
		if belongs(&r.Cells[i]) {
			cells = append(cells, &r.Cells[i])
		}
	}
	if len(cells) == 0 {
		return charts
	}
	slices.SortFunc(cells, func(a, b *Cell) int { return a.Prefix + a.New - b.Prefix - b.New })
	for _, plan := range Plans() {
		s := report.Series{Name: plan}
		for _, c := range cells {
			if p := c.plan(plan); p != nil {
				rows := float64(c.Rows())
				s.X = append(s.X, float64(c.Prefix+c.New))
				s.Y, s.Low, s.High = append(s.Y, p.Attention.Median/rows), append(s.Low, p.Attention.Q1/rows), append(s.High, p.Attention.Q3/rows)
			}
		}
		if len(s.X) > 0 {
			chart.Series = append(chart.Series, s)
		}
	}
	least, most := float64(cells[0].Prefix+cells[0].New), float64(cells[len(cells)-1].Prefix+cells[len(cells)-1].New)
	near := func(v float64) bool { return v >= least/3 && v <= most*3 && v > 0 }
	if v := float64(g.TopK); near(v) {
		chart.Marks = append(chart.Marks, report.Mark{X: v, Label: fmt.Sprintf("index_topk %d", g.TopK)})
	}
	if v, ok := crossing(cells); ok {
		chart.Marks = append(chart.Marks, report.Mark{X: v, Label: fmt.Sprintf("measured crossing %.0f", v)})
	}
	if v := float64(r.Crossing); near(v) {
		chart.Marks = append(chart.Marks, report.Mark{X: v, Label: fmt.Sprintf("planner's L* %d", r.Crossing)})
	}
	return append(charts, chart)
}

// crossing returns the last context at which the faster family of pathways
// changes, between two cells by the logarithms of context and ratio.
func crossing(cells []*Cell) (context float64, ok bool) {
	for i := 1; i < len(cells); i++ {
		a, b := cells[i-1], cells[i]
		if a.MLAOverMHA == 0 || b.MLAOverMHA == 0 || (a.MLAOverMHA > 1) == (b.MLAOverMHA > 1) {
			continue
		}
		ra, rb := math.Log(a.MLAOverMHA), math.Log(b.MLAOverMHA)
		xa, xb := math.Log(float64(a.Prefix+a.New)), math.Log(float64(b.Prefix+b.New))
		context, ok = math.Exp(xa+(xb-xa)*ra/(ra-rb)), true
	}
	return context, ok
}

// Maps returns for each batch which pathway was fastest, by prefix and new
// tokens, and what the adaptive plan chose. A plan that takes several counts as
// the one with most rows.
func (r *AttentionReport) Maps() []report.Heatmap {
	batches, prefixes, lengths := r.sizes()
	var names []string
	for p := range pathway.Count {
		names = append(names, pathway.Pathway(p).String())
	}
	var maps []report.Heatmap
	for _, batch := range batches {
		m := report.Heatmap{Title: fmt.Sprintf("Fastest pathway, batch %d", batch), XLabel: "cached prefix, tokens", YLabel: "new",
			Categories:  names,
			OutlineNote: "Colour and name: the fastest of the fixed plans. Frame: what the planner chose, by colour and dashes; ≠ where that is another."}
		for _, p := range prefixes {
			m.Cols = append(m.Cols, strconv.Itoa(p))
		}
		for _, n := range lengths {
			m.Rows = append(m.Rows, strconv.Itoa(n))
			values, chosen, labels := make([]float64, len(prefixes)), make([]int, len(prefixes)), make([]string, len(prefixes))
			for j, prefix := range prefixes {
				values[j], chosen[j] = math.NaN(), -1
				for i := range r.Cells {
					c := &r.Cells[i]
					if c.Batch != batch || c.Prefix != prefix || c.New != n || c.plan(c.Best) == nil {
						continue
					}
					best := mostRows(c.plan(c.Best))
					values[j], labels[j] = float64(best), names[best]
					if p := c.plan("adaptive"); p != nil {
						if chosen[j] = mostRows(p); chosen[j] != best {
							labels[j] = "≠ " + names[best]
						}
					}
				}
			}
			m.Values, m.Outlines, m.Labels = append(m.Values, values), append(m.Outlines, chosen), append(m.Labels, labels)
		}
		maps = append(maps, m)
	}
	return maps
}

// mostRows returns the pathway with most rows.
func mostRows(p *PlanResult) int {
	best := 0
	for i, n := range p.Rows {
		if n > p.Rows[best] {
			best = i
		}
	}
	return best
}

// SVG draws all crossovers and maps into one file.
func (r *AttentionReport) SVG() string { return r.panels().SVG() }

func (r *AttentionReport) panels() report.Panels {
	var all report.Panels
	for _, c := range r.Crossovers() {
		all = append(all, c)
	}
	for _, m := range r.Maps() {
		all = append(all, m)
	}
	return all
}

// WritePlots draws the crossovers in characters.
func (r *AttentionReport) WritePlots(w io.Writer) error {
	for _, c := range r.Crossovers() {
		if _, err := fmt.Fprintf(w, "\n%s", c.Text(100, 20)); err != nil {
			return err
		}
	}
	return nil
}

// WriteCSV writes a line for every plan of every cell; times are in microseconds.
func (r *AttentionReport) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	head := []string{"step", "random", "batch", "prefix", "new", "rows", "heads", "cache_format", "plan", "rounds"}
	for s := range model.StageCount {
		head = append(head, model.Stage(s).String()+"_us")
	}
	for _, of := range []string{"attention", "core", "layer", "step"} {
		for _, q := range []string{"median", "q1", "q3", "min", "p90"} {
			head = append(head, of+"_"+q+"_us")
		}
	}
	head = append(head, "predicted_us", "layer_us_per_row", "core_tflops", "core_gb_s", "workspace_bytes", "reason", "difference")
	if err := out.Write(head); err != nil {
		return err
	}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
	for i := range len(r.Cells) + len(r.Random) {
		c := r.cell(i)
		for j := range c.Plans {
			p := &c.Plans[j]
			row := []string{c.String(), strconv.FormatBool(c.Sequences != nil), strconv.Itoa(c.Batch), strconv.Itoa(c.Prefix), strconv.Itoa(c.New),
				strconv.Itoa(c.Rows()), strconv.Itoa(r.Key.Geometry.Heads), r.Key.Cache, p.Plan, strconv.Itoa(p.Rounds)}
			for s := range model.StageCount {
				row = append(row, number(p.Stages[model.Stage(s).String()].Median))
			}
			for _, s := range []Stat{p.Attention, p.Core, p.Layer, p.Step} {
				row = append(row, number(s.Median), number(s.Q1), number(s.Q3), number(s.Min), number(s.P90))
			}
			difference := ""
			if p.Difference != nil {
				difference = number(*p.Difference)
			}
			row = append(row, number(p.Predicted), number(p.Layer.Median/float64(c.Rows())), number(p.CoreTFLOPS), number(p.CoreGBs),
				strconv.FormatInt(p.WorkspaceBytes, 10), p.Reason, difference)
			if err := out.Write(row); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return out.Error()
}
