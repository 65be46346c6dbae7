package report

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// hostile is text that must come out as text.
const hostile = `</pre></details><script>alert("x")</script><img src=x onerror='y'> & &amp; ]]> --> ` + "\x00\x1b[31m \u202eesrever \xff\ufffe"

// sample is a page with everything, some of it hard to show.
func sample() Page {
	r := rand.New(rand.NewPCG(1, 2))
	var context, mha, sparse, low, high []float64
	for x := 512.0; x <= 131072; x *= 2 {
		context = append(context, x)
		mha = append(mha, 0.4*x/100+3)
		sparse = append(sparse, 20+x/8000)
		low, high = append(low, 0.35*x/100+3), append(high, 0.5*x/100+3)
	}
	var fast, slow, clean []float64
	for range 300 {
		fast = append(fast, math.Exp(r.NormFloat64()*0.4+3))
		slow = append(slow, math.Exp(r.NormFloat64()*0.6+4))
	}
	for range 2000 {
		clean = append(clean, r.NormFloat64()*30+400)
	}
	var many Series
	many.Name = "tokens per second"
	for i := range 5000 {
		many.X = append(many.X, float64(i)/10)
		many.Y = append(many.Y, 900+200*math.Sin(float64(i)/300)+50*r.NormFloat64())
	}
	marks := []Mark{{2048, "index_topk 2,048"}, {4250, "measured crossing 4,250"}, {6963, "planner's L* 6,963"}}
	crossover := Lines{Title: "Attention time of a row by context, 128 heads, fp8_e4m3", XLabel: "context, tokens", YLabel: "µs per row", LogX: true, LogY: true,
		Series: []Series{{Name: "masked mha", X: context, Y: mha, Low: low, High: high}, {Name: "sparse mla", X: context, Y: sparse}}, Marks: marks}
	scatter := Scatter{Title: "Time to first token by prompt length", XLabel: "prompt, tokens", YLabel: "TTFT, ms"}
	for k, name := range []string{"mha", "mha-masked", "mla", "mla-sparse", "five", "six", "seven", "eight", "a ninth series of a rather long name that would not fit a narrow legend at all"} {
		s := Series{Name: name}
		for range 20 {
			x := r.Float64() * 16384
			s.X, s.Y = append(s.X, x), append(s.Y, 20+x/(40+10*float64(k))+10*r.Float64())
		}
		scatter.Series = append(scatter.Series, s)
	}
	depth := Heatmap{Title: "Needle: recall by context and depth", XLabel: "context, tokens", YLabel: "depth", Low: 0, High: 1}
	for i := range 10 {
		depth.Rows = append(depth.Rows, fmt.Sprintf("%d %%", 10*i))
		depth.Values = append(depth.Values, []float64{1, 1, 1, 0.95, 0.9 - float64(i)/20, math.NaN()})
	}
	depth.Cols = []string{"512", "2047", "2048", "2049", "16384", "131072"}
	fastest := Heatmap{Title: "Fastest pathway", XLabel: "cached prefix", YLabel: "new tokens", Rows: []string{"1", "16", "256", "4096"}, Cols: []string{"0", "2048", "16384", "131072"},
		Values: [][]float64{{2, 3, 3, 3}, {0, 3, 3, 3}, {0, 1, 3, 3}, {0, 1, 1, math.NaN()}}, Categories: []string{"mha", "mha-masked", "mla", "mla-sparse"},
		Outlines: [][]int{{2, 3, 3, 3}, {0, 1, 3, 3}, {0, 1, 3, 3}, {0, 1, 1, -1}}, OutlineNote: "colour and name: fastest measured; frame: the planner's choice, in the colour of its pathway"}
	wide := Table{Caption: "a wide table"}
	for i := range 18 {
		wide.Head = append(wide.Head, fmt.Sprintf("column %d", i))
	}
	for range 4 {
		var row []string
		for range 18 {
			row = append(row, Number(r.Float64()*1000))
		}
		wide.Rows = append(wide.Rows, row)
	}
	return Page{Title: "A sample report: 0.956 [0.944, 0.966]", Sections: []Section{
		Text("gsm8k, 1,319 items, 1 repeat.\n\nSecond paragraph, of hostile text: " + hostile),
		Table{Caption: "configuration", Head: []string{"what", "value", "n"}, Rows: [][]string{{"accuracy", "0.956", "1,319"}, {"invalid", "–", "0"}, {hostile, "1.5 %"}}},
		Heading("Charts"),
		Chart{crossover, "Whiskers are quartiles."}, Chart{scatter, ""},
		Chart{Lines{Title: "Throughput over time", XLabel: "seconds", YLabel: "output tokens per second", Series: []Series{many}}, ""},
		Chart{ECDF{Title: "Time per output token", XLabel: "ms", LogX: true, Samples: []Sample{{"latent", fast}, {"other", slow}}}, ""},
		Chart{Histogram{Title: "Tokens of an answer", XLabel: "tokens", Values: clean, Marks: []Mark{{400, "mean 400"}}}, ""},
		Chart{Bars{Title: "Accuracy by subject", XLabel: "accuracy", Labels: []string{"abstract algebra", "anatomy", "a subject with a rather long name, longer than there is room", "world religions"},
			Series: []BarSeries{{Name: "A", Values: []float64{0.31, 0.66, 0.5, math.NaN()}, Low: []float64{0.2, 0.5, 0.4, 0}, High: []float64{0.4, 0.8, 0.6, 0}},
				{Name: "B", Values: []float64{0.35, 0.61, 0.55, 0.8}}}}, ""},
		Chart{depth, ""}, Chart{fastest, ""},
		Chart{Lines{Title: "Nothing", XLabel: "x", YLabel: "y"}, ""},
		Chart{Lines{Title: hostile, XLabel: hostile, YLabel: hostile, Series: []Series{{Name: hostile, X: []float64{1, 2, math.NaN()}, Y: []float64{5, 5, 5}}}, Marks: []Mark{{1.5, hostile}}}, hostile},
		Heading("Tables"), wide,
		Heading("Items"), Filters{Tags: []string{"wrong", "invalid", "truncated"}},
		Details{Summary: "item 1: wrong", Open: true, Tags: []string{"wrong"}, Sections: []Section{Heading("Answer"), Block("line 1\n  line 2\n" + hostile), Chart{fastest, "inside"}}},
		Details{Summary: "item 2: invalid " + hostile, Tags: []string{"invalid", "truncated"}, Sections: []Section{Block(hostile)}},
		Details{Summary: "item 3: right", Tags: []string{"right"}, Sections: []Section{Text("right")}},
		Links{{"items 1,001 to 2,000", "items/part 2.html"}},
	}}
}
