package sample

import (
	"math"
	"slices"
)

// Logprobs returns the log probability of token id under logits [vocabulary],
// and the top most likely tokens, most likely first, with id behind them if it
// is not among them. It is an error if a logit is NaN or +Inf, or if none is
// finite.
func Logprobs(logits []float32, id int32, top int) (float32, []TokenLogprob, error) {
	best, err := argmax(logits)
	if err != nil {
		return 0, nil, err
	}
	l := newLogSoftmax(logits, best)
	return l.of(logits[id]), l.top(logits, top, id), nil
}

// logSoftmax turns logits of a row into log probabilities. A token's is always
// computed the same way: clients compare the chosen token's with those of the
// most likely ones by equality.
type logSoftmax struct{ logSum float64 }

func newLogSoftmax(logits []float32, best int32) logSoftmax {
	w := weights{top: logits[best], scale: 1}
	return logSoftmax{float64(w.top) + math.Log(w.sum(logits))}
}

func (l logSoftmax) of(logit float32) float32 {
	return min(0, float32(float64(logit)-l.logSum))
}

// top returns the n most likely tokens and id. Impossible ones are left out.
func (l logSoftmax) top(logits []float32, n int, id int32) []TokenLogprob {
	order := make([]int32, 0, n+1) // ids, by falling logit
	for i, x := range logits {
		at := len(order)
		if math.IsInf(float64(x), -1) || at == n && (n == 0 || x <= logits[order[n-1]]) {
			continue
		}
		for at > 0 && logits[order[at-1]] < x {
			at--
		}
		order = slices.Insert(order, at, int32(i))
		order = order[:min(len(order), n)]
	}
	if !slices.Contains(order, id) {
		order = append(order, id)
	}
	top := make([]TokenLogprob, len(order))
	for i, id := range order {
		top[i] = TokenLogprob{id, l.of(logits[id])}
	}
	return top
}
