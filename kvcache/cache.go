package kvcache

import (
	"fmt"

	"latent/device"
)

// Cache is the account of a number of pages.
type Cache struct {
	refs  []int32 // by page: sequences that hold it
	nodes []*node // by page: its place in the tree, nil if it has none
	free  []int32 // a stack
	roots map[string]*node
	idle  list // nodes that nobody holds, in the order they were let go
	stats Stats
}

// Stats describes a cache: the state of its pages now, and counts since it was
// made.
type Stats struct {
	Pages, Used, Cached, Free int

	QueryTokens int64 // tokens looked up in the tree
	HitTokens   int64 // of these, tokens found
	Evictions   int64 // pages taken from the tree to be used again
}

// NoPagesError says that pages were asked for that cannot be had.
type NoPagesError struct {
	Need      int // pages asked for, or to be left over
	Available int // free and cached pages
}

func (e *NoPagesError) Error() string {
	return fmt.Sprintf("kvcache: %d pages needed, %d available", e.Need, e.Available)
}

// PagesFor returns how many pages hold tokens tokens.
func PagesFor(tokens int) int {
	return (tokens + device.PageTokens - 1) / device.PageTokens
}

// New returns the account of pages pages, all free.
func New(pages int) *Cache {
	c := &Cache{
		refs:  make([]int32, pages),
		nodes: make([]*node, pages),
		free:  make([]int32, pages),
		roots: make(map[string]*node),
	}
	for i := range c.free { // page 0 on top
		c.free[i] = int32(pages - 1 - i)
	}
	return c
}

// Stats returns the state of the cache.
func (c *Cache) Stats() Stats {
	s := c.stats
	s.Pages = len(c.refs)
	s.Free = len(c.free)
	s.Cached = c.idle.len
	s.Used = s.Pages - s.Free - s.Cached
	return s
}

// Available returns how many pages Allocate can give: those free and those
// cached.
func (c *Cache) Available() int { return len(c.free) + c.idle.len }

// Acquire gives a new sequence its pages: it holds the longest cached prefix of
// tokens in whole pages, leaving at least one token over, and allocates as many
// pages more as make pages in all. At least reserve pages must be available
// afterwards. It returns the pages in the order of positions and how many
// leading tokens they hold already. Unless all of it can be had, it takes
// nothing, counts nothing, and the error is a *NoPagesError.
func (c *Cache) Acquire(salt string, tokens []int32, pages, reserve int) ([]int32, int, error) {
	table := c.match(salt, tokens)
	cached := len(table) * device.PageTokens
	fresh := pages - len(table)
	if fresh+reserve > c.Available() {
		err := &NoPagesError{Need: fresh + reserve, Available: c.Available()}
		c.Release(table)
		return nil, 0, err
	}
	for range fresh {
		table = append(table, c.take())
	}
	c.stats.QueryTokens += int64(len(tokens))
	c.stats.HitTokens += int64(cached)
	return table, cached, nil
}

// Allocate returns n pages of undefined contents, held once, evicting cached
// pages as needed. If there are not as many it takes none and returns a
// *NoPagesError.
func (c *Cache) Allocate(n int) ([]int32, error) {
	if n > c.Available() {
		return nil, &NoPagesError{Need: n, Available: c.Available()}
	}
	pages := make([]int32, n)
	for i := range pages {
		pages[i] = c.take()
	}
	return pages, nil
}

// take returns an available page, held once.
func (c *Cache) take() int32 {
	if len(c.free) == 0 {
		c.evict()
		c.stats.Evictions++
	}
	p := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	c.refs[p] = 1
	return p
}

// Release lets go of a sequence's pages, given in the order of positions. Those
// in the tree stay there as long as there is room; the others become free.
func (c *Cache) Release(pages []int32) {
	for i := len(pages) - 1; i >= 0; i-- { // deepest first: the second invariant
		c.letGo(pages[i])
	}
}

func (c *Cache) letGo(p int32) {
	if c.refs[p] <= 0 {
		panic(fmt.Sprintf("kvcache: page %d released but not held", p))
	}
	c.refs[p]--
	if c.refs[p] > 0 {
		return
	}
	if n := c.nodes[p]; n != nil {
		c.idle.append(n)
	} else {
		c.free = append(c.free, p)
	}
}

func (c *Cache) hold(p int32) {
	if c.refs[p] == 0 {
		c.idle.remove(c.nodes[p])
	}
	c.refs[p]++
}
