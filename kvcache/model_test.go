package kvcache

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"latent/device"
)

// tokensOf spells pages as letters: every letter of s is a page full of that
// letter's code, and tail tokens of 7 follow.
func tokensOf(s string, tail int) []int32 {
	var tokens []int32
	for _, letter := range s {
		for range device.PageTokens {
			tokens = append(tokens, int32(letter))
		}
	}
	for range tail {
		tokens = append(tokens, 7)
	}
	return tokens
}

// machine drives a Cache beside a naive account of it. A path is the salt, a
// colon, and one letter per page.
type machine struct {
	cache *Cache
	pages int
	seqs  []*sequence

	entries  map[string]*entry // by path: what the tree should hold
	clock    int
	contents map[int32]string // by page: path of what was last computed into it
	free     map[int32]bool

	queries, hits, evictions int64
}

type sequence struct {
	salt, path string // without salt
	tail       int
	table      []int32
}

type entry struct {
	page    int32
	holders int
	letGo   int
}

func newMachine(pages int) *machine {
	m := &machine{
		cache: New(pages), pages: pages,
		entries: map[string]*entry{}, contents: map[int32]string{}, free: map[int32]bool{},
	}
	for p := range pages {
		m.free[int32(p)] = true
	}
	return m
}

// available counts free pages, and entries without holders.
func (m *machine) available() int {
	n := len(m.free)
	for _, e := range m.entries {
		if e.holders == 0 {
			n++
		}
	}
	return n
}

// reserveFree makes n pages free in the account, evicting the leaf that was let go
// first, again and again.
func (m *machine) reserveFree(t *rapid.T, n int) {
	for len(m.free) < n {
		victim := ""
		for path, e := range m.entries {
			leaf := true
			for other := range m.entries {
				leaf = leaf && (len(other) <= len(path) || !strings.HasPrefix(other, path))
			}
			if leaf && e.holders == 0 && (victim == "" || e.letGo < m.entries[victim].letGo) {
				victim = path
			}
		}
		if victim == "" {
			t.Fatalf("nothing to evict, %d of %d pages free", len(m.free), n)
		}
		m.free[m.entries[victim].page] = true
		delete(m.entries, victim)
		m.evictions++
	}
}

func (m *machine) allocated(t *rapid.T, pages []int32) {
	for _, p := range pages {
		if !m.free[p] {
			t.Fatalf("page %d was handed out but is not free", p)
		}
		delete(m.free, p)
		delete(m.contents, p)
	}
}

// matched is the naive longest match, in pages.
func (m *machine) matched(salt, path string, tail int) int {
	n := 0
	for n < len(path) && m.entries[salt+":"+path[:n+1]] != nil {
		n++
	}
	if n == len(path) && tail == 0 && n > 0 {
		n--
	}
	return n
}

func (m *machine) Acquire(t *rapid.T) {
	s := &sequence{
		salt: rapid.SampledFrom([]string{"", "salt"}).Draw(t, "salt"),
		path: rapid.StringMatching(`[ab]{0,4}`).Draw(t, "path"),
		tail: rapid.IntRange(0, device.PageTokens-1).Draw(t, "tail"),
	}
	tokens := tokensOf(s.path, s.tail)
	total := PagesFor(len(tokens)) + rapid.IntRange(0, 2).Draw(t, "extra")
	reserve := rapid.IntRange(0, 2).Draw(t, "reserve")

	n := m.matched(s.salt, s.path, s.tail)
	for i := range n {
		m.entries[s.salt+":"+s.path[:i+1]].holders++
	}
	fits := total-n+reserve <= m.available()
	table, cached, err := m.cache.Acquire(s.salt, tokens, total, reserve)
	if fits != (err == nil) {
		t.Fatalf("Acquire of %d pages beside %d matched, %d available: %v", total, n, m.available(), err)
	}
	if err != nil {
		var full *NoPagesError
		if !errors.As(err, &full) || full.Need != total-n+reserve || full.Available != m.available() {
			t.Fatalf("error %v, want need %d, available %d", err, total-n+reserve, m.available())
		}
		m.letGoOf(s.salt, s.path[:n])
		return
	}
	if cached != n*device.PageTokens || len(table) != total {
		t.Fatalf("Acquire(%q, %q+%d) gave %d cached tokens, %d pages; want %d, %d",
			s.salt, s.path, s.tail, cached, len(table), n*device.PageTokens, total)
	}
	for i := range n {
		if got, want := m.contents[table[i]], s.salt+":"+s.path[:i+1]; got != want {
			t.Fatalf("matched page %d holds %q, want %q", table[i], got, want)
		}
	}
	m.reserveFree(t, total-n)
	m.allocated(t, table[n:])
	for i := n; i < len(s.path); i++ { // prefill
		m.contents[table[i]] = s.salt + ":" + s.path[:i+1]
	}
	m.queries += int64(len(tokens))
	m.hits += int64(cached)
	s.table = table
	m.seqs = append(m.seqs, s)
}

func (m *machine) pick(t *rapid.T) (int, *sequence) {
	if len(m.seqs) == 0 {
		t.Skip("no sequence")
	}
	i := rapid.IntRange(0, len(m.seqs)-1).Draw(t, "seq")
	return i, m.seqs[i]
}

