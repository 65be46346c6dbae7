package sample

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// reference computes the probabilities that Next draws from, in float64 and by
// sorting everything, from the definitions.
func reference(p Params, prompt, output []int32, logits []float32) []float64 {
	n := len(logits)
	if p.Vocabulary > 0 {
		n = p.Vocabulary
	}
	x := make([]float64, n)
	for i := range x {
		x[i] = float64(logits[i]) + p.LogitBias[int32(i)]
		used, times := false, 0
		for _, id := range prompt {
			used = used || int(id) == i
		}
		for _, id := range output {
			if int(id) == i {
				used = true
				times++
			}
		}
		if used && p.RepetitionPenalty != 1 {
			if x[i] > 0 {
				x[i] /= p.RepetitionPenalty
			} else {
				x[i] *= p.RepetitionPenalty
			}
		}
		x[i] -= p.FrequencyPenalty * float64(times)
		if times > 0 {
			x[i] -= p.PresencePenalty
		}
		if len(output) < p.MinTokens && slices.Contains(p.StopIDs, int32(i)) {
			x[i] = math.Inf(-1)
		}
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return x[order[a]] > x[order[b]] })
	probs := make([]float64, n)
	if p.Temperature < 1e-6 {
		probs[order[0]] = 1
		return probs
	}
	for i := range probs {
		probs[i] = math.Exp((x[i] - x[order[0]]) / p.Temperature)
	}
	sum := func(ids []int) (s float64) {
		for _, i := range ids {
			s += probs[i]
		}
		return s
	}
	kept := order
	if p.TopK > 0 && p.TopK < n {
		kept = kept[:p.TopK]
	}
	if p.TopP < 1 {
		total, mass := sum(kept), 0.0
		for j, i := range kept {
			if mass += probs[i]; mass >= p.TopP*total {
				kept = kept[:j+1]
				break
			}
		}
	}
	for j, i := range kept {
		if probs[i] < p.MinP {
			kept = kept[:j]
			break
		}
	}
	total := sum(kept)
	out := make([]float64, n)
	for _, i := range kept {
		out[i] = probs[i] / total
	}
	return out
}

// draws counts what Next chooses at n positions.
func draws(t *testing.T, p Params, prompt, output []int32, logits []float32, n int) []int {
	t.Helper()
	counts := make([]int, len(logits))
	for i := range n {
		q := p
		q.Seed = p.Seed + uint64(i)
		s := New(q, prompt)
		for _, id := range output {
			s.Accept(id)
		}
		r, err := s.Next(logits)
		if err != nil {
			t.Fatal(err)
		}
		counts[r.ID]++
	}
	return counts
}

// chiSquare returns Pearson's statistic as a normal deviate (Wilson and Hilferty
// 1931), classes with few expected draws taken together. Above 4.5 has a chance
// below 1e-5.
func chiSquare(counts []int, probs []float64, n int) float64 {
	statistic, classes := 0.0, 0
	restWant, restGot := 0.0, 0.0
	add := func(got, want float64) {
		statistic += (got - want) * (got - want) / want
		classes++
	}
	for i, p := range probs {
		want := p * float64(n)
		if want < 10 {
			restWant += want
			restGot += float64(counts[i])
			continue
		}
		add(float64(counts[i]), want)
	}
	if restWant >= 10 {
		add(restGot, restWant)
	}
	k := float64(max(classes-1, 1))
	return (math.Cbrt(statistic/k) - (1 - 2/(9*k))) / math.Sqrt(2/(9*k))
}

func randomLogits(rng *rand.Rand, n int, spread float64) []float32 {
	logits := make([]float32, n)
	for i := range logits {
		logits[i] = float32(rng.NormFloat64() * spread)
	}
	return logits
}

