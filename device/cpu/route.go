package cpu

import (
	"fmt"
	"math"

	"latent/device"
)

// Route implements device.Device. Scores and choices are float64: their cost is
// nothing beside the experts', and float32 sums would tie where the model does
// not.
func (d *Device) Route(ids, weights, logits, bias device.Tensor, router device.Router) {
	rows, experts := logits.Rows, logits.Cols
	wantShape("Route", "ids", ids, rows, router.Choose)
	wantShape("Route", "weights", weights, rows, router.Choose)
	groups := 1
	if router.Limit != device.NoGroups {
		groups = router.Groups
		if groups < 1 || experts%groups != 0 || router.KeepGroups < 1 || router.KeepGroups > groups {
			panic(fmt.Sprintf("cpu: Route: %d of %d groups for %d experts", router.KeepGroups, groups, experts))
		}
	}
	if router.Choose < 1 || router.Choose > experts {
		panic(fmt.Sprintf("cpu: Route: choose %d of %d experts", router.Choose, experts))
	}
	var b []float32
	if bias.Mem != nil {
		wantShape("Route", "bias", bias, 1, experts)
		b = floats("Route", "bias", bias)
	}
	out, w, in := ints("Route", "ids", ids), floats("Route", "weights", weights), floats("Route", "logits", logits)
	ke := router.Choose
	d.overRows(rows, 64*experts, func(_ *arena, from, to int) {
		scores, choice, group := make([]float64, experts), make([]float64, experts), make([]float64, groups)
		for i := from; i < to; i++ {
			score(scores, in[i*experts:][:experts], router.Score)
			copy(choice, scores)
			for e := range b {
				choice[e] += float64(b[e])
			}
			if router.Limit != device.NoGroups {
				limitGroups(choice, group, router)
			}
			routeRow(out[i*ke:][:ke], w[i*ke:][:ke], scores, choice, router)
		}
	})
}

// score writes the scores of one row of logits.
func score(dst []float64, logits []float32, s device.Score) {
	if s == device.Sigmoid {
		for e, x := range logits {
			dst[e] = 1 / (1 + math.Exp(-float64(x)))
		}
		return
	}
	top := logits[0]
	for _, x := range logits {
		top = max(top, x)
	}
	var sum float64
	for _, x := range logits {
		sum += math.Exp(float64(x) - float64(top))
	}
	for e, x := range logits {
		dst[e] = math.Exp(float64(x)-float64(top)) / sum
	}
}

// limitGroups overwrites the choices of all groups but the best KeepGroups.
func limitGroups(choice, group []float64, r device.Router) {
	size := len(choice) / len(group)
	inf := math.Inf(-1)
	for g := range group {
		first, second := inf, inf
		for _, c := range choice[g*size:][:size] {
			if c > first {
				first, second = c, first
			} else if c > second {
				second = c
			}
		}
		group[g] = first
		if r.Limit == device.GroupTop2Sum && size > 1 {
			group[g] += second
		}
	}
	dropped := inf
	if r.Limit == device.GroupMax {
		dropped = 0
	}
	for g := range group {
		// A group is kept if fewer than KeepGroups others come before it.
		before := 0
		for o := range group {
			if group[o] > group[g] || group[o] == group[g] && o < g {
				before++
			}
		}
		if before >= r.KeepGroups {
			for e := range size {
				choice[g*size+e] = dropped
			}
		}
	}
}

// routeRow takes the largest choices, best first, ties to the lower expert.
// NaN choices come last.
func routeRow(ids []int32, weights []float32, scores, choice []float64, r device.Router) {
	var sum float64
	for j := range ids {
		best := -1
		for e, c := range choice {
			better := best < 0 || c > choice[best] || choice[best] != choice[best] && c == c
			if better && !taken(ids[:j], e) {
				best = e
			}
		}
		ids[j] = int32(best)
		sum += scores[best]
	}
	for j, e := range ids {
		w := scores[e]
		if r.Normalize {
			w /= sum + 1e-20
		}
		weights[j] = float32(w * float64(r.Scale))
	}
}

func taken(ids []int32, e int) bool {
	for _, id := range ids {
		if int(id) == e {
			return true
		}
	}
	return false
}
