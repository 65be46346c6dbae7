package pathway

import "math"

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

// candidate is a run of rows that takes one pathway.
type candidate struct {
	extent   int
	from, to int            // rows of the extent
	end      int            // context of the last row
	cost     [Count]float64 // prices.rows, also for pathways that are not allowed
	allowed  pathwaySet
	pathway  Pathway // the choice
	excluded [Count]Exclusion
}

// cheapest returns the cheapest of c's rows over the pathways in set, and its
// pathway; the first of equals.
func (c *candidate) cheapest(set pathwaySet) (float64, Pathway) {
	best, pathway := math.Inf(1), numPathways
	set &= c.allowed
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

// split returns the least cost of one extent's candidates with the pathways in
// set, and the last candidates e and d (−1 for none) that may be expanded and
// on MLA. The cost is +Inf if a candidate allows none of them.
func (p *prices) split(cs []candidate, set pathwaySet) (best float64, e, d int) {
	best, e, d = math.Inf(1), -1, -1
	for i := -1; i < len(cs); i++ { // last expanded
		if i >= 0 && cs[i].allowed&set&setExpanded == 0 {
			continue
		}
		for j := -1; j < len(cs); j++ { // last on MLA
			if j >= 0 && cs[j].allowed&set&setMLA == 0 {
				continue
			}
			total := 0.0
			if i >= 0 {
				total += p.expand * float64(cs[i].end)
			}
			if j >= 0 {
				total += p.read * float64(cs[j].end)
			}
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

// single adds the cost of an extent with the one candidate c to totals, by set
// of pathways.
func (p *prices) single(c *candidate, totals *[numSets]float64) {
	cost := [Count]float64{math.Inf(1), math.Inf(1), math.Inf(1), math.Inf(1)}
	expand := p.expand * float64(c.end)
	if c.allowed.has(MHA) {
		cost[MHA] = c.cost[MHA] + expand
	}
	if c.allowed.has(MHAMasked) {
		cost[MHAMasked] = c.cost[MHAMasked] + expand
	}
	if c.allowed.has(MLA) {
		cost[MLA] = c.cost[MLA] + p.read*float64(c.end)
	}
	if c.allowed.has(MLASparse) {
		cost[MLASparse] = c.cost[MLASparse]
	}
	// expanded[s] and absorbed[s] are the cheapest of two pathways' subset s.
	expanded := [4]float64{math.Inf(1), cost[MHA], cost[MHAMasked], less(cost[MHA], cost[MHAMasked])}
	absorbed := [4]float64{math.Inf(1), cost[MLA], cost[MLASparse], less(cost[MLA], cost[MLASparse])}
	for s := range totals {
		totals[s] += less(expanded[s&3], absorbed[s>>2])
	}
}

// alone returns the cheapest pathway in set for an extent with the one
// candidate c.
func (p *prices) alone(c *candidate, set pathwaySet) Pathway {
	best, pathway := math.Inf(1), numPathways
	for q := range numPathways {
		if (set & c.allowed).has(q) {
			if cost := c.cost[q] + p.shared(q, 0, c.end); cost < best {
				best, pathway = cost, q
			}
		}
	}
	return pathway
}

// less returns the smaller of two costs, neither of them NaN.
func less(a, b float64) float64 {
	if b < a {
		return b
	}
	return a
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
		for s := range totals {
			cost, _, _ := p.split(cs[i:next], pathwaySet(s))
			totals[s] += cost
		}
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
			cs[i].pathway = p.alone(&cs[i], set)
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
