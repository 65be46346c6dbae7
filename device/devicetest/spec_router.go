package devicetest

import (
	"cmp"
	"math"
	"slices"

	"latent/device"
)

// specRoute chooses experts for one token: ids best first, their weights, and
// gap: the smallest difference, other than an exact tie, between two values
// that decide the choice. bias is nil when there is none.
func specRoute(logits, bias []float64, r device.Router) (ids []int, weights []float64, gap float64) {
	n := len(logits)
	scores := make([]float64, n)
	switch r.Score {
	case device.Sigmoid:
		for i, x := range logits {
			scores[i] = 1 / (1 + math.Exp(-x))
		}
	case device.Softmax:
		var sum float64
		for i, x := range logits {
			scores[i] = math.Exp(x - slices.Max(logits))
			sum += scores[i]
		}
		for i := range scores {
			scores[i] /= sum
		}
	}
	choice := slices.Clone(scores)
	for i := range bias {
		choice[i] += bias[i]
	}
	gap = math.Inf(1)
	if r.Limit != device.NoGroups {
		gap = limitGroups(choice, r)
	}
	ids, g := largest(choice, r.Choose)
	gap = min(gap, g)
	var sum float64
	for _, id := range ids {
		weights = append(weights, scores[id])
		sum += scores[id]
	}
	for j := range weights {
		if r.Normalize {
			weights[j] /= sum + 1e-20
		}
		weights[j] *= float64(r.Scale)
	}
	return ids, weights, gap
}

// limitGroups overwrites the choices of all groups but the best KeepGroups and
// returns the smallest gap between group scores.
func limitGroups(choice []float64, r device.Router) (gap float64) {
	size := len(choice) / r.Groups
	group := make([]float64, r.Groups)
	for g := range group {
		best := slices.Clone(choice[g*size : (g+1)*size])
		slices.Sort(best)
		group[g] = best[size-1]
		if r.Limit == device.GroupTop2Sum {
			group[g] += best[size-2]
		}
	}
	kept, gap := largest(group, r.KeepGroups)
	dropped := math.Inf(-1)
	if r.Limit == device.GroupMax {
		dropped = 0
	}
	for i := range choice {
		if !slices.Contains(kept, i/size) {
			choice[i] = dropped
		}
	}
	return gap
}

// largest returns the indices of the n largest x, largest first and equal values
// by lower index, and the smallest non-zero difference between neighbours among
// them and the next one.
func largest(x []float64, n int) (order []int, gap float64) {
	order = make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(x[b], x[a]) })
	gap = math.Inf(1)
	for i := 1; i < min(n+1, len(order)); i++ {
		if d := x[order[i-1]] - x[order[i]]; d > 0 {
			gap = min(gap, d)
		}
	}
	return order[:n], gap
}
