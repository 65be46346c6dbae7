package bench

import (
	"fmt"
	"strconv"

	"latent/model"
	"latent/pathway"
	"latent/report"
)

// Page returns the report as an HTML page; changes and notes, if any, are those
// from a baseline.
func (r *AttentionReport) Page(changes []Change, notes []string) report.Page {
	g := r.Key.Geometry
	p := report.Page{Title: "Attention of one layer: " + r.Model}
	add := func(s ...report.Section) { p.Sections = append(p.Sections, s...) }
	if regrets := r.regretTable(); len(regrets.Rows) > 0 {
		add(regrets)
	}
	crossing := "none"
	if r.Crossing > 0 {
		crossing = fmt.Sprintf("%d tokens", r.Crossing)
	}
	add(report.Table{Caption: "what was measured", Align: "ll", Rows: [][]string{
		{"model", r.Model}, {"device", r.Key.Device}, {"backend", r.Key.Backend}, {"weights", r.Key.Weights}, {"cache", r.Key.Cache},
		{"heads", strconv.Itoa(g.Heads)}, {"index_topk", strconv.Itoa(g.TopK)}, {"layer", fmt.Sprintf("%d of %d", r.Layer, r.Layers)},
		{"costs", r.Calibration}, {"planner's L*", crossing}}})
	if len(r.Omitted) > 0 {
		add(report.Text(fmt.Sprintf("Left out, beyond the model's context or the cache: %v.", r.Omitted)))
	}
	add(report.Heading("Where pathways cross"))
	for _, c := range r.panels() {
		add(report.Chart{Chart: c})
	}
	add(report.Text("Attention is what the planner predicts: from the indexer to the merging of chunks, without projections and writes to the cache. Whiskers are quartiles of the rounds."))
	if len(changes)+len(notes) > 0 {
		add(report.Heading("Against the baseline"))
		for _, n := range notes {
			add(report.Text("Not the same: " + n + "."))
		}
		add(report.Table{Caption: "medians over the baseline's; * quartiles of the layer's times do not overlap",
			Head: []string{"step", "plan", "attention", "layer", ""}, Rows: changeRows(changes), Align: "llrrc"})
	}
	add(report.Heading("Stages"), r.table("the grid: median µs of one layer", r.Cells))
	if len(r.Random) > 0 {
		add(report.Heading("Random steps"), r.table("median µs of one layer", r.Random))
	}
	return p
}

// regretTable has a row for every plan that chooses, over the grid and over
// random steps.
func (r *AttentionReport) regretTable() report.Table {
	t := report.Table{Caption: "regret: attention time over that of the best fixed plan, less 1; \"same work\" are cells where any difference is noise, \"by choice\" the mean with 0 for them",
		Head: []string{"over", "plan", "n", "mean", "P95", "worst", "same work", "by choice", "worst at", "best there", "reason"}, Align: "llrrrrrrlll"}
	percent := func(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) }
	for _, part := range []struct {
		of  string
		all []Regret
	}{{"the grid", r.Regrets}, {fmt.Sprintf("random steps, seed %d", r.Seed), r.RandomRegrets}} {
		for _, g := range part.all {
			t.Rows = append(t.Rows, []string{part.of, g.Plan, strconv.Itoa(g.Cells), percent(g.Mean), percent(g.P95), percent(g.Worst),
				strconv.Itoa(g.Same), percent(g.Choice), g.Cell, g.Best, g.Why})
		}
	}
	return t
}

// table has a row for every plan of cells.
func (r *AttentionReport) table(caption string, cells []Cell) report.Table {
	t := report.Table{Caption: caption, Head: []string{"step", "plan", "rows by pathway"}, Align: "lll"}
	for _, c := range columns {
		t.Head = append(t.Head, c.title)
	}
	t.Head = append(t.Head, "attention", "Q1", "Q3", "predicted", "layer", "µs/row", "TFLOP/s", "GB/s", "workspace", "rounds", "logits' difference")
	for i := range cells {
		c := &cells[i]
		for j := range c.Plans {
			p := &c.Plans[j]
			rows := ""
			for q, n := range p.Rows {
				if n > 0 {
					rows += fmt.Sprintf("%v %d ", pathway.Pathway(q), n)
				}
			}
			row := []string{c.String(), p.Plan, rows}
			for _, col := range columns {
				row = append(row, micros(p.sum(col.stages)))
			}
			difference := ""
			if p.Difference != nil {
				difference = fmt.Sprintf("%.1g", *p.Difference)
			}
			row = append(row, micros(p.Attention.Median), micros(p.Attention.Q1), micros(p.Attention.Q3), micros(p.Predicted), micros(p.Layer.Median),
				report.Number(p.Layer.Median/float64(c.Rows())), report.Number(p.CoreTFLOPS), report.Number(p.CoreGBs), size(p.WorkspaceBytes),
				strconv.Itoa(p.Rounds), difference)
			t.Rows = append(t.Rows, row)
		}
	}
	for range len(t.Head) - 3 {
		t.Align += "r"
	}
	return t
}

// sum adds up the medians of stages.
func (p *PlanResult) sum(stages []model.Stage) (us float64) {
	for _, s := range stages {
		us += p.Stages[s.String()].Median
	}
	return us
}