func TestDistribution(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	prompt, output := []int32{1, 2, 2, 3, 500}, []int32{3, 4, 4, 4}
	for name, edit := range map[string]func(*Params){
		"plain":       func(*Params) {},
		"temperature": func(p *Params) { p.Temperature = 0.5 },
		"hot":         func(p *Params) { p.Temperature = 2 },
		"top-k":       func(p *Params) { p.TopK = 7 },
		"top-p":       func(p *Params) { p.TopP = 0.8 },
		"min-p":       func(p *Params) { p.MinP = 0.2 },
		"all three":   func(p *Params) { p.TopK, p.TopP, p.MinP = 20, 0.9, 0.05 },
		"bias":        func(p *Params) { p.LogitBias = map[int32]float64{0: 3, 7: -100, 8: 1.5} },
		"presence":    func(p *Params) { p.PresencePenalty = 1.5 },
		"frequency":   func(p *Params) { p.FrequencyPenalty = -0.7 },
		"repetition":  func(p *Params) { p.RepetitionPenalty = 1.8 },
		"everything": func(p *Params) {
			p.Temperature, p.TopK, p.TopP, p.MinP = 1.3, 40, 0.97, 0.01
			p.PresencePenalty, p.FrequencyPenalty, p.RepetitionPenalty = 0.5, 0.3, 1.2
			p.LogitBias = map[int32]float64{3: 2, 4: 4}
			p.MinTokens, p.StopIDs, p.Vocabulary = 5, []int32{9, 10}, 90
		},
	} {
		t.Run(name, func(t *testing.T) {
			logits := randomLogits(rng, 100, 2)
			p := Defaults()
			edit(&p)
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			const n = 10000
			probs := append(reference(p, prompt, output, logits), make([]float64, 10)...)[:100]
			counts := draws(t, p, prompt, output, logits, n)
			for i := range counts {
				if counts[i] > 0 && probs[i] == 0 {
					t.Errorf("token %d was drawn %d times but is not possible", i, counts[i])
				}
			}
			if z := chiSquare(counts, probs, n); z > 4.5 {
				t.Errorf("the counts are %.1f standard deviations off", z)
			}
		})
	}
}

// The positions of one sequence must be as independent as seeds are.
func TestPositionsAreIndependent(t *testing.T) {
	logits := []float32{0, 0, 0, 0}
	const n = 40000
	for _, seed := range []uint64{0, 1, math.MaxUint64, 0x9e3779b97f4a7c15} {
		p := Defaults()
		p.Seed = seed
		s := New(p, nil)
		pairs, previous := make([]int, 16), int32(0)
		for range n {
			r, err := s.Next(logits)
			if err != nil {
				t.Fatal(err)
			}
			pairs[4*previous+r.ID]++
			previous = r.ID
			s.Accept(r.ID)
		}
		probs := slices.Repeat([]float64{1.0 / 16}, 16)
		if z := chiSquare(pairs, probs, n); z > 4.5 {
			t.Errorf("seed %d: pairs of tokens are %.1f standard deviations off", seed, z)
		}
	}
	// Neighbouring seeds, same position.
	pairs := make([]int, 16)
	for i := range uint64(n) {
		a, b := int(4*uniform(i, 3)), int(4*uniform(i+1, 3))
		pairs[4*a+b]++
	}
	if z := chiSquare(pairs, slices.Repeat([]float64{1.0 / 16}, 16), n); z > 4.5 {
		t.Errorf("neighbouring seeds are %.1f standard deviations off", z)
	}
}

// exact finds the token at part u of the reference distribution, and how far u
// is from the nearest border between tokens.
func exact(probs []float64, u float64) (id int32, margin float64) {
	sum, margin := 0.0, 1.0
	id = -1
	for i, p := range probs {
		if p == 0 {
			continue
		}
		if id < 0 || sum <= u {
			id = int32(i)
		}
		if sum > 0 {
			margin = min(margin, math.Abs(sum-u))
		}
		sum += p
	}
	return id, margin
}

