package report

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write testdata/*.svg and *.txt anew")

// golden compares with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (rewrite with -update, then look at it):\n%s", file, diff)
	}
}

// breakLines puts each element on a line, for differences that can be read.
func breakLines(drawing string) string { return strings.ReplaceAll(drawing, "><", ">\n<") + "\n" }

// charts are small, and each has something of its own.
func charts() map[string]interface{ SVG() string } {
	x := []float64{1024, 2048, 4096, 8192, 16384}
	lines := Lines{Title: "Attention by context", XLabel: "context, tokens", YLabel: "µs per row", LogX: true, LogY: true, Marks: []Mark{{6963, "L* 6,963"}},
		Series: []Series{{Name: "mha-masked", X: x, Y: []float64{5, 10, 20, 40, 80}, Low: []float64{4, 9, 19, 39, 70}, High: []float64{6, 11, 21, 41, 90}},
			{Name: "mla-sparse", X: x, Y: []float64{30, 31, math.NaN(), 33, 34}}}}
	return map[string]interface{ SVG() string }{
		"lines":   lines,
		"scatter": Scatter{Title: "TTFT", XLabel: "tokens", YLabel: "ms", Series: []Series{{Name: "<a&b>", X: []float64{1, 2, 3}, Y: []float64{-4, 2, 9}}, {Name: "b", X: []float64{1}, Y: []float64{0}}}},
		"steps":   Lines{Title: "in flight", Step: true, Series: []Series{{Name: "", X: []float64{0, 1, 2.5}, Y: []float64{1, 3, 2}}}},
		"bars": Bars{Title: "Accuracy", XLabel: "accuracy", Labels: []string{"algebra", "law", "a name that is too long for its place"},
			Series: []BarSeries{{Name: "A", Values: []float64{0.5, 0.75, math.NaN()}, Low: []float64{0.4, 0.7, 0}, High: []float64{0.6, 0.8, 0}}, {Name: "B", Values: []float64{0.25, 1}}}},
		"histogram": Histogram{Title: "tokens", XLabel: "tokens", Bins: 4, Values: []float64{1, 1, 2, 3, 9, math.Inf(1)}},
		"ecdf":      ECDF{Title: "TPOT", XLabel: "ms", LogX: true, Samples: []Sample{{"a", []float64{3, 1, 2, 0}}, {"b", []float64{10}}}},
		"heatmap":   Heatmap{Title: "recall", XLabel: "context", YLabel: "depth", Rows: []string{"0 %", "50 %"}, Cols: []string{"512", "2048"}, Values: [][]float64{{1, 0.5}, {0.25}}, High: 1},
		"map": Heatmap{Title: "fastest", Rows: []string{"1"}, Cols: []string{"0", "2048"}, Values: [][]float64{{0, 1}}, Categories: []string{"mha", "mla"},
			Outlines: [][]int{{1, -1}}, Labels: [][]string{{"≠ mha", "mla"}}, OutlineNote: "frame: chosen"},
		"panels":    Panels{lines, Bars{Title: "none"}},
		"empty":     Lines{Title: "nothing", XLabel: "x"},
		"one-point": Scatter{Title: "one", Series: []Series{{Name: "a", X: []float64{5}, Y: []float64{7}}}},
		"same":      Lines{Title: "identical values", LogY: true, Series: []Series{{Name: "a", X: []float64{1, 2, 3}, Y: []float64{50, 50, 50}}}},
	}
}

// TestCharts compares drawings with those that were looked at.
func TestCharts(t *testing.T) {
	for name, chart := range charts() {
		drawing := chart.SVG()
		if err := wellFormed(drawing); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		golden(t, name+".svg", breakLines(drawing))
		if text, ok := chart.(interface {
			Text(width, height int) string
		}); ok {
			golden(t, name+".txt", text.Text(60, 12))
		}
	}
}

// TestTicks compares with ticks chosen by hand.
func TestTicks(t *testing.T) {
	for _, c := range []struct {
		values    []float64
		log, zero bool
		want      string
	}{
		{[]float64{0, 10}, false, false, "0 2 4 6 8 10"},
		{[]float64{3, 97}, false, true, "0 20 40 60 80 100"},
		{[]float64{95, 97}, false, false, "95 95.5 96 96.5 97"},
		{[]float64{-0.03, 0.012}, false, false, "−0.03 −0.02 −0.01 0 0.01 0.02"},
		{[]float64{0, 131072}, false, false, "0 50k 100k 150k"},
		{[]float64{0, 4500}, false, false, "0 1k 2k 3k 4k 5k"},
		{[]float64{7}, false, false, "2 4 6 8 10 12"},
		{[]float64{0, 0}, false, false, "−1 −0.5 0 0.5 1"},
		{nil, false, false, "0 0.2 0.4 0.6 0.8 1"},
		{[]float64{math.NaN(), math.Inf(1), 1}, false, true, "0 0.2 0.4 0.6 0.8 1"},
		{[]float64{1e-9, 3e-9}, false, true, "0 1e−09 2e−09 3e−09"},
		{[]float64{512, 131072}, true, false, "1k 10k 100k"},
		{[]float64{3, 40}, true, false, "2 5 10 20 50"},
		{[]float64{1, 1e9}, true, false, "1 100 10k 1M 100M"},
		{[]float64{30, 33}, true, false, "30 31 32 33"},
		{[]float64{50}, true, false, "20 50 100"},
		{[]float64{0, -1}, true, false, "1 2 5 10"},
		{[]float64{0, 4}, true, false, "2 5 10"},
	} {
		a := newAxis(c.values, c.log, c.zero, 5)
		var got []string
		for _, v := range a.ticks {
			got = append(got, a.label(v))
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%v, log %v: %s, want %s", c.values, c.log, text, c.want)
		}
		for _, v := range c.values {
			if at := a.at(v); drawable(v, c.log) && !(at >= -1e-9 && at <= 1+1e-9) {
				t.Errorf("%v, log %v: %v is at %v", c.values, c.log, v, at)
			}
		}
	}
}

// coordinate matches numbers of attributes and paths.
var coordinate = regexp.MustCompile(` (?:x|y|x1|x2|y1|y2|cx|cy)="(-?[0-9.e+]+)"`)

// TestAnything draws any values: the drawing is well-formed, has numbers only,
// and all of them are on it.
func TestAnything(t *testing.T) {
	value := rapid.OneOf(rapid.Float64(), rapid.Float64Range(-1000, 1000), rapid.SampledFrom([]float64{0, 1, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, 5e-324, 1e-300}))
	values := rapid.SliceOfN(value, 0, 8)
	rapid.Check(t, func(t *rapid.T) {
		x, y, low, high := values.Draw(t, "x"), values.Draw(t, "y"), values.Draw(t, "low"), values.Draw(t, "high")
		name := rapid.String().Draw(t, "name")
		logX, logY := rapid.Bool().Draw(t, "log x"), rapid.Bool().Draw(t, "log y")
		series := []Series{{Name: name, X: x, Y: y, Low: low, High: high}, {X: y, Y: x}}
		marks := []Mark{{value.Draw(t, "mark"), name}}
		lines := Lines{Title: name, XLabel: name, YLabel: name, LogX: logX, LogY: logY, Series: series, Marks: marks}
		scatter := Scatter{Title: name, LogX: logX, LogY: logY, Series: series, Marks: marks}
		_ = lines.Text(30, 6) + scatter.Text(80, 20)
		for _, chart := range []interface{ SVG() string }{
			lines, scatter,
			ECDF{Title: name, LogX: logX, Samples: []Sample{{name, x}, {name, y}}, Marks: marks},
			Histogram{Title: name, LogX: logX, Values: x, Marks: marks},
			Bars{Title: name, Labels: []string{name, "b", "c"}, Series: []BarSeries{{Name: name, Values: x, Low: low, High: high}, {Values: y}}},
			Heatmap{Title: name, Rows: []string{name, "r"}, Cols: []string{name, "c", "d"}, Values: [][]float64{x, y}},
		} {
			drawing := chart.SVG()
			if err := wellFormed(drawing); err != nil {
				t.Fatalf("%T: %v in %s", chart, err, drawing)
			}
			if found := regexp.MustCompile(`="[^"<]*(NaN|Inf)[^"]*"`).FindString(strings.ReplaceAll(drawing, escape(name), "")); found != "" {
				t.Fatalf("%T: %s", chart, found)
			}
			for _, m := range coordinate.FindAllStringSubmatch(drawing, -1) {
				if v, err := strconv.ParseFloat(m[1], 64); err != nil || v < -1 || v > 2000 {
					t.Fatalf("%T: coordinate %s", chart, m[0])
				}
			}
		}
	})
}

// TestManyPoints keeps drawings of many points small, and their extremes.
func TestManyPoints(t *testing.T) {
	var s Series
	for i := range 100000 {
		s.X, s.Y = append(s.X, float64(i)), append(s.Y, float64(i%7))
	}
	s.Y[12345] = 1000
	drawing := Lines{Series: []Series{s}}.SVG()
	if len(drawing) > 30000 {
		t.Errorf("a line of %d points takes %d bytes", len(s.X), len(drawing))
	}
	p := plot{Lines: Lines{Series: []Series{s}}, joined: true}
	found := false
	for _, j := range p.thinned(&s, len(s.X)) {
		found = found || j == 12345
	}
	if !found {
		t.Error("the peak is not drawn")
	}
	if n := len(ECDF{Samples: []Sample{{"a", s.Y}, {"b", s.X}}}.SVG()); n > 60000 {
		t.Errorf("an ECDF takes %d bytes", n)
	}
}

// TestNumber writes numbers for cells.
func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 1: "1", 0.12345: "0.123", 99.96: "100", 12345.6: "12346", 1.5e9: "1.5e+09", 2e-5: "2e-05", math.Inf(-1): "-Inf"} {
		if got := Number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
	if got := Number(math.NaN()); got != "–" {
		t.Errorf("NaN: %q", got)
	}
}

// TestPageErrors refuses what would make a page that is not one.
func TestPageErrors(t *testing.T) {
	for want, s := range map[string]Section{
		`a link to "https://example.org/x", want a file beside the page`: Links{{"x", "https://example.org/x"}},
		`a link to "../x", want a file beside the page`:                  Links{{"x", "../x"}},
		"an element script":      Chart{Chart: drawing(`<svg><script/></svg>`)},
		"0 elements, want one":   Chart{Chart: drawing("")},
		"an element div":         Chart{Chart: drawing("<div/>")},
		"XML syntax error":       Chart{Chart: drawing("<svg>")},
		"text around":            Chart{Chart: drawing("x<svg/>")},
		"2 elements, want one":   Chart{Chart: drawing("<svg/><svg/>")},
		"a directive, want an ":  Chart{Chart: drawing("<!DOCTYPE x><svg/>")},
		"an element foreignObje": Details{Sections: []Section{Chart{Chart: drawing("<svg><foreignObject/></svg>")}}},
	} {
		err := Page{Sections: []Section{s}}.Write(&strings.Builder{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

type drawing string

func (d drawing) SVG() string { return string(d) }

// TestSections compares the HTML of each section with what it should be.
func TestSections(t *testing.T) {
	for _, c := range []struct {
		s    Section
		want string
	}{
		{Heading("a<b"), "<h2>a&lt;b</h2>\n"},
		{Text("one\n\n two "), "<p>one</p>\n<p>two</p>\n"},
		{Block("\n a\x00"), "<pre dir=\"auto\" tabindex=\"0\">\n\n a␀</pre>\n"},
		{Details{Summary: "s", Tags: []string{"wrong", "a b"}}, "<details class=\"item t-wrong t-a_20b\"><summary>s</summary>\n</details>\n"},
		{Details{Summary: "s", Open: true, Sections: []Section{Text("x")}}, "<details open=\"\"><summary>s</summary>\n<p>x</p>\n</details>\n"},
		{Links{{"x", "a b/c.html"}}, "<ul><li><a href=\"./a%20b/c.html\">x</a></li></ul>\n"},
		{Table{Head: []string{"a", "n"}, Rows: [][]string{{"x", "1,000"}, {"y"}}},
			"<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">a</th><th scope=\"col\" class=\"r\">n</th></tr></thead><tbody>\n" +
				"<tr><td class=\"n\">x</td><td class=\"r\">1,000</td></tr>\n<tr><td class=\"n\">y</td><td class=\"r\"></td></tr>\n</tbody></table></div>\n"},
		{Table{Caption: "c"}, "<div class=\"scroll\" tabindex=\"0\"><table><caption>c</caption><tbody>\n<tr><td colspan=\"1\">none</td></tr></tbody></table></div>\n"},
	} {
		page := write(t, Page{Title: "t", Sections: []Section{c.s}})
		_, body, _ := strings.Cut(page, "<h1>t</h1>\n")
		if diff := cmp.Diff(c.want+"</main></body></html>\n", body); diff != "" {
			t.Errorf("%T:\n%s", c.s, diff)
		}
	}
	page := write(t, Page{Sections: []Section{Filters{Tags: []string{"wrong"}}}})
	for _, want := range []string{`<input type="radio" name="filter" id="ft-wrong"/> wrong`, "body:has(#ft-wrong:checked) .item:not(.t-wrong){display:none}"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in a page with filters", want)
		}
	}
}

// Example draws a line on a terminal.
func ExampleLines_Text() {
	fmt.Print(Lines{Title: "squares", Series: []Series{{Name: "x²", X: []float64{0, 1, 2, 3, 4}, Y: []float64{0, 1, 4, 9, 16}}}}.Text(30, 6))
	// Output:
	// squares
	// 20 |
	// 15 |                        .a
	//    |                    ....
	// 10 |                ...a
	//  5 |         ... a..
	//  0 |a.....a..
	//    +--------------------------
	//     0     1      2     3     4
	//   a  x²
}
