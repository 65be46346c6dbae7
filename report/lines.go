package report

import (
	"fmt"
	"math"
	"strings"
)

// Series is a named sequence of points, drawn in the order given.
type Series struct {
	Name string
	X, Y []float64
	// Low and High, where they are as long as Y, are the ends of error bars.
	Low, High []float64
}

// Mark is a labelled vertical line.
type Mark struct {
	X     float64
	Label string
}

// Lines is a chart of series whose points are joined. A point with a value that
// cannot be drawn breaks its line.
type Lines struct {
	Title, XLabel, YLabel string
	LogX, LogY            bool
	Series                []Series
	Marks                 []Mark
	Step                  bool // lines run level to the next point
}

// Scatter is a chart of series whose points are not joined.
type Scatter struct {
	Title, XLabel, YLabel string
	LogX, LogY            bool
	Series                []Series
	Marks                 []Mark
}

// SVG draws the chart.
func (c Lines) SVG() string {
	p := plot{Lines: c, joined: true, zeroY: true}
	return p.draw()
}

// SVG draws the chart.
func (c Scatter) SVG() string {
	p := plot{Lines: Lines{Title: c.Title, XLabel: c.XLabel, YLabel: c.YLabel, LogX: c.LogX, LogY: c.LogY, Series: c.Series, Marks: c.Marks}, zeroY: true}
	return p.draw()
}

// plot draws charts with two axes.
type plot struct {
	Lines
	joined bool
	bare   bool // lines without markers
	zeroY  bool
	xs, ys axis

	svg                      svg
	left, right, top, bottom float64
}

// axes finds the ranges of both axes.
func (p *plot) axes() {
	var xs, ys []float64
	for i := range p.Series {
		s := &p.Series[i]
		for j := range min(len(s.X), len(s.Y)) {
			if !drawable(s.X[j], p.LogX) || !drawable(s.Y[j], p.LogY) {
				continue
			}
			xs, ys = append(xs, s.X[j]), append(ys, s.Y[j])
			if s.bars() {
				ys = append(ys, s.Low[j], s.High[j])
			}
		}
	}
	if len(xs) > 0 {
		for _, m := range p.Marks {
			xs = append(xs, m.X)
		}
	}
	p.xs, p.ys = newAxis(xs, p.LogX, false, 6), newAxis(ys, p.LogY, p.zeroY, 5)
}

func (s *Series) bars() bool {
	return len(s.Low) == len(s.Y) && len(s.High) == len(s.Y) && len(s.Y) > 0
}

// skipped counts the points that cannot be drawn.
func (p *plot) skipped() int {
	n := 0
	for _, s := range p.Series {
		for j := range max(len(s.X), len(s.Y)) {
			if j >= len(s.X) || j >= len(s.Y) || !drawable(s.X[j], p.LogX) || !drawable(s.Y[j], p.LogY) {
				n++
			}
		}
	}
	return n
}

func (p *plot) x(v float64) float64 { return p.left + p.xs.at(v)*(p.right-p.left) }
func (p *plot) y(v float64) float64 { return p.bottom - p.ys.at(v)*(p.bottom-p.top) }

func (p *plot) draw() string {
	p.axes()
	p.frame()
	for i := range p.Series {
		p.series(i)
	}
	return p.finish(func(i int, x, y float64) {
		if p.joined {
			fmt.Fprintf(&p.svg.b, `<line class="lt-line" stroke="%s" stroke-dasharray="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`,
				colour(i), dashes[i%colours], num(x), num(y), num(x+26), num(y))
		}
		if !p.bare {
			p.svg.marker(i, x+13, y)
		}
	})
}

// frame draws title, axes and marks.
func (p *plot) frame() {
	s := &p.svg
	y := s.title(p.Title)
	if p.YLabel != "" {
		y += 12
		y = s.wrapped("lt-soft", 8, y, chartWidth-16, charWidth, p.YLabel) - lineHeight + 4
	}
	y += 8
	widest := 0.0
	for _, v := range p.ys.ticks {
		widest = max(widest, textWidth(p.ys.label(v)))
	}
	p.left, p.right = 14+widest, chartWidth-18
	p.top = y + float64(len(p.Marks))*14
	p.bottom = p.top + plotHeight
	for _, v := range p.ys.minor {
		s.line("lt-rule", p.left-3, p.y(v), p.left, p.y(v))
	}
	for _, v := range p.ys.ticks {
		s.line("lt-rule", p.left, p.y(v), p.right, p.y(v))
		s.text("lt-soft", "end", p.left-5, p.y(v)+4, p.ys.label(v))
	}
	for _, v := range p.xs.minor {
		s.line("lt-axis", p.x(v), p.bottom, p.x(v), p.bottom+3)
	}
	for i, v := range p.xs.ticks {
		s.line("lt-axis", p.x(v), p.bottom, p.x(v), p.bottom+5)
		label, anchor, at := p.xs.label(v), "middle", p.x(v)
		if i == len(p.xs.ticks)-1 && at+textWidth(label)/2 > chartWidth-2 {
			anchor, at = "end", chartWidth-2
		}
		s.text("lt-soft", anchor, at, p.bottom+18, label)
	}
	s.line("lt-axis", p.left, p.bottom, p.right, p.bottom)
	if !p.xs.empty {
		p.marks(y)
	}
}

