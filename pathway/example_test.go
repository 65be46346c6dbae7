package pathway_test

import (
	"fmt"

	"latent/pathway"
)

// A step of three sequences on a GPU of 800 TFLOP/s and 4.46 TB/s: a long
// prompt, a follow-up on a cached prefix, and a decode.
func Example() {
	model := pathway.Geometry{
		Heads: 128, Nope: 128, Rope: 64, Value: 128, Latent: 512, QueryRank: 1536,
		IndexHeads: 64, IndexDim: 128, TopK: 2048, IndexedShare: 1, RecordSize: 656,
	}
	planner, err := pathway.New(pathway.Config{
		Geometry:       model,
		Calibration:    pathway.Estimate(model, 800e12, 4.46e12),
		WorkspaceBytes: 512 << 20,
		KVBytesPerKey:  64 << 10,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	extents := []pathway.Extent{
		{New: 9000},
		{Prefix: 1850, New: 140},
		{Prefix: 30000, New: 1, Phase: pathway.Decode},
	}
	var plan pathway.Plan
	planner.Plan(extents, &plan)
	for _, s := range plan.Segments {
		e := extents[s.Extent]
		fmt.Printf("%v, contexts %d to %d: %v (%v)\n", e.Phase, e.Prefix+s.From+1, e.Prefix+s.To, s.Pathway, s.Reason)
	}
	// Output:
	// prefill, contexts 1 to 2048: mha (short_context)
	// prefill, contexts 2049 to 6979: mha-masked (cheapest)
	// prefill, contexts 6980 to 9000: mla-sparse (cheapest)
	// prefill, contexts 1851 to 1990: mla (long_prefix_few_rows)
	// decode, contexts 30001 to 30001: mla-sparse (decode)
}
