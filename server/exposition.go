package server

import (
	"math"
	"sort"
	"strconv"
	"strings"
)

// exposition writes metrics in the Prometheus text format, version 0.0.4. The
// counts themselves are plain numbers of metrics, written out when asked for.
type exposition struct {
	b      strings.Builder
	prefix string   // of names
	common []string // label pairs that every series has: name, value, ...
	name   string   // of the family being written
}

const expositionType = "text/plain; version=0.0.4; charset=utf-8"

// Kinds of families.
const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
)

// family begins a family; its samples follow.
func (w *exposition) family(name, kind, help string) {
	w.name = w.prefix + name
	w.b.WriteString("# HELP " + w.name + " " + strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(help) + "\n")
	w.b.WriteString("# TYPE " + w.name + " " + kind + "\n")
}

// sample writes one series of the family, with label pairs: name, value, ...
func (w *exposition) sample(value float64, labels ...string) { w.line("", value, labels) }

// single writes a family of one series.
func (w *exposition) single(name, kind, help string, value float64) {
	w.family(name, kind, help)
	w.sample(value)
}

func (w *exposition) line(suffix string, value float64, labels []string, more ...string) {
	w.b.WriteString(w.name + suffix)
	sep := "{"
	for _, pairs := range [...][]string{w.common, labels, more} {
		for i := 0; i < len(pairs); i += 2 {
			w.b.WriteString(sep + pairs[i] + `="` + escapeLabel(pairs[i+1]) + `"`)
			sep = ","
		}
	}
	if sep == "," {
		w.b.WriteString("}")
	}
	w.b.WriteString(" " + formatValue(value) + "\n")
}

func escapeLabel(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}

func formatValue(x float64) string {
	if math.IsInf(x, 1) {
		return "+Inf"
	}
	return strconv.FormatFloat(x, 'g', -1, 64)
}

// distribution is a histogram.
type distribution struct {
	bounds []float64 // ascending upper bounds, the infinite one left out
	counts []uint64  // one more than bounds
	sum    float64
}

func newDistribution(bounds []float64) *distribution {
	return &distribution{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (d *distribution) observe(x float64) {
	d.counts[sort.SearchFloat64s(d.bounds, x)]++
	d.sum += x
}

// distribution writes a histogram's series.
func (w *exposition) distribution(d *distribution, labels ...string) {
	total := uint64(0)
	for i, n := range d.counts {
		total += n
		bound := math.Inf(1)
		if i < len(d.bounds) {
			bound = d.bounds[i]
		}
		w.line("_bucket", float64(total), labels, "le", formatValue(bound))
	}
	w.line("_sum", d.sum, labels)
	w.line("_count", float64(total), labels)
}