// Every single draw must be the one that the reference distribution gives for
// the same random number, unless that is too close to call or an edge of the
// truncation is.
func TestMatchesReference(t *testing.T) {
	skipped, checked := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "logits"), 1))
		n := rapid.SampledFrom([]int{1, 2, 10, 1024, 1025, 5000}).Draw(t, "n")
		logits := randomLogits(rng, n, rapid.SampledFrom([]float64{0, 0.1, 3, 50, 1e4}).Draw(t, "spread"))
		if rapid.Bool().Draw(t, "ties") {
			for i := range logits {
				logits[i] = float32(math.Round(float64(logits[i])))
			}
		}
		for range rng.IntN(n) {
			logits[rng.IntN(n)] = float32(math.Inf(-1))
		}
		logits[rng.IntN(n)] = float32(rng.NormFloat64())
		tokens := func(most int) []int32 {
			ids := make([]int32, rng.IntN(most))
			for i := range ids {
				ids[i] = int32(rng.IntN(n + 2)) // some beyond the row
			}
			return ids
		}
		p := Params{
			Temperature:       rapid.SampledFrom([]float64{0, 1e-7, 1e-5, 0.1, 0.6, 1, 2}).Draw(t, "temperature"),
			TopP:              rapid.SampledFrom([]float64{1, 0.95, 0.5, 1e-9, 0.999999}).Draw(t, "top_p"),
			TopK:              rapid.SampledFrom([]int{-1, 0, 1, 2, 50, 1000, 10000}).Draw(t, "top_k"),
			MinP:              rapid.SampledFrom([]float64{0, 0.05, 0.5, 1}).Draw(t, "min_p"),
			RepetitionPenalty: rapid.SampledFrom([]float64{1, 1, 0.5, 1.3}).Draw(t, "repetition"),
			PresencePenalty:   rapid.SampledFrom([]float64{0, 0, 0.7, -2}).Draw(t, "presence"),
			FrequencyPenalty:  rapid.SampledFrom([]float64{0, 0, 0.3, -1}).Draw(t, "frequency"),
			Seed:              rapid.Uint64().Draw(t, "seed"),
			Logprobs:          -1,
		}
		prompt, output := tokens(10), tokens(10)
		s := New(p, prompt)
		for _, id := range output {
			s.Accept(id)
		}
		before := slices.Clone(logits)
		got, err := s.Next(logits)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(before, logits) {
			t.Fatal("Next left the logits changed")
		}
		// A float32 logit of 1e4 at temperature 1e-5 has no exact exponential;
		// what matters at such sizes is the order, which greedy has too.
		probs := reference(p, prompt, output, logits)
		want, margin := exact(probs, uniform(p.Seed, uint64(len(output))))
		if margin < 1e-3 || math.Abs(probs[want]-probs[got.ID]) < 1e-3 && want != got.ID && truncates(p) {
			skipped++
			return
		}
		checked++
		if got.ID != want {
			t.Fatalf("drew %d with probability %g, the reference draws %d with %g", got.ID, probs[got.ID], want, probs[want])
		}
	})
	least := 50
	if testing.Short() {
		least = 10
	}
	if checked < least || checked < skipped {
		t.Errorf("%d draws checked, %d skipped", checked, skipped)
	}
}

func truncates(p Params) bool { return p.TopP < 1 || p.MinP > 0 }