// Grow allocates a page and computes into it.
func (m *machine) Grow(t *rapid.T) {
	_, s := m.pick(t)
	if len(s.table) > len(s.path) {
		t.Skip("has room")
	}
	avail := m.available()
	pages, err := m.cache.Allocate(1)
	if (err == nil) != (avail >= 1) {
		t.Fatalf("Allocate(1) with %d available: %v", avail, err)
	}
	if err != nil {
		return
	}
	m.reserveFree(t, 1)
	m.allocated(t, pages)
	s.path += rapid.SampledFrom([]string{"a", "b"}).Draw(t, "letter")
	s.tail = 0
	s.table = append(s.table, pages[0])
	m.contents[pages[0]] = s.salt + ":" + s.path
}

func (m *machine) Insert(t *rapid.T) {
	_, s := m.pick(t)
	before := slices.Clone(s.table)
	m.cache.Insert(s.salt, tokensOf(s.path, s.tail), s.table)
	for i := range s.path {
		path := s.salt + ":" + s.path[:i+1]
		switch e := m.entries[path]; {
		case e == nil:
			m.entries[path] = &entry{page: before[i], holders: m.holders(before[i])}
		case e.page != before[i]: // exchanged, in s.table too
			e.holders++
			if m.holders(before[i]) == 0 {
				m.free[before[i]] = true
			}
		}
		if got, want := m.contents[s.table[i]], path; got != want {
			t.Fatalf("after Insert page %d holds %q, want %q", s.table[i], got, want)
		}
	}
}

// holders counts the sequences whose table has the page.
func (m *machine) holders(p int32) int {
	n := 0
	for _, s := range m.seqs {
		if slices.Contains(s.table, p) {
			n++
		}
	}
	return n
}

// letGoOf lowers the holders of every entry along a path, deepest first.
func (m *machine) letGoOf(salt, path string) {
	for i := len(path); i > 0; i-- {
		e := m.entries[salt+":"+path[:i]]
		e.holders--
		if e.holders == 0 {
			m.clock++
			e.letGo = m.clock
		}
	}
}

func (m *machine) Release(t *rapid.T) {
	i, s := m.pick(t)
	m.cache.Release(s.table)
	m.seqs = slices.Delete(m.seqs, i, i+1)
	for j := len(s.table) - 1; j >= 0; j-- {
		p := s.table[j]
		var at *entry
		for _, e := range m.entries {
			if e.page == p {
				at = e
			}
		}
		switch {
		case at != nil:
			at.holders--
			if at.holders == 0 {
				m.clock++
				at.letGo = m.clock
			}
		case m.holders(p) == 0:
			m.free[p] = true
		}
	}
}

func (m *machine) Flush(t *rapid.T) {
	freed := 0
	for path, e := range m.entries {
		if e.holders == 0 {
			m.free[e.page] = true
			delete(m.entries, path)
			freed++
		}
	}
	if got := m.cache.Flush(); got != freed {
		t.Fatalf("Flush freed %d pages, want %d", got, freed)
	}
}

// Check compares the cache with the account.
func (m *machine) Check(t *rapid.T) {
	if err := m.cache.Check(); err != nil {
		t.Fatal(err)
	}
	got := map[string]int32{}
	var walk func(path string, n *node)
	walk = func(path string, n *node) {
		for key, child := range n.children {
			p := path + string(rune(key[0]))
			got[p] = child.page
			walk(p, child)
		}
	}
	for salt, root := range m.cache.roots {
		walk(salt+":", root)
	}
	want := map[string]int32{}
	cached := 0
	for path, e := range m.entries {
		want[path] = e.page
		if e.holders == 0 {
			cached++
		}
		if int(m.cache.refs[e.page]) != e.holders {
			t.Fatalf("%q: page %d has %d holders, want %d", path, e.page, m.cache.refs[e.page], e.holders)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("tree differs (-want +got):\n%s", diff)
	}
	stats := Stats{
		Pages: m.pages, Free: len(m.free), Cached: cached, Used: m.pages - len(m.free) - cached,
		QueryTokens: m.queries, HitTokens: m.hits, Evictions: m.evictions,
	}
	if diff := cmp.Diff(stats, m.cache.Stats()); diff != "" {
		t.Fatalf("stats differ (-want +got):\n%s", diff)
	}
	free := slices.Sorted(slices.Values(m.cache.free))
	if want := slices.Sorted(maps.Keys(m.free)); !slices.Equal(free, want) {
		t.Fatalf("free pages %v, want %v", free, want)
	}
}

func TestAgainstNaiveAccount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(rapid.IntRange(1, 12).Draw(t, "pages"))
		t.Repeat(map[string]func(*rapid.T){
			"Acquire":  m.Acquire,
			"Acquire2": m.Acquire,
			"Grow":     m.Grow,
			"Insert":   m.Insert,
			"Insert2":  m.Insert,
			"Release":  m.Release,
			"Flush":    m.Flush,
			"":         m.Check,
		})
		for len(m.seqs) > 0 {
			m.cache.Release(m.seqs[0].table)
			m.seqs = m.seqs[1:]
		}
		if s := m.cache.Stats(); s.Used != 0 {
			t.Fatalf("%d pages in use after every sequence let go", s.Used)
		}
	})
}

func TestReleaseOfPageNotHeldPanics(t *testing.T) {
	c := New(2)
	pages, _ := c.Allocate(1)
	c.Release(pages)
	defer func() {
		if r := fmt.Sprint(recover()); !strings.Contains(r, "not held") {
			t.Errorf("second release: %v, want a panic about a page not held", r)
		}
	}()
	c.Release(pages)
}
