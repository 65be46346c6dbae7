package kvcache

import (
	"fmt"

	"latent/device"
)

// pageKey is the tokens of a full page.
type pageKey [device.PageTokens]int32

// node is a full page in the tree. A root has no page and no parent; it lives
// as long as it has children.
type node struct {
	page     int32
	key      pageKey
	parent   *node
	children map[pageKey]*node

	salt       string // of a root
	prev, next *node  // in Cache.idle
}

func (n *node) child(key pageKey) *node {
	if n == nil {
		return nil
	}
	return n.children[key]
}

// match holds the pages of the longest cached prefix that leaves a token over.
func (c *Cache) match(salt string, tokens []int32) []int32 {
	var pages []int32
	n := c.roots[salt]
	for len(tokens) > device.PageTokens {
		n = n.child(pageKey(tokens[:device.PageTokens]))
		if n == nil {
			break
		}
		c.hold(n.page)
		pages = append(pages, n.page)
		tokens = tokens[device.PageTokens:]
	}
	return pages
}

// Insert puts the full pages of a sequence in the tree, where later sequences
// with the same salt find them. tokens are the sequence's tokens that the pages
// hold, from position 0; a last page that they do not fill is left out. The
// caller holds the pages, and keeps holding them. Where the tree has a page for
// the same prefix already, the caller's page is exchanged for it, in pages.
func (c *Cache) Insert(salt string, tokens, pages []int32) {
	full := len(tokens) / device.PageTokens
	if full == 0 {
		return
	}
	n := c.roots[salt]
	if n == nil {
		n = &node{page: -1, salt: salt, children: make(map[pageKey]*node)}
		c.roots[salt] = n
	}
	for i, p := range pages[:full] {
		key := pageKey(tokens[i*device.PageTokens:])
		next := n.children[key]
		if next == nil {
			next = c.add(n, key, p)
		} else if next.page != p {
			c.hold(next.page)
			c.letGo(p)
			pages[i] = next.page
		}
		n = next
	}
}

func (c *Cache) add(parent *node, key pageKey, page int32) *node {
	if c.nodes[page] != nil || c.refs[page] == 0 {
		panic(fmt.Sprintf("kvcache: page %d inserted for a second prefix, or without being held", page))
	}
	n := &node{page: page, key: key, parent: parent}
	if parent.children == nil {
		parent.children = make(map[pageKey]*node)
	}
	parent.children[key] = n
	c.nodes[page] = n
	return n
}

// evict frees the cached page that was let go longest ago.
func (c *Cache) evict() {
	n := c.idle.head
	if n == nil || len(n.children) > 0 {
		panic("kvcache: the page let go longest ago is not a leaf")
	}
	c.idle.remove(n)
	delete(n.parent.children, n.key)
	if root := n.parent; root.parent == nil && len(root.children) == 0 {
		delete(c.roots, root.salt)
	}
	c.nodes[n.page] = nil
	c.free = append(c.free, n.page)
}

// Flush frees every cached page and returns how many there were. Pages that
// sequences hold stay in the tree: taking them out would leave sequences that
// share a page to put it back below different parents. So who wants the tree
// empty flushes when nothing runs.
func (c *Cache) Flush() int {
	freed := c.idle.len
	for c.idle.len > 0 {
		c.evict()
	}
	return freed
}

// list is a doubly linked list of nodes.
type list struct {
	head, tail *node
	len        int
}

func (l *list) append(n *node) {
	n.prev, n.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = n
	} else {
		l.head = n
	}
	l.tail = n
	l.len++
}

func (l *list) remove(n *node) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.head = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.tail = n.prev
	}
	n.prev, n.next = nil, nil
	l.len--
}