func TestTruncation(t *testing.T) {
	// Probabilities 0.4, 0.3, 0.2, 0.1 in mixed order; two equal ones at the end.
	logits := make([]float32, 4)
	for i, p := range []float64{0.2, 0.4, 0.1, 0.3} {
		logits[i] = float32(math.Log(p))
	}
	possible := func(logits []float32, edit func(*Params)) (ids []int32) {
		p := Defaults()
		edit(&p)
		seen := map[int32]bool{}
		for seed := range uint64(400) {
			p.Seed = seed
			r, err := New(p, nil).Next(logits)
			if err != nil {
				t.Fatal(err)
			}
			seen[r.ID] = true
		}
		for id := range seen {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return ids
	}
	for _, c := range []struct {
		name string
		edit func(*Params)
		want []int32
	}{
		{"all", func(*Params) {}, []int32{0, 1, 2, 3}},
		{"top-k 2", func(p *Params) { p.TopK = 2 }, []int32{1, 3}},
		{"top-k 4", func(p *Params) { p.TopK = 4 }, []int32{0, 1, 2, 3}},
		{"top-p takes the token that crosses", func(p *Params) { p.TopP = 0.41 }, []int32{1, 3}},
		{"top-p 0.39", func(p *Params) { p.TopP = 0.39 }, []int32{1}},
		{"top-p 0.95", func(p *Params) { p.TopP = 0.95 }, []int32{0, 1, 2, 3}},
		{"top-p after top-k is of what top-k kept", func(p *Params) { p.TopK, p.TopP = 2, 0.56 }, []int32{1}},
		{"min-p 0.7", func(p *Params) { p.MinP = 0.7 }, []int32{1, 3}},
		{"min-p 1", func(p *Params) { p.MinP = 1 }, []int32{1}},
		{"min-p is after the temperature", func(p *Params) { p.Temperature, p.MinP = 0.5, 0.6 }, []int32{1}},
	} {
		if got := possible(logits, c.edit); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	ties := []float32{1, 2, 2, 2, 1}
	for k, want := range map[int][]int32{1: {1}, 2: {1, 2}, 3: {1, 2, 3}, 4: {0, 1, 2, 3}} {
		if got := possible(ties, func(p *Params) { p.TopK = k }); !slices.Equal(got, want) {
			t.Errorf("ties, top-k %d: %v, want %v", k, got, want)
		}
	}
	if got := possible(ties, func(p *Params) { p.MinP = 1 }); !slices.Equal(got, []int32{1, 2, 3}) {
		t.Errorf("ties, min-p 1: %v", got)
	}
	if got := possible(ties, func(p *Params) { p.Temperature = 0 }); !slices.Equal(got, []int32{1}) {
		t.Errorf("ties, greedy: %v", got)
	}
}

func TestMinTokens(t *testing.T) {
	p := Defaults()
	p.Temperature, p.MinTokens, p.StopIDs, p.Logprobs = 0, 2, []int32{1}, 1
	s := New(p, nil)
	logits := []float32{0, 5, 1}
	for i, want := range []int32{2, 2, 1} {
		r, err := s.Next(logits)
		if err != nil || r.ID != want {
			t.Errorf("token %d is %d, %v; want %d", i, r.ID, err, want)
		}
		// Log probabilities do not know of it.
		if r.Top[0].ID != 1 || (want == 2) != (len(r.Top) == 2) {
			t.Errorf("token %d: most likely %v", i, r.Top)
		}
		s.Accept(r.ID)
	}
}

func TestVocabulary(t *testing.T) {
	p := Defaults()
	p.Vocabulary, p.Logprobs = 2, 5
	logits := []float32{0, 0, 9, float32(math.NaN())}
	r, err := New(p, nil).Next(logits)
	if err != nil || r.ID > 1 || len(r.Top) != 2 || r.Logprob != float32(math.Log(0.5)) {
		t.Errorf("%+v, %v", r, err)
	}
	p.Vocabulary = 5
	if _, err := New(p, nil).Next(logits); err == nil || !strings.Contains(err.Error(), "4 logits for a vocabulary of 5") {
		t.Error(err)
	}
}

func TestBadLogits(t *testing.T) {
	inf := float32(math.Inf(1))
	nan := float32(math.NaN())
	for _, c := range []struct {
		logits []float32
		want   string
	}{
		{[]float32{1, nan, 2}, "logit 1 is NaN"},
		{[]float32{nan, nan}, "logit 0 is NaN"},
		{[]float32{-inf, nan}, "logit 1 is NaN"},
		{[]float32{-inf, -inf}, "every logit is -Inf"},
		{nil, "every logit is -Inf"},
		{[]float32{0, inf}, "logit 1 is +Inf"},
	} {
		for _, temperature := range []float64{0, 1} {
			p := Defaults()
			p.Temperature = temperature
			if _, err := New(p, nil).Next(c.logits); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: %v, want %q", c.logits, err, c.want)
			}
			if _, _, err := Logprobs(c.logits, 0, 1); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Logprobs of %v: %v, want %q", c.logits, err, c.want)
			}
		}
	}
	p := Defaults()
	p.MinTokens, p.StopIDs = 1, []int32{1}
	logits := []float32{-inf, 0}
	if _, err := New(p, nil).Next(logits); err == nil || !strings.Contains(err.Error(), "min_tokens") {
		t.Error(err)
	}
	if logits[1] != 0 {
		t.Error("a failed Next left the logits changed")
	}
}

// A sampler made anew and told the tokens so far goes on like the old one, and
// what happens to other sequences does not matter.
func TestResume(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	p := Defaults()
	p.Seed, p.FrequencyPenalty, p.TopP = 42, 0.5, 0.9
	prompt := []int32{1, 2, 3}
	s := New(p, prompt)
	var output []int32
	for range 200 {
		logits := randomLogits(rng, 50, 1)
		r, err := s.Next(logits)
		if err != nil {
			t.Fatal(err)
		}
		resumed := New(p, prompt)
		for _, id := range output {
			resumed.Accept(id)
		}
		again, err := resumed.Next(logits)
		if err != nil || again.ID != r.ID {
			t.Fatalf("token %d is %d, resumed %d, %v", len(output), r.ID, again.ID, err)
		}
		s.Accept(r.ID)
		output = append(output, r.ID)
	}
	p.Seed++
	other := New(p, prompt)
	same := 0
	for i := range 200 {
		r, err := other.Next(make([]float32, 50))
		if err != nil {
			t.Fatal(err)
		}
		if r.ID == output[i] {
			same++
		}
		other.Accept(r.ID)
	}
	if same > 30 {
		t.Errorf("another seed gives %d of 200 tokens alike", same)
	}
}

