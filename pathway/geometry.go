package pathway

import "fmt"

// Geometry holds the numbers of a model, and of one rank's share of it, that
// decide what attention costs.
type Geometry struct {
	Heads      int `json:"heads"`        // attention heads on this rank, H
	Nope       int `json:"nope"`         // qk_nope_head_dim, dn
	Rope       int `json:"rope"`         // qk_rope_head_dim, dr
	Value      int `json:"value"`        // v_head_dim, dv
	Latent     int `json:"latent"`       // kv_lora_rank, R
	QueryRank  int `json:"query_rank"`   // width of the indexer's query input (q_lora_rank)
	IndexHeads int `json:"index_heads"`  // Hi
	IndexDim   int `json:"index_dim"`    // Di
	TopK       int `json:"index_topk"`   // keys selected per row; 0: no indexer
	RecordSize int `json:"record_bytes"` // bytes of a cached latent record in one layer
	// IndexedShare is the share of layers that run an indexer of their own,
	// above 0 and at most 1: the others reuse a selection. 0 without an indexer.
	IndexedShare float64 `json:"indexed_share"`
}

// Indexer tells whether the model selects keys.
func (g Geometry) Indexer() bool { return g.TopK > 0 }

// maxDim bounds every number of a geometry, so that products stay finite.
const maxDim = 1 << 24

// Validate reports the first number that cannot be.
func (g Geometry) Validate() error {
	check := func(name string, v, low int) error {
		if v < low || v > maxDim {
			return fmt.Errorf("geometry: %s is %d, want %d to %d", name, v, low, maxDim)
		}
		return nil
	}
	low := 0
	if g.TopK > 0 {
		low = 1
	}
	for _, err := range []error{
		check("heads", g.Heads, 1),
		check("nope", g.Nope, 1),
		check("rope", g.Rope, 0),
		check("value", g.Value, 1),
		check("latent", g.Latent, 1),
		check("record_bytes", g.RecordSize, 1),
		check("query_rank", g.QueryRank, 0),
		check("index_topk", g.TopK, 0),
		check("index_heads", g.IndexHeads, low),
		check("index_dim", g.IndexDim, low),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case g.TopK > 0 && !(g.IndexedShare > 0 && g.IndexedShare <= 1):
		return fmt.Errorf("geometry: indexed_share is %v, want above 0 and at most 1", g.IndexedShare)
	case g.TopK == 0 && g.IndexedShare != 0:
		return fmt.Errorf("geometry: indexed_share is %v for a model without an indexer, want 0", g.IndexedShare)
	}
	return nil
}