// marks draws the vertical lines, a row of labels for each.
func (p *plot) marks(y float64) {
	for i, m := range p.Marks {
		if !drawable(m.X, p.LogX) {
			continue
		}
		x, row := p.x(m.X), y+float64(i)*14+10
		p.svg.line("lt-mark", x, row-4, x, p.bottom)
		label, anchor, at := m.Label, "start", x+4
		if x+6+textWidth(label) > chartWidth {
			anchor, at = "end", x-4
			if room := x - 8; textWidth(label) > room { // on the roomier side
				if room < chartWidth-x-8 {
					anchor, at, room = "start", x+4, chartWidth-x-8
				}
				label = cut(label, int(room/charWidth))
			}
		}
		p.svg.text("lt-small lt-halo", anchor, at, row, label)
	}
}

// finish writes what is below the axes and returns the document.
func (p *plot) finish(sample func(i int, x, y float64)) string {
	s := &p.svg
	if p.ys.empty || p.xs.empty {
		s.text("lt-soft", "middle", (p.left+p.right)/2, (p.top+p.bottom)/2, "no data")
	}
	y := p.bottom + 18
	if p.XLabel != "" {
		s.text("lt-soft", "middle", (p.left+p.right)/2, y+lineHeight, cut(p.XLabel, labelLength))
		y += lineHeight
	}
	y += lineHeight + 3
	var names []string
	for i := range p.Series {
		names = append(names, p.Series[i].Name)
	}
	if len(names) > 1 || len(names) == 1 && names[0] != "" {
		y = s.legend(names, y, sample)
	}
	if n := p.skipped(); n > 0 {
		s.text("lt-soft", "start", 8, y, fmt.Sprintf("not shown, as no number or out of the axes: %d", n))
		y += lineHeight
	}
	return s.document(p.Title, y-8)
}

// mostPoints of a line are drawn one by one; of more, the extremes of groups.
const mostPoints = 800

// series draws one.
func (p *plot) series(i int) {
	s := &p.Series[i]
	n := min(len(s.X), len(s.Y))
	if s.bars() && n <= mostPoints {
		p.errorBars(i)
	}
	if p.joined {
		var d strings.Builder
		pen, lastY := "M", 0.0
		for _, j := range p.thinned(s, n) {
			if j < 0 || !drawable(s.X[j], p.LogX) || !drawable(s.Y[j], p.LogY) {
				pen = "M"
				continue
			}
			x, y := p.x(s.X[j]), p.y(s.Y[j])
			if p.Step && pen == "L" {
				fmt.Fprintf(&d, "L%s %s", num(x), num(lastY))
			}
			fmt.Fprintf(&d, "%s%s %s", pen, num(x), num(y))
			pen, lastY = "L", y
		}
		if d.Len() > 0 {
			fmt.Fprintf(&p.svg.b, `<path class="lt-line" stroke="%s" stroke-dasharray="%s" d="%s"/>`, colour(i), dashes[i%colours], d.String())
		}
	}
	if p.bare || p.joined && n > 60 {
		return
	}
	size := 3.6
	if n > 200 {
		size = 2.2
	}
	drawn := map[[2]float64]bool{}
	for j := range n {
		if !drawable(s.X[j], p.LogX) || !drawable(s.Y[j], p.LogY) {
			continue
		}
		at := [2]float64{math.Round(p.x(s.X[j])), math.Round(p.y(s.Y[j]))}
		if n > mostPoints && drawn[at] { // nobody sees the second
			continue
		}
		drawn[at] = true
		p.svg.markerSize(i, p.x(s.X[j]), p.y(s.Y[j]), size)
	}
}

// thinned returns the indices of the points to join: all, or of many the least
// and the greatest of each group, and -1 where a line breaks.
func (p *plot) thinned(s *Series, n int) []int {
	var out []int
	if n <= mostPoints {
		for j := range n {
			out = append(out, j)
		}
		return out
	}
	for g := range mostPoints / 2 {
		from, to := g*n/(mostPoints/2), (g+1)*n/(mostPoints/2)
		least, most, gap := -1, -1, false
		for j := from; j < to; j++ {
			if !drawable(s.X[j], p.LogX) || !drawable(s.Y[j], p.LogY) {
				gap = true
				continue
			}
			if least < 0 || s.Y[j] < s.Y[least] {
				least = j
			}
			if most < 0 || s.Y[j] > s.Y[most] {
				most = j
			}
		}
		if least >= 0 {
			out = append(out, min(least, most))
			if least != most {
				out = append(out, max(least, most))
			}
		}
		if gap {
			out = append(out, -1)
		}
	}
	return out
}

func (p *plot) errorBars(i int) {
	s := &p.Series[i]
	var d strings.Builder
	for j := range min(len(s.X), len(s.Y)) {
		if drawable(s.X[j], p.LogX) && drawable(s.Low[j], p.LogY) && drawable(s.High[j], p.LogY) {
			x, low, high := num(p.x(s.X[j])), p.y(s.Low[j]), p.y(s.High[j])
			fmt.Fprintf(&d, "M%s %sV%sm-3 0h6M%s %sm-3 0h6", x, num(low), num(high), x, num(low))
		}
	}
	if d.Len() > 0 {
		fmt.Fprintf(&p.svg.b, `<path class="lt-error" stroke="%s" d="%s"/>`, colour(i), d.String())
	}
}
