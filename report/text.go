package report

import (
	"fmt"
	"strings"
)

// letters stand for series on a terminal.
const letters = "abcdefghijklmnopqrstuvwxyz"

// Text draws the chart in characters, width columns wide and height lines high,
// with lines of legend below. Series are letters; where several meet there is a *.
func (c Lines) Text(width, height int) string {
	return (&plot{Lines: c, joined: true, zeroY: true}).text(width, height)
}

// Text draws the chart in characters, as [Lines.Text].
func (c Scatter) Text(width, height int) string {
	return (&plot{Lines: Lines{Title: c.Title, XLabel: c.XLabel, YLabel: c.YLabel, LogX: c.LogX, LogY: c.LogY, Series: c.Series, Marks: c.Marks}, zeroY: true}).text(width, height)
}

func (p *plot) text(width, height int) string {
	p.axes()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", p.Title)
	if p.YLabel != "" {
		fmt.Fprintf(&b, "%s\n", p.YLabel)
	}
	if p.xs.empty || p.ys.empty {
		b.WriteString("no data\n")
		return b.String()
	}
	margin := 0
	for _, v := range p.ys.ticks {
		margin = max(margin, len([]rune(p.ys.label(v))))
	}
	w, h := max(width-margin-2, 10), max(height, 4)
	p.left, p.right, p.top, p.bottom = 0, float64(w-1), 0, float64(h-1)
	grid := make([][]rune, h)
	for i := range grid {
		grid[i] = []rune(strings.Repeat(" ", w))
	}
	for _, m := range p.Marks {
		if drawable(m.X, p.LogX) {
			for i := range grid {
				grid[i][int(p.x(m.X)+0.5)] = '|'
			}
		}
	}
	for i := range p.Series {
		p.plotLetters(grid, i)
	}
	labels := map[int]string{}
	for _, v := range p.ys.ticks {
		labels[int(p.y(v)+0.5)] = p.ys.label(v)
	}
	for i, row := range grid {
		l := labels[i]
		fmt.Fprintf(&b, "%s%s |%s\n", strings.Repeat(" ", margin-len([]rune(l))), l, strings.TrimRight(string(row), " "))
	}
	fmt.Fprintf(&b, "%s +%s\n", strings.Repeat(" ", margin), strings.Repeat("-", w))
	under := []rune(strings.Repeat(" ", w+margin+8))
	free := 0
	for _, v := range p.xs.ticks {
		l := []rune(p.xs.label(v))
		at := max(margin+2+int(p.x(v)+0.5)-len(l)/2, 0)
		if at >= free && at+len(l) <= len(under) {
			copy(under[at:], l)
			free = at + len(l) + 1
		}
	}
	fmt.Fprintln(&b, strings.TrimRight(string(under), " "))
	if p.XLabel != "" {
		fmt.Fprintf(&b, "%s  %s\n", strings.Repeat(" ", margin), p.XLabel)
	}
	for i := range p.Series {
		fmt.Fprintf(&b, "  %c  %s\n", letters[i%len(letters)], p.Series[i].Name)
	}
	for _, m := range p.Marks {
		fmt.Fprintf(&b, "  |  %s\n", m.Label)
	}
	if n := p.skipped(); n > 0 {
		fmt.Fprintf(&b, "  not shown, as no number or out of the axes: %d\n", n)
	}
	return b.String()
}

// plotLetters draws series i, lines as dots between their points.
func (p *plot) plotLetters(grid [][]rune, i int) {
	s := &p.Series[i]
	put := func(x, y float64, r rune) {
		at := &grid[int(y+0.5)][int(x+0.5)]
		switch {
		case *at == ' ' || *at == '|' || *at == '.' && r != '.':
			*at = r
		case r != '.' && *at != r:
			*at = '*'
		}
	}
	var x0, y0 float64
	joined := false
	for j := range min(len(s.X), len(s.Y)) {
		if !drawable(s.X[j], p.LogX) || !drawable(s.Y[j], p.LogY) {
			joined = false
			continue
		}
		x, y := p.x(s.X[j]), p.y(s.Y[j])
		if joined && p.joined {
			n := int(max(x-x0, x0-x, y-y0, y0-y))
			for k := 1; k < n; k++ {
				t := float64(k) / float64(n)
				put(x0+t*(x-x0), y0+t*(y-y0), '.')
			}
		}
		put(x, y, rune(letters[i%len(letters)]))
		x0, y0, joined = x, y, true
	}
}
