package report

import (
	"math"
	"strconv"
	"strings"
)

// largest is the largest magnitude that is drawn: beyond it sums overflow.
const largest = 1e300

// axis maps values to [0, 1].
type axis struct {
	log    bool
	lo, hi float64
	ticks  []float64 // with labels
	minor  []float64 // without
	empty  bool
}

// drawable tells whether an axis can show a value.
func drawable(v float64, log bool) bool {
	return math.Abs(v) <= largest && (!log || v >= 1/largest)
}

// newAxis returns an axis for the values that it can show, and with fromZero one
// that begins at 0 if it is linear and nothing is below. About count ticks have labels.
func newAxis(values []float64, log, fromZero bool, count int) axis {
	a := axis{log: log, lo: math.Inf(1), hi: math.Inf(-1)}
	for _, v := range values {
		if drawable(v, log) {
			a.lo, a.hi = min(a.lo, v), max(a.hi, v)
		}
	}
	if a.lo > a.hi {
		a.empty = true
		a.lo, a.hi = 0, 1
		if log {
			a.lo, a.hi = 1, 10
		}
	}
	if a.log {
		a.logarithmic(count)
		return a
	}
	if fromZero && a.lo > 0 {
		a.lo = 0
	}
	a.linear(count)
	return a
}

// linear widens the axis to whole steps of 1, 2 or 5 times a power of ten.
func (a *axis) linear(count int) {
	const least = 1e-290                                                    // of steps: their parts are numbers too
	if a.hi-a.lo <= max(1e-12*max(math.Abs(a.lo), math.Abs(a.hi)), least) { // one value
		d := math.Abs(a.hi) / 2
		if d < least {
			d = 1
		}
		a.lo, a.hi = a.lo-d, a.hi+d
	}
	step := niceStep((a.hi - a.lo) / float64(count))
	first, last := math.Floor(a.lo/step+1e-9), math.Ceil(a.hi/step-1e-9)
	for i := range int(last-first) + 1 {
		a.ticks = append(a.ticks, (first+float64(i))*step)
	}
	a.lo, a.hi = first*step, last*step
}

// niceStep returns the least of 1, 2 and 5 times a power of ten that is not
// below v.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// logarithmic widens the axis to multiples 1, 2 or 5 of powers of ten, or where
// the values are within a factor of 2, to linear ticks.
func (a *axis) logarithmic(count int) {
	if a.hi <= a.lo*(1+1e-12) {
		a.lo, a.hi = a.lo/2, a.hi*2
	}
	if a.hi < 2*a.lo {
		b := axis{lo: a.lo, hi: a.hi}
		b.linear(max(count-1, 2))
		if b.lo > 0 {
			a.lo, a.hi, a.ticks = b.lo, b.hi, b.ticks
			return
		}
	}
	first, last := math.Floor(math.Log10(a.lo)+1e-9), math.Ceil(math.Log10(a.hi)-1e-9)
	var fine []float64
	for d := first; d <= last; d++ {
		for _, m := range []float64{1, 2, 5} {
			fine = append(fine, m*math.Pow(10, d))
		}
	}
	from, to := 0, len(fine)-1
	for from+1 < len(fine) && fine[from+1] <= a.lo*(1+1e-9) {
		from++
	}
	for to > from+1 && fine[to-1] >= a.hi*(1-1e-9) {
		to--
	}
	a.lo, a.hi = fine[from], fine[to]
	fine = fine[from : to+1]
	if len(fine) <= count+1 {
		a.ticks = fine
		return
	}
	stride := math.Ceil((last - first) / float64(count))
	for _, v := range fine {
		d := math.Log10(v)
		if r := math.Round(d); math.Abs(d-r) < 1e-9 && math.Mod(r-first, stride) == 0 {
			a.ticks = append(a.ticks, v)
		} else if stride == 1 {
			a.minor = append(a.minor, v)
		}
	}
}

// at returns where a value is, in [0, 1].
func (a *axis) at(v float64) float64 {
	if a.log {
		return (math.Log10(v) - math.Log10(a.lo)) / (math.Log10(a.hi) - math.Log10(a.lo))
	}
	return (v - a.lo) / (a.hi - a.lo)
}

// label writes the value of a tick, with as many digits as its neighbours need.
func (a *axis) label(v float64) string {
	step := 0.0
	if len(a.ticks) > 1 && !a.log {
		step = a.ticks[1] - a.ticks[0]
	}
	return tickLabel(v, step)
}

// tickLabel writes v, which is a multiple of step if that is not 0.
func tickLabel(v, step float64) string {
	if math.Abs(v) < step/1e6 {
		return "0"
	}
	unit, suffix := 1.0, ""
	switch m := math.Abs(v); {
	case m >= 1e15 || m < 1e-4 && m > 0:
		return strings.Replace(strconv.FormatFloat(v, 'g', 3, 64), "-", "−", -1)
	case m >= 1e12:
		unit, suffix = 1e12, "T"
	case m >= 1e9:
		unit, suffix = 1e9, "G"
	case m >= 1e6:
		unit, suffix = 1e6, "M"
	case m >= 1e4 || m >= 1e3 && (step == 0 || math.Mod(step, 100) == 0):
		unit, suffix = 1e3, "k"
	}
	digits := 6
	if step > 0 {
		digits = int(max(0, math.Ceil(-math.Log10(step/unit)-1e-9)))
	}
	text := strconv.FormatFloat(v/unit, 'f', min(digits, 9), 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return strings.Replace(text, "-", "−", 1) + suffix
}

// Number writes a value with three significant digits or all before the point,
// for labels and cells; a dash for NaN.
func Number(v float64) string {
	switch m := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 0):
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', -1, 64), "nf") + "nf"
	case m >= 1e6 || m < 1e-3 && m > 0:
		return strconv.FormatFloat(v, 'g', 3, 64)
	case m >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	text := strconv.FormatFloat(v, 'g', 3, 64)
	return text
}