func TestLogprobs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "logits"), 2))
		n := rapid.IntRange(1, 300).Draw(t, "n")
		logits := randomLogits(rng, n, 5)
		for i := range logits {
			if rng.IntN(4) == 0 {
				logits[i] = float32(math.Round(float64(logits[i]))) // ties
			}
			if rng.IntN(10) == 0 && i > 0 {
				logits[i] = float32(math.Inf(-1))
			}
		}
		p := Defaults()
		p.Seed, p.Logprobs = rng.Uint64(), rapid.IntRange(0, 20).Draw(t, "top")
		p.Temperature, p.LogitBias = 1.7, map[int32]float64{0: 3}
		r, err := New(p, nil).Next(logits)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		order := []int32{}
		for i, x := range logits {
			sum += math.Exp(float64(x))
			if !math.IsInf(float64(x), -1) {
				order = append(order, int32(i))
			}
		}
		sort.SliceStable(order, func(a, b int) bool { return logits[order[a]] > logits[order[b]] })
		order = order[:min(len(order), p.Logprobs)]
		if !slices.Contains(order, r.ID) {
			order = append(order, r.ID)
		}
		var ids []int32
		for _, e := range r.Top {
			ids = append(ids, e.ID)
			want := float64(logits[e.ID]) - math.Log(sum)
			if math.Abs(float64(e.Logprob)-want) > 1e-6*(1+math.Abs(want)) {
				t.Fatalf("token %d has log probability %v, want %v", e.ID, e.Logprob, want)
			}
			if e.ID == r.ID && e.Logprob != r.Logprob {
				t.Fatalf("the chosen token has log probability %v here and %v there", e.Logprob, r.Logprob)
			}
		}
		if diff := cmp.Diff(order, ids); diff != "" {
			t.Fatalf("most likely (-want +got):\n%s", diff)
		}
		one, top, err := Logprobs(logits, r.ID, p.Logprobs)
		if err != nil || one != r.Logprob || !slices.Equal(top, r.Top) {
			t.Fatalf("Logprobs: %v %v %v, Next: %v %v", one, top, err, r.Logprob, r.Top)
		}
	})
}

func TestExp32(t *testing.T) {
	for x := float32(0); x > -90; x -= 0.00317 {
		want := math.Exp(float64(x))
		got := float64(exp32(x))
		if x < -87 {
			want = 0
		}
		if math.Abs(got-want) > 2e-7*want {
			t.Fatalf("exp32(%v) = %v, want %v", x, got, want)
		}
	}
	if exp32(0) != 1 || exp32(float32(math.Inf(-1))) != 0 || exp32(-87) == 0 {
		t.Error("exp32 at its ends")
	}
}

func TestNoAllocation(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	logits := randomLogits(rng, 5000, 3)
	for name, edit := range map[string]func(*Params){
		"greedy":    func(p *Params) { p.Temperature = 0 },
		"plain":     func(*Params) {},
		"truncated": func(p *Params) { p.TopK, p.TopP, p.MinP = 100, 0.95, 0.01 },
		"penalties": func(p *Params) {
			p.RepetitionPenalty, p.LogitBias, p.MinTokens, p.StopIDs = 1.1, map[int32]float64{1: 1}, 1000, []int32{2}
		},
	} {
		p := Defaults()
		edit(&p)
		s := New(p, []int32{1, 2, 3})
		step := func() {
			if _, err := s.Next(logits); err != nil {
				t.Fatal(err)
			}
			s.Accept(3)
		}
		step()
		if n := testing.AllocsPerRun(50, step); n != 0 {
			t.Errorf("%s: %v allocations a token", name, n)
		}
	}
}

