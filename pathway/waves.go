package pathway

import "slices"

// PageTokens is the granularity of key chunks: their borders are multiples of
// it, as are those of cache pages (device.PageTokens).
const PageTokens = 64

// placedChunk is a chunk and the wave it goes to.
type placedChunk struct {
	Chunk
	wave int
}

// packWaves fills plan.Waves: the positions that the expanded segments of each
// extent need, in waves of at most limit keys, limit being a multiple of
// PageTokens.
//
// A sequence is cut at multiples of limit and nowhere else, so that how a row's
// partial results are grouped does not depend on its neighbours. Full chunks
// have waves of their own and come first; then short sequences and remainders
// share waves, each going to the first with room.
func packWaves(plan *Plan, extents []Extent, limit int) {
	plan.placed = plan.placed[:0]
	plan.Waves = plan.Waves[:0]
	if !plan.Used[MHA] && !plan.Used[MHAMasked] {
		return
	}
	add := func(extent, from, to int) {
		wave := len(plan.Waves)
		plan.Waves = append(plan.Waves, Wave{Keys: to - from})
		plan.placed = append(plan.placed, placedChunk{Chunk{Extent: extent, From: from, To: to}, wave})
	}
	for i := range plan.Segments {
		if keys := neededKeys(plan, extents, i); keys > limit {
			for from := 0; from+limit <= keys; from += limit {
				add(plan.Segments[i].Extent, from, from+limit)
			}
		}
	}
	shared := len(plan.Waves)
	for i := range plan.Segments {
		keys := neededKeys(plan, extents, i)
		from := keys - keys%limit
		if keys == limit {
			from = 0
		}
		if from == keys {
			continue
		}
		wave := shared
		for wave < len(plan.Waves) && plan.Waves[wave].Keys+keys-from > limit {
			wave++
		}
		if wave == len(plan.Waves) {
			add(plan.Segments[i].Extent, from, keys)
			continue
		}
		offset := plan.Waves[wave].Keys
		plan.Waves[wave].Keys += keys - from
		plan.placed = append(plan.placed, placedChunk{Chunk{plan.Segments[i].Extent, from, keys, offset}, wave})
	}
	gatherChunks(plan)
}

// neededKeys returns how many positions the extent of segment i needs expanded,
// if i is its last expanded segment, else 0.
func neededKeys(plan *Plan, extents []Extent, i int) int {
	s := &plan.Segments[i]
	if !s.Pathway.Expanded() {
		return 0
	}
	for j := i + 1; j < len(plan.Segments) && plan.Segments[j].Extent == s.Extent; j++ {
		if plan.Segments[j].Pathway.Expanded() {
			return 0
		}
	}
	return extents[s.Extent].Prefix + s.To
}

// gatherChunks gives each wave its chunks, in the order they were placed.
func gatherChunks(plan *Plan) {
	plan.chunks = slices.Grow(plan.chunks[:0], len(plan.placed))[:len(plan.placed)]
	// starts[w] is where wave w's next chunk goes.
	plan.starts = slices.Grow(plan.starts[:0], len(plan.Waves)+1)[:len(plan.Waves)+1]
	clear(plan.starts)
	for _, c := range plan.placed {
		plan.starts[c.wave+1]++
	}
	for w := range plan.Waves {
		plan.starts[w+1] += plan.starts[w]
	}
	for w := range plan.Waves {
		first, end := plan.starts[w], plan.starts[w+1]
		plan.Waves[w].Chunks = plan.chunks[first:end:end]
	}
	for _, c := range plan.placed {
		plan.chunks[plan.starts[c.wave]] = c.Chunk
		plan.starts[c.wave]++
	}
}
