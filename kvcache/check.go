package kvcache

import "fmt"

// Check returns an error if the account is inconsistent. It visits everything;
// it is meant for tests, at rest and between steps.
func (c *Cache) Check() error {
	state := make([]string, len(c.refs))
	note := func(p int32, s string) error {
		if state[p] != "" {
			return fmt.Errorf("kvcache: page %d is %s and %s", p, state[p], s)
		}
		state[p] = s
		return nil
	}
	for _, p := range c.free {
		if err := note(p, "free"); err != nil {
			return err
		}
		if c.refs[p] != 0 || c.nodes[p] != nil {
			return fmt.Errorf("kvcache: free page %d has %d holders, in the tree: %t", p, c.refs[p], c.nodes[p] != nil)
		}
	}
	order := make(map[*node]int)
	for n, prev := c.idle.head, (*node)(nil); n != nil; prev, n = n, n.next {
		if n.prev != prev {
			return fmt.Errorf("kvcache: broken link before page %d", n.page)
		}
		if err := note(n.page, "cached"); err != nil {
			return err
		}
		if c.refs[n.page] != 0 || c.nodes[n.page] != n {
			return fmt.Errorf("kvcache: cached page %d has %d holders, in the tree: %t", n.page, c.refs[n.page], c.nodes[n.page] == n)
		}
		order[n] = len(order)
	}
	if len(order) != c.idle.len {
		return fmt.Errorf("kvcache: %d cached pages counted as %d", len(order), c.idle.len)
	}
	for p, r := range c.refs {
		if r > 0 {
			if err := note(int32(p), "used"); err != nil {
				return err
			}
		}
		if state[p] == "" {
			return fmt.Errorf("kvcache: page %d is lost, %d holders", p, r)
		}
	}
	inTree := 0
	for salt, root := range c.roots {
		if root.salt != salt || len(root.children) == 0 {
			return fmt.Errorf("kvcache: root %q of salt %q has %d children", root.salt, salt, len(root.children))
		}
		n, err := c.checkBelow(root, order)
		if err != nil {
			return err
		}
		inTree += n
	}
	for p, n := range c.nodes {
		if n != nil {
			inTree--
			if n.page != int32(p) {
				return fmt.Errorf("kvcache: page %d leads to the node of page %d", p, n.page)
			}
		}
	}
	if inTree != 0 {
		return fmt.Errorf("kvcache: tree and pages differ by %d nodes", inTree)
	}
	return nil
}

// checkBelow checks the first two invariants below n and counts the nodes.
func (c *Cache) checkBelow(n *node, order map[*node]int) (int, error) {
	count := 0
	for key, child := range n.children {
		if child.parent != n || child.key != key || c.nodes[child.page] != child {
			return 0, fmt.Errorf("kvcache: page %d is misplaced below page %d", child.page, n.page)
		}
		if n.parent != nil && c.refs[child.page] > c.refs[n.page] {
			return 0, fmt.Errorf("kvcache: page %d has %d holders, page %d above it %d", child.page, c.refs[child.page], n.page, c.refs[n.page])
		}
		if n.parent != nil && c.refs[n.page] == 0 && order[child] > order[n] {
			return 0, fmt.Errorf("kvcache: page %d was let go after page %d above it", child.page, n.page)
		}
		below, err := c.checkBelow(child, order)
		if err != nil {
			return 0, err
		}
		count += 1 + below
	}
	return count, nil
}
