package report

import (
	"fmt"
	"math"
	"slices"
)

// Sample is a named set of values.
type Sample struct {
	Name   string
	Values []float64
}

// ECDF shows the share of values up to each value.
type ECDF struct {
	Title, XLabel string
	LogX          bool
	Samples       []Sample
	Marks         []Mark
}

// mostSteps of a distribution are drawn.
const mostSteps = 400

// SVG draws the chart.
func (c ECDF) SVG() string {
	p := plot{Lines: Lines{Title: c.Title, XLabel: c.XLabel, YLabel: "share of values up to x", LogX: c.LogX, Step: true, Marks: c.Marks},
		joined: true, bare: true, zeroY: true}
	lost := 0
	for _, sample := range c.Samples {
		s := Series{Name: fmt.Sprintf("%s (n = %d)", sample.Name, len(sample.Values))}
		var sorted []float64
		for _, v := range sample.Values {
			if drawable(v, c.LogX) {
				sorted = append(sorted, v)
			} else {
				lost++
			}
		}
		slices.Sort(sorted)
		n := len(sorted)
		for i, v := range sorted {
			if i+1 < n && n > mostSteps && i%(n/mostSteps) != 0 {
				continue
			}
			if len(s.X) == 0 {
				s.X, s.Y = append(s.X, v), append(s.Y, 0)
			}
			s.X, s.Y = append(s.X, v), append(s.Y, float64(i+1)/float64(len(sample.Values)))
		}
		p.Series = append(p.Series, s)
	}
	if lost > 0 {
		// A series of nothing but gaps makes them counted.
		p.Series[0].X = append(p.Series[0].X, slices.Repeat([]float64{math.NaN()}, lost)...)
	}
	return p.draw()
}

// Histogram counts values in bins of equal width; on a logarithmic axis, of equal
// ratio.
type Histogram struct {
	Title, XLabel string
	LogX          bool
	Values        []float64
	Bins          int // 0: by the number of values
	Marks         []Mark
}

// SVG draws the chart.
func (c Histogram) SVG() string {
	p := plot{Lines: Lines{Title: c.Title, XLabel: c.XLabel, YLabel: fmt.Sprintf("values in a bin, of %d", len(c.Values)), LogX: c.LogX, Marks: c.Marks}}
	bins := c.Bins
	if bins <= 0 {
		bins = min(max(int(2*math.Cbrt(float64(len(c.Values)))), 5), 40)
	}
	xs := slices.Clone(c.Values)
	for _, m := range c.Marks {
		xs = append(xs, m.X)
	}
	p.xs = newAxis(xs, c.LogX, false, 6)
	counts := make([]float64, bins)
	for _, v := range c.Values {
		if drawable(v, c.LogX) {
			counts[min(int(p.xs.at(v)*float64(bins)), bins-1)]++
		} else {
			p.Series = []Series{{X: append(first(p.Series), v)}}
		}
	}
	p.ys = newAxis(append(counts, 0), false, true, 5)
	p.xs.empty = p.xs.empty || len(c.Values) == 0
	p.frame()
	width := (p.right - p.left) / float64(bins)
	for i, n := range counts {
		if n > 0 {
			fmt.Fprintf(&p.svg.b, `<rect x="%s" y="%s" width="%s" height="%s" fill="%s" fill-opacity=".55" stroke="%s"/>`,
				num(p.left+float64(i)*width), num(p.y(n)), num(width), num(p.bottom-p.y(n)), colour(0), colour(0))
		}
	}
	return p.finish(nil)
}

func first(s []Series) []float64 {
	if len(s) == 0 {
		return nil
	}
	return s[0].X
}
