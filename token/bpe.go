package token

import (
	"hash/maphash"
	"math"
	"slices"
	"sync/atomic"
)

// pair is two adjacent tokens.
type pair struct{ left, right int32 }

// merge is what becomes of a pair, and how early.
type merge struct {
	rank uint32 // position in the list of merges; without a list the id
	id   int32  // the token made
}

// noMerge is the rank of a pair that does not merge.
const noMerge = math.MaxUint32

// bpe is the byte-pair model: it is never written after loading, except for
// the cache, which is safe for concurrent use.
type bpe struct {
	bytes  [256]int32 // the token of each single byte
	merges map[pair]merge
	whole  map[string]int32 // with ignore_merges: the tokens that a piece can be at once, by their bytes
	cache  pieceCache
}

func (m *bpe) merge(left, right int32) merge {
	if to, ok := m.merges[pair{left, right}]; ok {
		return to
	}
	return merge{rank: noMerge}
}

// shortPiece is the length in bytes up to which merging by repeated search for
// the lowest rank beats a heap.
const shortPiece = 48

// appendPiece appends the tokens of a piece to ids.
func (m *bpe) appendPiece(ids []int, piece string, long *longPiece) []int {
	if len(piece) == 1 {
		return append(ids, int(m.bytes[piece[0]]))
	}
	if id, ok := m.whole[piece]; ok {
		return append(ids, int(id))
	}
	if len(piece) > shortPiece {
		return long.merge(m, ids, piece)
	}
	slot := m.cache.slot(piece)
	if e := slot.Load(); e != nil && e.piece == piece {
		for _, id := range e.ids {
			ids = append(ids, int(id))
		}
		return ids
	}
	var buf [shortPiece]int32
	merged := m.mergeShort(&buf, piece)
	slot.Store(&cachedPiece{string([]byte(piece)), slices.Clone(merged)}) // the piece must not keep the whole text alive
	for _, id := range merged {
		ids = append(ids, int(id))
	}
	return ids
}

// mergeShort merges a piece of at most shortPiece bytes in buf.
func (m *bpe) mergeShort(buf *[shortPiece]int32, piece string) []int32 {
	id := buf[:len(piece)]
	for i := range len(piece) {
		id[i] = m.bytes[piece[i]]
	}
	var space [shortPiece]merge // pair i is id[i], id[i+1]
	to := space[:len(id)-1]
	for i := range to {
		to[i] = m.merge(id[i], id[i+1])
	}
	for len(to) > 0 {
		best := 0
		for i := range to {
			if to[i].rank < to[best].rank {
				best = i
			}
		}
		if to[best].rank == noMerge {
			break
		}
		id[best] = to[best].id
		id = slices.Delete(id, best+1, best+2)
		to = slices.Delete(to, best, best+1)
		if best > 0 {
			to[best-1] = m.merge(id[best-1], id[best])
		}
		if best < len(to) {
			to[best] = m.merge(id[best], id[best+1])
		}
	}
	return id
}

// longPiece is the scratch space for merging a piece of n bytes in O(n log n):
// the tokens form a doubly linked list in an array indexed by the byte where
// they begin, and a heap holds the pairs that can merge, by rank and then by
// place. A pair that has gone by the time it is popped is recognised by its
// rank: only pairs that make the same token may share one.
type longPiece struct {
	id         []int32 // -1: merged into the token before
	prev, next []int32
	heap       []uint64 // rank<<32 | place of the left token
}

func (l *longPiece) merge(m *bpe, ids []int, piece string) []int {
	n := len(piece)
	l.id = slices.Grow(l.id[:0], n)[:n]
	l.prev = slices.Grow(l.prev[:0], n)[:n]
	l.next = slices.Grow(l.next[:0], n)[:n]
	l.heap = l.heap[:0]
	for i := range n {
		l.id[i], l.prev[i], l.next[i] = m.bytes[piece[i]], int32(i-1), int32(i+1)
	}
	for i := range n - 1 {
		if to := m.merge(l.id[i], l.id[i+1]); to.rank != noMerge {
			l.heap = append(l.heap, uint64(to.rank)<<32|uint64(i))
		}
	}
	for i := len(l.heap)/2 - 1; i >= 0; i-- {
		l.down(i)
	}
	for len(l.heap) > 0 {
		top := l.pop()
		left := int32(top & math.MaxUint32)
		if l.id[left] < 0 || int(l.next[left]) == n {
			continue
		}
		right := l.next[left]
		to := m.merge(l.id[left], l.id[right])
		if to.rank == noMerge || to.rank != uint32(top>>32) {
			continue
		}
		l.id[left], l.id[right] = to.id, -1
		after := l.next[right]
		l.next[left] = after
		if int(after) < n {
			l.prev[after] = left
			l.push(m.merge(to.id, l.id[after]).rank, left)
		}
		if before := l.prev[left]; before >= 0 {
			l.push(m.merge(l.id[before], to.id).rank, before)
		}
	}
	for i := int32(0); int(i) < n; i = l.next[i] {
		ids = append(ids, int(l.id[i]))
	}
	return ids
}

func (l *longPiece) push(rank uint32, place int32) {
	if rank == noMerge {
		return
	}
	l.heap = append(l.heap, uint64(rank)<<32|uint64(place))
	for i := len(l.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if l.heap[up] <= l.heap[i] {
			return
		}
		l.heap[up], l.heap[i] = l.heap[i], l.heap[up]
		i = up
	}
}

func (l *longPiece) pop() uint64 {
	top, last := l.heap[0], len(l.heap)-1
	l.heap[0] = l.heap[last]
	l.heap = l.heap[:last]
	l.down(0)
	return top
}

func (l *longPiece) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(l.heap) {
			return
		}
		if child+1 < len(l.heap) && l.heap[child+1] < l.heap[child] {
			child++
		}
		if l.heap[i] <= l.heap[child] {
			return
		}
		l.heap[i], l.heap[child] = l.heap[child], l.heap[i]
		i = child
	}
}

// cacheSlots bounds the cache: 16384 pieces of at most shortPiece bytes, about
// 3 MiB when full.
const cacheSlots = 1 << 14

// cachedPiece is a piece and its tokens; it is never written once stored.
type cachedPiece struct {
	piece string
	ids   []int32
}

// pieceCache remembers pieces in a table with one place for each hash, where
// the latest wins. Readers and writers need no lock: a slot changes as a whole.
type pieceCache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[cachedPiece]
}

func newPieceCache() pieceCache {
	return pieceCache{maphash.MakeSeed(), make([]atomic.Pointer[cachedPiece], cacheSlots)}
}

func (c *pieceCache) slot(piece string) *atomic.Pointer[cachedPiece] {
	return &c.slots[maphash.String(c.seed, piece)%cacheSlots]
}
