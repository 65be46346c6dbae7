// Package kvcache keeps account of the pages of the attention cache: which are
// free, which are held by running sequences, and which hold the prefix of an
// earlier sequence that a later one can share.
//
// It knows page numbers and token ids only. The memory behind a page (latents
// and index keys of device.PageTokens tokens, in every layer) belongs to the
// device; the tokens are written by the model. It imports package device for
// the page size, and the standard library.
//
// # Pages
//
// A page is in one of three states:
//
//	used    held by at least one sequence (it may be in the tree too)
//	cached  held by nobody, kept in the prefix tree
//	free    neither
//
// [Cache.Allocate] hands out free pages and evicts cached ones when there are
// not enough, so used + cached + free is always the number of pages, and
// cached + free is always what can be had: no cached page is out of reach.
//
// # Tree
//
// One tree per cache salt. A node is one full page; it is found under its
// parent by its tokens, so the path from the root spells a prefix, and equal
// paths mean equal contents. Only full pages are shared: a full page is never
// written again, so sharing needs no copy and no lock. Of a page that matches
// in part nothing is taken.
//
// A match always leaves at least one token over, because a model that is given
// nothing to compute gives no logits. A prompt that is cached to its last token
// therefore loses the last page of the match: computing its last token
// alone would write into a page that others read.
//
// # Invariants
//
//  1. A sequence that holds a page of the tree holds all pages above it.
//  2. Of the pages in the tree that nobody holds, those further down a path
//     were let go no later than those above.
//  3. Hence the page that was let go longest ago is a leaf.
//
// Evicting the least recently used leaf is therefore taking the head of a list:
// unheld pages are appended when they are let go, deepest first, and unlinked
// when they are matched. The obvious way, a heap of the leaves by time of last
// use, costs a logarithm for every release and has to put in a parent whose
// last child goes; scanning for leaves when pages run out costs the whole tree
// at the worst moment.
//
// The first invariant needs care when two sequences compute the same prefix at
// the same time, each into pages of its own. The first to call [Cache.Insert]
// puts its pages in the tree. If the second kept its duplicates and hung its
// further pages below the first's, it would hold a page of the tree without
// those above, which could neither be evicted nor counted on. So Insert
// exchanges duplicates: the second sequence gets the pages of the tree, and its
// own are free at once.
//
// A Cache is used by one goroutine, that of the engine's loop.
package kvcache
