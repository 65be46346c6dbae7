package sample

import (
	"errors"
	"fmt"
	"math"
)

// Sampler chooses the tokens of one sequence. It is used by one goroutine at a
// time, and does not allocate while it runs unless it reports log
// probabilities.
type Sampler struct {
	params  Params
	biases  []bias
	accepts int // tokens accepted, the position in the output

	// tokens seen so far, if a penalty asks for them: those of the prompt and
	// of the output for repetition, those of the output alone otherwise
	counts  bool
	seen    []seen
	indexOf map[int32]int // into seen

	undo []edit // of the current row

	blocks []float64 // see draw
	ids    []int32   // see massCut
}

type bias struct {
	id    int32
	value float64
}

type seen struct {
	id    int32
	count int // in the output
}

type edit struct {
	id  int32
	old float32
}

// Result is a chosen token.
type Result struct {
	ID int32
	// Logprob is the token's log probability under the raw logits, if
	// Params.Logprobs is not -1, else 0.
	Logprob float32
	// Top holds the Params.Logprobs most likely tokens, most likely first, and
	// behind them the chosen one if it is not among them.
	Top []TokenLogprob
}

// TokenLogprob is a token with its log probability.
type TokenLogprob struct {
	ID      int32
	Logprob float32
}

// New returns a sampler for the output that follows prompt, given valid
// parameters. To resume a sequence, call Accept for the tokens it has.
func New(p Params, prompt []int32) *Sampler {
	s := &Sampler{params: p}
	for id, value := range p.LogitBias {
		s.biases = append(s.biases, bias{id, value})
	}
	repetition := p.RepetitionPenalty != 1
	s.counts = repetition || p.PresencePenalty != 0 || p.FrequencyPenalty != 0
	if s.counts {
		s.indexOf = make(map[int32]int)
	}
	if repetition {
		for _, id := range prompt {
			s.see(id)
		}
	}
	return s
}

// see returns the place of a token in s.seen.
func (s *Sampler) see(id int32) int {
	i, ok := s.indexOf[id]
	if !ok {
		i = len(s.seen)
		s.indexOf[id] = i
		s.seen = append(s.seen, seen{id: id})
	}
	return i
}

// Accept appends a token to the output, usually the one that Next chose.
func (s *Sampler) Accept(id int32) {
	s.accepts++
	if s.counts {
		s.seen[s.see(id)].count++
	}
}

// Next chooses the token that follows those accepted, from its logits
// [vocabulary]. It leaves logits as they were but edits them while it runs, so
// that two samplers must not use the same row at once. It is an error if a logit
// is NaN or +Inf, or if none is finite.
func (s *Sampler) Next(logits []float32) (Result, error) {
	if v := s.params.Vocabulary; v > 0 {
		if v > len(logits) {
			return Result{}, fmt.Errorf("%d logits for a vocabulary of %d tokens", len(logits), v)
		}
		logits = logits[:v]
	}
	best, err := argmax(logits)
	if err != nil {
		return Result{}, err
	}
	var raw logSoftmax
	if s.params.Logprobs >= 0 {
		raw = newLogSoftmax(logits, best)
	}
	if s.edit(logits) {
		best, err = argmax(logits)
	}
	r := Result{ID: best}
	if err == nil && !s.params.Greedy() {
		u := uniform(s.params.Seed, uint64(s.accepts))
		r.ID = s.sample(logits, best, u)
	}
	s.restore(logits)
	if err != nil {
		return Result{}, fmt.Errorf("after bias, penalties and min_tokens: %w", err)
	}
	if s.params.Logprobs >= 0 {
		r.Logprob = raw.of(logits[r.ID])
		r.Top = raw.top(logits, s.params.Logprobs, r.ID)
	}
	return r, nil
}

// Uniform returns the random number in [0, 1) that Next will draw with, and
// whether the parameters Temperature, TopK, TopP, MinP and Vocabulary alone say
// the rest: no logits are edited and no log probabilities wanted. Then something
// else may choose the token, to be told with Accept.
func (s *Sampler) Uniform() (u float64, plain bool) {
	p := &s.params
	plain = len(s.biases) == 0 && !s.counts && p.Logprobs < 0 && (s.accepts >= p.MinTokens || len(p.StopIDs) == 0)
	return uniform(p.Seed, uint64(s.accepts)), plain
}

// argmax returns the largest logit's id, the lowest of equal ones.
func argmax(logits []float32) (int32, error) {
	best, most := -1, float32(math.Inf(-1))
	for i, x := range logits {
		if x > most {
			best, most = i, x
		} else if x != x {
			return 0, fmt.Errorf("logit %d is NaN", i)
		}
	}
	if best < 0 {
		return 0, errors.New("every logit is -Inf: no token is possible")
	}
	if most > math.MaxFloat32 {
		return 0, fmt.Errorf("logit %d is +Inf", best)
	}
	return int32(best), nil
}

// edit applies bias, penalties and the minimum length to logits and tells
// whether it changed any.
func (s *Sampler) edit(logits []float32) bool {
	p := &s.params
	for _, b := range s.biases {
		s.set(logits, b.id, func(x float64) float64 { return x + b.value })
	}
	for i := range s.seen {
		t := &s.seen[i]
		s.set(logits, t.id, func(x float64) float64 {
			if x > 0 {
				x /= p.RepetitionPenalty
			} else {
				x *= p.RepetitionPenalty
			}
			if t.count > 0 {
				x -= p.FrequencyPenalty*float64(t.count) + p.PresencePenalty
			}
			return x
		})
	}
	if s.accepts < p.MinTokens {
		for _, id := range p.StopIDs {
			s.set(logits, id, func(float64) float64 { return math.Inf(-1) })
		}
	}
	return len(s.undo) > 0
}

// set changes one logit and remembers what it was. Ids beyond the row are
// ignored: prompts may hold such.
func (s *Sampler) set(logits []float32, id int32, f func(float64) float64) {
	if uint(id) < uint(len(logits)) {
		s.undo = append(s.undo, edit{id, logits[id]})
		logits[id] = float32(f(float64(logits[id])))
	}
}

// restore takes back all edits, the last one first, as a token may have several.
func (s *Sampler) restore(logits []float32) {
	for i := len(s.undo) - 1; i >= 0; i-- {
		logits[s.undo[i].id] = s.undo[i].old
	}
	s.undo = s.undo[:0]
}

// uniform returns the random number in [0, 1) for a position of the output, 53
// bits. It is a counter through the finalizer of SplitMix64 (Steele, Lea and
// Flood, "Fast splittable pseudorandom number generators", 2014), applied to the
// seed first so that neighbouring seeds are far apart.
func uniform(seed, position uint64) float64 {
	const gamma = 0x9e3779b97f4a7c15 // 2^64 over the golden ratio
	return float64(mix(mix(seed+gamma)+(position+1)*gamma)>>11) * 0x1p-53
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
