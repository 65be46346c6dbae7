package report

import (
	"fmt"
	"math"
)

// Bars compares values by label, as horizontal bars with their numbers.
type Bars struct {
	Title, XLabel string
	Labels        []string
	Series        []BarSeries
	// Format writes the values; nil means Number.
	Format func(v float64) string
}

// BarSeries has a value for every label; one that is not a number has no bar.
type BarSeries struct {
	Name   string
	Values []float64
	// Low and High, where they are as long as Values, are the ends of error bars.
	Low, High []float64
}

// SVG draws the chart.
func (c Bars) SVG() string {
	var s svg
	format := c.Format
	if format == nil {
		format = Number
	}
	y := s.title(c.Title) + 8
	values, n := []float64{0}, 0
	number := 0.0
	for _, b := range c.Series {
		for i, v := range b.Values {
			if i < len(c.Labels) && drawable(v, false) {
				values, n = append(values, v), n+1
				number = max(number, textWidth(format(v)))
				if b.bars() {
					values = append(values, b.Low[i], b.High[i])
				}
			}
		}
	}
	a := newAxis(values, false, true, 5)
	widest := 0.0
	for _, l := range c.Labels {
		widest = max(widest, textWidth(l))
	}
	widest = min(widest, chartWidth*0.38)
	left, right := 14+widest, chartWidth-12-number
	x := func(v float64) float64 { return left + a.at(v)*(right-left) }
	const thick = 14
	step := float64(max(len(c.Series), 1)*thick + 8)
	bottom := y + step*float64(max(len(c.Labels), 1))
	shown := a.ticks
	for len(shown) > 2 && float64(len(shown))*48 > right-left { // labels would touch
		var fewer []float64
		for i := 0; i < len(shown); i += 2 {
			fewer = append(fewer, shown[i])
		}
		shown = fewer
	}
	for _, v := range shown {
		s.line("lt-rule", x(v), y, x(v), bottom)
		s.text("lt-soft", "middle", x(v), bottom+15, a.label(v))
	}
	for i, label := range c.Labels {
		top := y + step*float64(i) + 4
		s.text("", "end", left-6, top+float64(len(c.Series)*thick)/2+4, cut(label, int(widest/charWidth+1)))
		for k, b := range c.Series {
			if i >= len(b.Values) || !drawable(b.Values[i], false) {
				s.text("lt-soft", "start", left+4, top+float64(k*thick)+11, "–")
				continue
			}
			v := b.Values[i]
			from, to := min(x(0), x(v)), max(x(0), x(v))
			s.texture(k, from, top+float64(k*thick)+1, to-from, thick-3)
			end := to
			if b.bars() && drawable(b.Low[i], false) && drawable(b.High[i], false) {
				mid := top + float64(k*thick) + thick/2 - 0.5
				fmt.Fprintf(&s.b, `<path class="lt-axis" stroke-width="1.5" d="M%s %sH%sm0 -3v6M%s %sv6"/>`,
					num(x(b.Low[i])), num(mid), num(x(b.High[i])), num(x(b.Low[i])), num(mid-3))
				end = max(end, x(b.High[i]))
			}
			s.text("lt-small", "start", end+5, top+float64(k*thick)+11, format(v))
		}
	}
	s.line("lt-axis", x(0), y, x(0), bottom)
	if n == 0 {
		s.text("lt-soft", "middle", (left+right)/2, (y+bottom)/2, "no data")
	}
	y = bottom + 18
	if c.XLabel != "" {
		y += lineHeight
		s.text("lt-soft", "middle", (left+right)/2, y, cut(c.XLabel, labelLength))
	}
	y += lineHeight
	if len(c.Series) > 1 {
		var names []string
		for _, b := range c.Series {
			names = append(names, b.Name)
		}
		y = s.legend(names, y, func(i int, x, y float64) { s.texture(i, x, y-5, 24, 10) })
	}
	return s.document(c.Title, y-6)
}

func (b *BarSeries) bars() bool {
	return len(b.Low) == len(b.Values) && len(b.High) == len(b.Values) && len(b.Values) > 0
}

// share maps a value to [0, 1] between two others.
func share(v, lo, hi float64) float64 {
	if hi <= lo || math.IsNaN(v) {
		return 0.5
	}
	return (v - lo) / (hi - lo)
}