func TestValidate(t *testing.T) {
	p := Defaults()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	nan := math.NaN()
	for _, c := range []struct {
		edit func(*Params)
		want string // "" if valid
	}{
		{func(p *Params) { p.Temperature = 0 }, ""},
		{func(p *Params) { p.Temperature = 2 }, ""},
		{func(p *Params) { p.Temperature = 2.1 }, "temperature is 2.1, want 0 to 2"},
		{func(p *Params) { p.Temperature = -0.1 }, "temperature is -0.1"},
		{func(p *Params) { p.Temperature = nan }, "temperature is NaN"},
		{func(p *Params) { p.TopP = 0 }, "top_p is 0, want more than 0, at most 1"},
		{func(p *Params) { p.TopP = 1.01 }, "top_p is 1.01"},
		{func(p *Params) { p.TopK = -1 }, ""},
		{func(p *Params) { p.TopK = -2 }, "top_k is -2, want at least 1, or -1 or 0 for all tokens"},
		{func(p *Params) { p.MinP = 1 }, ""},
		{func(p *Params) { p.MinP = -1 }, "min_p is -1, want 0 to 1"},
		{func(p *Params) { p.PresencePenalty = -2 }, ""},
		{func(p *Params) { p.PresencePenalty = 3 }, "presence_penalty is 3, want -2 to 2"},
		{func(p *Params) { p.FrequencyPenalty = -2.5 }, "frequency_penalty is -2.5"},
		{func(p *Params) { p.RepetitionPenalty = 0 }, "repetition_penalty is 0, want more than 0, at most 2"},
		{func(p *Params) { p.RepetitionPenalty = 2.5 }, "repetition_penalty is 2.5"},
		{func(p *Params) { p.Logprobs = 21 }, "top_logprobs is 21, want 0 to 20"},
		{func(p *Params) { p.Logprobs = -2 }, "top_logprobs is -2"},
		{func(p *Params) { p.MinTokens = -1 }, "min_tokens is -1"},
		{func(p *Params) { p.Vocabulary = -1 }, "vocabulary is -1"},
		{func(p *Params) { p.LogitBias = map[int32]float64{5: 100} }, ""},
		{func(p *Params) { p.LogitBias = map[int32]float64{5: 101} }, "logit_bias is 101 for token 5, want -100 to 100"},
		{func(p *Params) { p.LogitBias = map[int32]float64{5: nan} }, "logit_bias is NaN for token 5"},
		{func(p *Params) { p.LogitBias = map[int32]float64{-1: 1} }, "logit_bias is for token -1, want a token id"},
		{func(p *Params) { p.Vocabulary, p.LogitBias = 5, map[int32]float64{5: 1} }, "logit_bias is for token 5, want a token id from 0 to 4"},
		{func(p *Params) {
			p.LogitBias = map[int32]float64{}
			for i := range int32(1025) {
				p.LogitBias[i] = 1
			}
		}, "logit_bias is 1025 tokens, want at most 1024"},
		{func(p *Params) { p.StopIDs = []int32{1, -7} }, "stop_token_ids is -7"},
		{func(p *Params) { p.Vocabulary, p.StopIDs = 5, []int32{7} }, "stop_token_ids is 7, want a token id from 0 to 4"},
	} {
		p := Defaults()
		c.edit(&p)
		err := p.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// BenchmarkNext runs on a vocabulary of DeepSeek-V3's size; greedy is the
// baseline that only reads the logits.
func BenchmarkNext(b *testing.B) {
	logits := randomLogits(rand.New(rand.NewPCG(1, 1)), 129280, 3)
	for _, c := range []struct {
		temperature, topP float64
		topK, logprobs    int
	}{{0, 1, 0, -1}, {1, 1, 0, -1}, {1, 0.95, 0, -1}, {0.6, 0.95, 50, -1}, {1, 1, 0, 20}} {
		b.Run(fmt.Sprintf("t=%v,p=%v,k=%d,logprobs=%d", c.temperature, c.topP, c.topK, c.logprobs), func(b *testing.B) {
			p := Defaults()
			p.Temperature, p.TopP, p.TopK, p.Logprobs = c.temperature, c.topP, c.topK, c.logprobs
			s := New(p, nil)
			for b.Loop() {
				r, err := s.Next(logits)
				if err != nil {
					b.Fatal(err)
				}
				s.Accept(r.ID)
			}
		})
	}
}
