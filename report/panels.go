package report

import (
	"fmt"
	"strconv"
	"strings"
)

// Panels draws charts of this package one above the other, into one file.
type Panels []interface{ SVG() string }

// SVG draws the charts.
func (c Panels) SVG() string {
	var b strings.Builder
	y := 0.0
	for _, chart := range c {
		drawing := chart.SVG()
		height := heightOf(drawing)
		fmt.Fprintf(&b, `<svg y="%s" %s`, num(y), strings.TrimPrefix(drawing, "<svg "))
		y += height + 12
	}
	y = max(y-12, 10)
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %s" width="%d" height="%s">%s</svg>`, chartWidth, num(y), chartWidth, num(y), b.String())
}

// heightOf reads the height of what document wrote.
func heightOf(drawing string) float64 {
	_, rest, _ := strings.Cut(drawing, fmt.Sprintf(`viewBox="0 0 %d `, chartWidth))
	number, _, _ := strings.Cut(rest, `"`)
	height, err := strconv.ParseFloat(number, 64)
	if err != nil {
		panic("report: Panels of a drawing of another kind")
	}
	return height
}
