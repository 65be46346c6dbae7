package devicetest

import (
	"fmt"
	"math"

	"latent/device"
)

// routeGap is how far apart two values that decide a choice must be, if they
// are not equal, for float32 to decide the same.
const routeGap = 2e-5

// routers are the variants in use, by family, and with odd sizes.
func routers() []struct {
	experts int
	bias    bool
	device.Router
} {
	return []struct {
		experts int
		bias    bool
		device.Router
	}{
		// deepseek_v3, deepseek_v32
		{256, true, device.Router{Score: device.Sigmoid, Limit: device.GroupTop2Sum, Groups: 8, KeepGroups: 4, Choose: 8, Normalize: true, Scale: 2.5}},
		{12, true, device.Router{Score: device.Sigmoid, Limit: device.GroupTop2Sum, Groups: 4, KeepGroups: 2, Choose: 3, Normalize: true, Scale: 2.5}},
		// Kimi-K2, Moonlight, GLM
		{384, true, device.Router{Score: device.Sigmoid, Groups: 1, KeepGroups: 1, Choose: 8, Normalize: true, Scale: 2.827}},
		{7, true, device.Router{Score: device.Sigmoid, Groups: 1, KeepGroups: 1, Choose: 3, Normalize: true, Scale: 1.8}},
		// DeepSeek-V2
		{160, false, device.Router{Score: device.Softmax, Limit: device.GroupMax, Groups: 8, KeepGroups: 3, Choose: 6, Scale: 16}},
		{9, false, device.Router{Score: device.Softmax, Limit: device.GroupMax, Groups: 3, KeepGroups: 2, Choose: 4, Scale: 16}},
		// DeepSeek-V2-Lite
		{64, false, device.Router{Score: device.Softmax, Groups: 1, KeepGroups: 1, Choose: 6, Scale: 1}},
		{5, false, device.Router{Score: device.Softmax, Groups: 1, KeepGroups: 1, Choose: 5, Scale: 1}},
		// not in use, but allowed
		{10, false, device.Router{Score: device.Sigmoid, Limit: device.GroupTop2Sum, Groups: 2, KeepGroups: 1, Choose: 1, Scale: 0.5}},
	}
}

func checkRoute(e *env) error {
	for _, r := range routers() {
		rows := e.between(1, 40)
		// With few levels ties are everywhere. All biases are then equal: scores
		// with exchanged biases would tie in exact arithmetic only.
		ties := e.rng.IntN(2) == 0
		level := func() float64 {
			x := e.rng.NormFloat64() * 1.5
			if ties {
				x = pick(e, -1.3, 0.2, 1.7)
			}
			return roundType(device.F32, x)
		}
		var bias []float64
		if r.bias {
			bias = e.normal(device.F32, r.experts, 0.2)
			for i := range bias {
				if ties {
					bias[i] = bias[0]
				}
			}
		}
		var logits []float64
		var ids [][]int
		var want [][]float64
		for range rows {
			clearly(func() (struct{}, bool) {
				row := make([]float64, r.experts)
				for i := range row {
					row[i] = level()
				}
				id, w, gap := specRoute(row, bias, r.Router)
				if gap > routeGap {
					logits, ids, want = append(logits, row...), append(ids, id), append(want, w)
				}
				return struct{}{}, gap > routeGap
			})
		}
		if err := e.route(fmt.Sprintf("%d experts, %+v", r.experts, r.Router), logits, bias, r.experts, r.Router, ids, want); err != nil {
			return err
		}
	}
	return nil
}

// route checks one call against the experts and weights of each row.
func (e *env) route(what string, logits, bias []float64, experts int, r device.Router, ids [][]int, weights [][]float64) error {
	rows := len(logits) / experts
	gotIDs, gotWeights := e.alloc(device.I32, rows, r.Choose), e.alloc(device.F32, rows, r.Choose)
	b := device.Tensor{Type: device.F32, Rows: 1, Cols: experts}
	if bias != nil {
		b = e.tensor(device.F32, experts, bias).Tensor
	}
	e.dev.Route(gotIDs.Tensor, gotWeights.Tensor, e.tensor(device.F32, experts, logits).Tensor, b, r)
	var wantIDs, want []float64
	for i := range rows {
		for j, id := range ids[i] {
			wantIDs, want = append(wantIDs, float64(id)), append(want, weights[i][j])
		}
	}
	if err := same(what+": experts", gotIDs.read(), wantIDs, r.Choose); err != nil {
		return err
	}
	// Scores are float32 in every arithmetic.
	exact := *e
	exact.tolerance = min(e.tolerance, 1e-4)
	return exact.compare(what+": weights", gotWeights.read(), want, make([]float64, len(want)), r.Choose)
}

// checkRouteVectors are cases that random logits do not settle: dropped groups
// are −∞ and not 0, and a group's score is the sum of its two best.
func checkRouteVectors(e *env) error {
	vectors := []struct {
		name         string
		scores, bias []float64
		choose       int
		ids          []int
		weights      []float64
	}{
		{"negative choices", []float64{.30, .20, .10, .05}, []float64{-.5, -.5, -.9, -.9}, 2, []int{0, 1}, []float64{.6, .4}},
		{"sum of two", []float64{.9, .1, .6, .6}, make([]float64, 4), 2, []int{2, 3}, []float64{.5, .5}},
		{"tied groups", []float64{.7, .4, .4, .7}, make([]float64, 4), 2, []int{0, 1}, []float64{.7 / 1.1, .4 / 1.1}},
		{"bias chooses, does not weigh", []float64{.3, .2, .4, .1}, []float64{.5, .4, 0, 0}, 2, []int{0, 1}, []float64{.6, .4}},
	}
	for _, v := range vectors {
		logits := make([]float64, len(v.scores))
		for i, s := range v.scores {
			logits[i] = math.Log(s / (1 - s))
		}
		r := device.Router{Score: device.Sigmoid, Limit: device.GroupTop2Sum, Groups: 2, KeepGroups: 1, Choose: v.choose, Normalize: true, Scale: 1}
		if err := e.route(v.name, logits, v.bias, len(logits), r, [][]int{v.ids}, [][]float64{v.weights}); err != nil {
			return err
		}
	}
	return nil
}
