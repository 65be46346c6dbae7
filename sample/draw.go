package sample

import (
	"math"
	"slices"
)

// Truncation keeps a prefix of the tokens ordered by falling logit, then rising
// id. So a set of kept tokens is described by its last member, and combining
// top-k, top-p and min-p is taking the shortest prefix.

// cut is the last token of a prefix.
type cut struct {
	logit float32
	id    int32
}

// everything keeps all tokens.
func everything() cut { return cut{float32(math.Inf(-1)), math.MaxInt32} }

func (c cut) keeps(logit float32, id int32) bool {
	return logit > c.logit || logit == c.logit && id <= c.id
}

// shorter returns the shorter of two prefixes.
func (c cut) shorter(d cut) cut {
	if c.keeps(d.logit, d.id) {
		return d
	}
	return c
}

// sample draws a token from edited logits, of which best is the largest, with a
// random number u in [0, 1).
func (s *Sampler) sample(logits []float32, best int32, u float64) int32 {
	p := &s.params
	w := weights{top: logits[best], scale: float32(1 / p.Temperature)}
	kept := everything()
	if p.TopK > 0 && p.TopK < len(logits) {
		kept = s.countCut(logits, w.top, p.TopK)
	}
	if p.TopP < 1 {
		kept = kept.shorter(s.massCut(logits, w, kept, p.TopP))
	}
	if p.MinP > 0 {
		least := float64(w.top) + math.Log(p.MinP)*p.Temperature
		kept = kept.shorter(cut{float32(least), math.MaxInt32})
	}
	return s.draw(logits, w, kept, best, u)
}

// weights gives the probabilities of tokens but for a factor: 1 for the most
// likely one.
type weights struct {
	top   float32 // largest logit
	scale float32 // 1 / temperature
}

func (w weights) of(logit float32) float64 {
	return float64(exp32((logit - w.top) * w.scale))
}

// sum returns the weight of all logits together.
func (w weights) sum(logits []float32) float64 {
	sum := 0.0
	for _, x := range logits {
		sum += float64(exp32((x - w.top) * w.scale))
	}
	return sum
}

// sumKept returns the weight of the kept ones among logits, the first of which
// is that of token from.
func (w weights) sumKept(logits []float32, from int, kept cut) float64 {
	sum := 0.0
	for i, x := range logits {
		if kept.keeps(x, int32(from+i)) {
			sum += float64(exp32((x - w.top) * w.scale))
		}
	}
	return sum
}

// draw finds the token at the part u of the kept tokens' mass, tokens in order
// of their ids. Sums over blocks of the row spare a second pass over all of it.
func (s *Sampler) draw(logits []float32, w weights, kept cut, best int32, u float64) int32 {
	const block = 1024
	s.blocks = s.blocks[:0]
	total := 0.0
	for from := 0; from < len(logits); from += block {
		row := logits[from:min(from+block, len(logits))]
		var sum float64
		if kept == everything() {
			sum = w.sum(row)
		} else {
			sum = w.sumKept(row, from, kept)
		}
		s.blocks = append(s.blocks, sum)
		total += sum
	}
	target, before := u*total, 0.0
	last := best // a token to return should rounding leave target out of reach
	for b, sum := range s.blocks {
		if before+sum <= target {
			before += sum
			continue
		}
		from := b * block
		for i, x := range logits[from:min(from+block, len(logits))] {
			if !kept.keeps(x, int32(from+i)) {
				continue
			}
			if weight := w.of(x); weight > 0 {
				last = int32(from + i)
				if before += weight; before > target {
					return last
				}
			}
		}
	}
	return last
}

// Tokens are counted in buckets by their distance from the largest logit, so
// that only the bucket in which a prefix ends needs to be sorted. The last
// bucket takes all that is farther away.
const (
	buckets        = 1024
	bucketsPerUnit = 16 // of distance
)

func bucket(distance float32) int {
	if distance >= buckets/bucketsPerUnit {
		return buckets - 1
	}
	return int(distance * bucketsPerUnit)
}

// countCut returns the prefix of the k most likely tokens.
func (s *Sampler) countCut(logits []float32, top float32, k int) cut {
	var count [buckets]int32
	for _, x := range logits {
		count[bucket(top-x)]++
	}
	before, b := 0, 0
	for before+int(count[b]) < k {
		before += int(count[b])
		b++
	}
	s.collect(logits, everything(), top, 1, b)
	id := s.ids[k-before-1]
	return cut{logits[id], id}
}

// massCut returns the shortest prefix that holds the part p of the mass of the
// kept tokens.
func (s *Sampler) massCut(logits []float32, w weights, kept cut, p float64) cut {
	var mass [buckets]float64
	for i, x := range logits {
		if kept.keeps(x, int32(i)) {
			mass[bucket((w.top-x)*w.scale)] += w.of(x)
		}
	}
	total := 0.0
	for _, m := range mass {
		total += m
	}
	target, before, b := p*total, 0.0, 0
	for b < buckets-1 && before+mass[b] < target {
		before += mass[b]
		b++
	}
	s.collect(logits, kept, w.top, w.scale, b)
	last := kept
	for _, id := range s.ids {
		last = cut{logits[id], id}
		if before += w.of(logits[id]); before >= target {
			break
		}
	}
	return last
}

// collect leaves the kept tokens of bucket b in s.ids, in order.
func (s *Sampler) collect(logits []float32, kept cut, top, scale float32, b int) {
	s.ids = s.ids[:0]
	for i, x := range logits {
		if bucket((top-x)*scale) == b && kept.keeps(x, int32(i)) {
			s.ids = append(s.ids, int32(i))
		}
	}
	slices.SortFunc(s.ids, func(a, b int32) int {
		switch x, y := logits[a], logits[b]; {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return int(a) - int(b)
	})
}

// exp32 is e^x for x <= 0 with a relative error below 2e-7; 0 below -87, where
// float32 ends. x = (n/64 + r)·ln 2 with n an integer: 2^(n/64) comes from a
// table and two steps of exponent bits, the rest, below 0.0055, is a parabola.
// The explicit conversions forbid fused operations, so that every machine draws
// the same.
func exp32(x float32) float32 {
	const (
		steps = 64 / math.Ln2
		hi    = 0.010833740234375 // ln2/64 in 10 bits: n·hi is exact
		lo    = math.Ln2/64 - hi
	)
	if !(x >= -87) {
		return 0
	}
	n := int32(float32(x*steps) - 0.5) // the conversion rounds up: x is not positive
	r := x - float32(float32(n)*hi) - float32(float32(n)*lo)
	y := exp2Steps[n&63]
	y += float32(y * (r + float32(0.5*float32(r*r))))
	return y * math.Float32frombits(uint32(n>>6+127)<<23)
}

// exp2Steps holds 2^(i/64).
var exp2Steps = func() (t [64]float32) {
	for i := range t {
		t[i] = float32(math.Exp2(float64(i) / 64))
	}
	return t
}()
