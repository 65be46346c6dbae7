package pathway

import (
	"math"
	"testing"
)

// The arithmetic of DeepSeek-V3.2, as counted by hand, against
// what the planner makes of the FLOP-based estimate.

// flopsOnly returns a config without overheads and without memory traffic, so
// that only FLOPs count.
func flopsOnly(g Geometry) Config {
	c := config(g)
	c.Calibration = Estimate(g, 800e12, math.Inf(1))
	return noOverhead(c)
}

func TestFlopsPerPair(t *testing.T) {
	u := Estimate(v32(), 1e6, math.Inf(1)).Units // one operation a microsecond
	for part, want := range map[Part]float64{
		PairMHA: 128 * 640, PairMHAMasked: 128 * 640, PairMLA: 128 * 2176, PairMLASparse: 128 * 2176,
		ExpandKey: 128 * 262144, AbsorbRow: 128 * 262144, ScorePair: 2 * 64 * 128,
	} {
		if u[part] != want {
			t.Errorf("%v takes %v operations, want %v", part, u[part], want)
		}
	}
}

// breakEven returns the number of new tokens from which MHA beats MLA behind a
// cached prefix.
func breakEven(t *testing.T, c Config, prefix int) int {
	p := planner(t, c)
	for n := 1; ; n++ {
		extents := []Extent{{Prefix: prefix, New: n}}
		mha := p.Cost(extents, []Segment{{To: n, Pathway: MHA}})
		if mla := p.Cost(extents, []Segment{{To: n, Pathway: MLA}}); mha < mla {
			return n
		}
	}
}

func TestBreakEvenOnCachedPrefix(t *testing.T) {
	for _, c := range []Config{flopsOnly(v32()), config(v32())} {
		for _, prefix := range []int{700, 1000, 1400, 1900} {
			if n := breakEven(t, c, prefix); n < 136 || n > 171 {
				t.Errorf("prefix %d: MHA wins from %d new tokens, want 136 to 171", prefix, n)
			}
		}
	}
	// The plan turns where the costs do: E·(1 + ctx·(2176−640)/262144) = ctx.
	p := planner(t, flopsOnly(v32()))
	var plan Plan
	for n := 1; n <= 1024; n++ {
		context := 1024 + n
		mean := float64(1024+1+context) / 2 // of the rows' contexts
		p.Plan([]Extent{{Prefix: 1024, New: n}}, &plan)
		mha := float64(n)*(262144+mean*(2176-640)) > 262144*float64(context)
		if got := plan.Segments[0].Pathway == MHA; got != mha || len(plan.Segments) != 1 {
			t.Errorf("%d new tokens behind 1024: %v", n, plan.Segments[0].Pathway)
		}
	}
}

func TestCrossingOfMaskedAndSparse(t *testing.T) {
	exact, ok := planner(t, flopsOnly(v32())).Crossing()
	if want := 3.4 * 2048; !ok || math.Abs(float64(exact)-want) > 1 {
		t.Errorf("masked MHA and sparse MLA meet at %d, want %.0f", exact, want)
	}
	if got, ok := planner(t, config(v32())).Crossing(); !ok || got < 6800 || got > 7100 {
		t.Errorf("with memory traffic they meet at %d, want about 7000", got)
	}
	// Without an indexer MHA is cheaper per row at any context.
	if got, ok := planner(t, flopsOnly(v3())).Crossing(); ok {
		t.Errorf("without an indexer they meet at %d", got)
	}
}

func TestFreshPrompt(t *testing.T) {
	p := planner(t, flopsOnly(v32()))
	cost := func(policy Policy, n int) float64 {
		var plan Plan
		if err := p.PlanPolicy(policy, []Extent{{New: n}}, &plan); err != nil {
			t.Fatal(err)
		}
		return plan.Predicted
	}
	if n := 12600; cost(PolicyMHA, n) > cost(PolicyMLA, n) {
		t.Errorf("a fresh prompt of %d tokens favours MLA", n)
	}
	if n := 13100; cost(PolicyMHA, n) < cost(PolicyMLA, n) {
		t.Errorf("a fresh prompt of %d tokens favours MHA", n)
	}
	// The plan beats both by turning from one to the other.
	if best := min(cost(PolicyMHA, 12800), cost(PolicyMLA, 12800)); cost(PolicyAdaptive, 12800) > 0.9*best {
		t.Errorf("adaptive takes %v, the better fixed policy %v", cost(PolicyAdaptive, 12800), best)
	}
}

// TestFewHeads: scoring is shared by all heads and small beside 128 of them,
// not beside 16.
func TestFewHeads(t *testing.T) {
	share := func(heads int) float64 {
		g := v32()
		g.Heads = heads
		u := Estimate(g, 800e12, math.Inf(1)).Units
		return u[ScorePair] / (u[ScorePair] + u[PairMHAMasked])
	}
	if many, few := share(128), share(16); many > 0.2 || few < 0.5 {
		t.Errorf("scoring is %.2f of masked MHA with 128 heads and %.2f with 16", many, few)
	}
}
