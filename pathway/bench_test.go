package pathway

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// serving returns a step as a busy server has it: chunks of a few prompts
// beside many decodes at all depths.
func serving(sequences, prompts int) []Extent {
	rng := rand.New(rand.NewPCG(1, 2))
	extents := make([]Extent, 0, sequences)
	for i := range sequences {
		if i < prompts {
			extents = append(extents, Extent{Prefix: rng.IntN(8) * 512, New: 64 + rng.IntN(4096)})
			continue
		}
		extents = append(extents, Extent{Prefix: rng.IntN(65536), New: 1, Phase: Decode})
	}
	return extents
}

func BenchmarkPlan(b *testing.B) {
	p := planner(b, config(v32()))
	for _, prompts := range []int{0, 8, 64, 256} {
		b.Run(fmt.Sprintf("sequences=256/prompts=%d", prompts), func(b *testing.B) {
			extents := serving(256, prompts)
			var plan Plan
			b.ReportAllocs()
			for b.Loop() {
				p.Plan(extents, &plan)
			}
		})
	}
}

func TestPlanDoesNotAllocate(t *testing.T) {
	for _, c := range []Config{config(v32()), config(v3())} {
		for _, c.Deterministic = range []bool{false, true} {
			p := planner(t, c)
			extents := serving(256, 16)
			var plan Plan
			p.Plan(extents, &plan)
			if n := testing.AllocsPerRun(20, func() { p.Plan(extents, &plan) }); n != 0 {
				t.Errorf("topk %d, deterministic %t: %v allocations per plan", c.Geometry.TopK, c.Deterministic, n)
			}
		}
	}
}
