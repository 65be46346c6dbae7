package pathway

import (
	"math"
	"math/bits"
)

// How the best plan is found
//
// Each extent is cut at index_topk and where growing contexts turn from
// expanded to absorbed, into at most four candidates; all rows of a candidate
// take one pathway. Three costs tie choices together: a sequence's expansion
// (positions up to the last expanded row), its reading of records for MLA (up
// to the last MLA row), and the overhead of each pathway that is used at all.
//
// For a fixed set of pathways the extents are independent. Within one, guess
// the last candidate e that may be expanded and the last one d that may be MLA:
// the shared costs are then fixed and each candidate takes its cheapest member.
// Every assignment is priced by the guess that matches it, and no guess is
// priced below an assignment it stands for, so that the best guess is the
// optimum. The best of the sixteen sets, each with its overheads, is the plan.

// maxCandidates is the number of candidates of one extent: one more than cuts.
const maxCandidates = 4

// candidate is a run of rows that takes one pathway.
type candidate struct {
	extent   int
	from, to int // rows of the extent
	end      int // context of the last row
	// cost is prices.rows, also for pathways that are not allowed; after
	// solving, for the only candidate of an extent, shared costs are added and
	// pathways not allowed are at +Inf.
	cost       [Count]float64
	permission *permission
	pathway    Pathway // the choice
}

// cheapest returns the cheapest of c's rows over the pathways in set, and its
// pathway; the first of equals.
func (c *candidate) cheapest(set pathwaySet) (float64, Pathway) {
	best, pathway := math.Inf(1), numPathways
	set &= c.permission.allowed
	for p := range numPathways {
		if set.has(p) && c.cost[p] < best {
			best, pathway = c.cost[p], p
		}
	}
	return best, pathway
}

// limits returns which pathways of set candidate i may take when e is the last
// expanded candidate and d the last on MLA.
func limits(set pathwaySet, i, e, d int) pathwaySet {
	if i > e {
		set &^= setExpanded
	}
	if i > d {
		set &^= setMLA
	}
	return set
}

// ends returns the shared costs when e is the last expanded candidate and d the
// last on MLA; −1 stands for none.
func (p *prices) ends(cs []candidate, e, d int) float64 {
	cost := 0.0
	if e >= 0 {
		cost = p.expand * float64(cs[e].end)
	}
	if d >= 0 {
		cost += p.read * float64(cs[d].end)
	}
	return cost
}

// split returns the least cost of one extent's candidates with the pathways in
// set, and the last candidates e and d (−1 for none) that may be expanded and
// on MLA. The cost is +Inf if a candidate allows none of them.
func (p *prices) split(cs []candidate, set pathwaySet) (best float64, e, d int) {
	best, e, d = math.Inf(1), -1, -1
	for i := -1; i < len(cs); i++ { // last expanded
		if i >= 0 && cs[i].permission.allowed&set&setExpanded == 0 {
			continue
		}
		for j := -1; j < len(cs); j++ { // last on MLA
			if j >= 0 && cs[j].permission.allowed&set&setMLA == 0 {
				continue
			}
			total := p.ends(cs, i, j)
			for k := range cs {
				cost, _ := cs[k].cheapest(limits(set, k, i, j))
				total += cost
			}
			if total < best {
				best, e, d = total, i, j
			}
		}
	}
	return best, e, d
}

// single completes the cost of an extent's only candidate and adds it to
// totals, by set of pathways.
func (p *prices) single(c *candidate, totals *[numSets]float64) {
	cost := &c.cost
	expand := p.expand * float64(c.end)
	cost[MHA] += expand
	cost[MHAMasked] += expand
	cost[MLA] += p.read * float64(c.end)
	if c.permission.allowed != setAll {
		for q := range cost {
			if !c.permission.allowed.has(Pathway(q)) {
				cost[q] = math.Inf(1)
			}
		}
	}
	mha, masked, mla, sparse := cost[MHA], cost[MHAMasked], cost[MLA], cost[MLASparse]
	both := min(mha, masked)
	for s, absorbed := range [4]float64{math.Inf(1), mla, sparse, min(mla, sparse)} {
		t := totals[4*s : 4*s+4 : 4*s+4]
		t[0] += absorbed
		t[1] += min(mha, absorbed)
		t[2] += min(masked, absorbed)
		t[3] += min(both, absorbed)
	}
}

// several adds the cost of an extent's candidates to totals, by set of
// pathways: split for all sets at once, sharing what they have in common.
func (p *prices) several(cs []candidate, totals *[numSets]float64) {
	var least [maxCandidates][numSets]float64 // cheapest member of a set, by candidate
	for i := range cs {
		least[i][0] = math.Inf(1)
		for s := 1; s < numSets; s++ {
			q := bits.TrailingZeros(uint(s))
			least[i][s] = least[i][s&(s-1)]
			if cs[i].permission.allowed.has(Pathway(q)) {
				least[i][s] = min(least[i][s], cs[i].cost[q])
			}
		}
	}
	var best [numSets]float64
	for s := range pathwaySet(numSets) {
		// e is −1 just if s has nothing expanded, d just if it has no MLA; the
		// sets without them stand for the other cases.
		best[s] = math.Inf(1)
		firstE, lastE := 0, len(cs)-1
		if s&setExpanded == 0 {
			firstE, lastE = -1, -1
		} else {
			best[s] = best[s&^setExpanded]
		}
		firstD, lastD := 0, len(cs)-1
		if s&setMLA == 0 {
			firstD, lastD = -1, -1
		} else {
			best[s] = min(best[s], best[s&^setMLA])
		}
		for e := firstE; e <= lastE; e++ {
			if e >= 0 && cs[e].permission.allowed&s&setExpanded == 0 {
				continue
			}
			for d := firstD; d <= lastD; d++ {
				if d >= 0 && !cs[d].permission.allowed.has(MLA) {
					continue
				}
				total := p.ends(cs, e, d)
				for i := range cs {
					total += least[i][limits(s, i, e, d)]
				}
				best[s] = min(best[s], total)
			}
		}
		totals[s] += best[s]
	}
}

// solve chooses a pathway for every candidate; candidates of one extent are
// neighbours.
func (p *prices) solve(cs []candidate) {
	totals := p.overheadSet
	for i, next := 0, 0; i < len(cs); i = next {
		next = extentEnd(cs, i)
		if next == i+1 {
			p.single(&cs[i], &totals)
			continue
		}
		p.several(cs[i:next], &totals)
	}
	best := 0
	for s := range totals {
		if totals[s] < totals[best] {
			best = s
		}
	}
	set := pathwaySet(best)
	for i, next := 0, 0; i < len(cs); i = next {
		next = extentEnd(cs, i)
		if next == i+1 {
			_, cs[i].pathway = cs[i].cheapest(set)
			continue
		}
		_, e, d := p.split(cs[i:next], set)
		for k := i; k < next; k++ {
			_, cs[k].pathway = cs[k].cheapest(limits(set, k-i, e, d))
		}
	}
}

// extentEnd returns the index behind the last candidate of cs[i]'s extent.
func extentEnd(cs []candidate, i int) int {
	n := i + 1
	for n < len(cs) && cs[n].extent == cs[i].extent {
		n++
	}
	return n
}
