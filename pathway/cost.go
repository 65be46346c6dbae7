package pathway

import (
	"math"
	"sort"
)

// prices is a calibration made ready for a geometry and a workspace bound:
// what rows at given contexts cost on each pathway.
//
// The cost of a row depends on its context alone and adds up. Two costs do
// not: expanding keys, and reading records for MLA. A sequence pays each once,
// for all positions up to the last row that needs it.
type prices struct {
	topk  int // contexts above it need a selection; math.MaxInt without an indexer
	chunk int // keys of a full wave
	// perChunk is the least number above 1/chunk: a division less for each decode.
	perChunk float64
	expand   float64
	read     float64

	mhaRow, mhaPair                 float64
	maskedRow, maskedPair           float64
	mlaRow, mlaPair                 float64
	sparseRow, sparsePair, scorePer float64 // sparsePair per selected key, scorePer per visible key
	merge                           float64

	overhead    [Count]float64
	overheadSet [numSets]float64
}

func newPrices(g Geometry, u *Units, chunk int) prices {
	share := g.IndexedShare
	row := share * (u[ScoreRow] + u[TopKRow])
	key := share * (u[ScorePair] + u[TopKKey])
	p := prices{
		topk:       g.TopK,
		chunk:      chunk,
		perChunk:   math.Nextafter(1/float64(chunk), 1),
		expand:     u[ExpandKey] + u[ReadKV],
		read:       u[ReadRecord],
		mhaRow:     u[RowMHA],
		mhaPair:    u[PairMHA],
		maskedRow:  u[RowMHA] + row,
		maskedPair: u[PairMHAMasked] + key + share*u[MaskKey],
		mlaRow:     u[AbsorbRow] + u[RowMLA],
		mlaPair:    u[PairMLA],
		sparseRow:  u[AbsorbRow] + u[RowMLASparse] + row + share*u[IndexRow],
		sparsePair: u[PairMLASparse],
		scorePer:   key,
		merge:      u[MergeRow],
		overhead:   [Count]float64{u[OverheadMHA], u[OverheadMHAMasked], u[OverheadMLA], u[OverheadMLASparse]},
	}
	if !g.Indexer() {
		p.topk = math.MaxInt
	}
	for s := range p.overheadSet {
		for q := range numPathways {
			if pathwaySet(s).has(q) {
				p.overheadSet[s] += p.overhead[q]
			}
		}
	}
	return p
}

// pairs returns the sum of contexts a, a+1, …, b.
func pairs(a, b int) float64 { return 0.5 * float64(b-a+1) * (float64(a) + float64(b)) }

// selected returns the number of keys that rows at contexts a to b select.
func (p *prices) selected(a, b int) float64 {
	switch {
	case b <= p.topk:
		return pairs(a, b)
	case a > p.topk:
		return float64(b-a+1) * float64(p.topk)
	}
	return pairs(a, p.topk) + float64(b-p.topk)*float64(p.topk)
}

// attended returns how many pairs pathway q's core computes for rows at
// contexts a to b.
func (p *prices) attended(q Pathway, a, b int) int64 {
	if q == MLASparse {
		return int64(p.selected(a, b))
	}
	return int64(pairs(a, b))
}

// merges returns how often rows at contexts a to b merge partial results: once
// for each key chunk a row sees beyond its first.
func (p *prices) merges(a, b int) float64 {
	switch {
	case b <= p.chunk:
		return 0
	case a == b:
		// Exact: perChunk is above 1/chunk by less than contexts, which fit 30
		// bits, could carry over a fraction.
		return float64(int(float64(b-1) * p.perChunk))
	}
	chunk := uint32(p.chunk)
	upTo := func(n uint32) float64 { // Σ ⌊(c−1)/chunk⌋ for c = 1 … n
		q, r := float64(n/chunk), float64(n%chunk)
		return float64(chunk)*q*(q-1)/2 + q*r
	}
	return upTo(uint32(b)) - upTo(uint32(a-1))
}

// rows sets cost to what rows at contexts a to b cost on each pathway, without
// expansion and reading of records; +Inf where the model has no selection to
// apply.
func (p *prices) rows(cost *[Count]float64, a, b int) {
	n, seen := float64(b-a+1), pairs(a, b)
	merging := 0.0
	if b > p.chunk && p.merge > 0 {
		merging = p.merge * p.merges(a, b)
	}
	cost[MHA] = p.mhaRow*n + p.mhaPair*seen + merging
	cost[MLA] = p.mlaRow*n + p.mlaPair*seen
	if p.topk == math.MaxInt {
		cost[MHAMasked], cost[MLASparse] = math.Inf(1), math.Inf(1)
		return
	}
	cost[MHAMasked] = p.maskedRow*n + p.maskedPair*seen + merging
	cost[MLASparse] = p.sparseRow*n + p.scorePer*seen + p.sparsePair*p.selected(a, b)
}

// shared returns what positions from up to to cost on pathway q, once for all
// rows of the sequence.
func (p *prices) shared(q Pathway, from, to int) float64 {
	switch {
	case to <= from:
		return 0
	case q.Expanded():
		return p.expand * float64(to-from)
	case q == MLA:
		return p.read * float64(to-from)
	}
	return 0
}

// maxContext bounds the search for crossings; no sequence is longer.
const maxContext = 1 << 30

// crossing returns the last context from low up to high at which a further row
// of a growing prompt, its own key's expansion included, is cheaper expanded
// than absorbed, if absorbed is cheaper beyond; else 0. Costs of a row are
// linear in its context but for the steps of chunk merging, so that such a
// crossing is the only place inside the range where cutting a sequence can pay.
func (p *prices) crossing(expanded, absorbed Pathway, low, high int) int {
	absorbs := func(context int) bool {
		var cost [Count]float64
		p.rows(&cost, context, context)
		return cost[absorbed]+p.shared(absorbed, 0, 1) < cost[expanded]+p.shared(expanded, 0, 1)
	}
	if low > high || absorbs(low) || !absorbs(high) {
		return 0
	}
	return low + sort.Search(high-low, func(i int) bool { return absorbs(low + i + 1) })
}
