// Package cpu is the CPU backend: package device's operations on float32
// activations, built on the kernels of package kern.
//
// What this package is not: it plans no pathways and knows no model; and it
// holds no arithmetic inner loops of its own where kern has one. It imports
// packages device and kern, the standard library, and golang.org/x/sys/unix for
// huge pages on Linux.
//
// # Batch invariance
//
// The result of a row is a function of that row, its sequence's cache and the
// weights only: which other rows are in the call, how a prompt was chunked, and
// the number of threads do not change a bit of it. Three habits give this.
//
//   - Work is divided over rows, heads, experts, sequences and output columns,
//     never over a reduction; except the keys of latent attention, whose partial
//     results are always those of blocks at fixed positions, merged in order.
//   - Every element of a matrix product is one chain over k (see kern), so the
//     kernels for a few rows and for many, and any blocking of k, agree.
//   - Keys are processed in blocks that begin at absolute positions (multiples
//     of keyBlock; for gathered keys, of the index in the selection). Keys of a
//     block that a row does not see have weight zero and are not in its sums.
//
// A run that attends to part of the keys (KeyFrom, KeyTo) and is merged later is
// of course another sequence of operations than one that sees them all.
//
// # Structure
//
// An operation checks its arguments, divides itself into items, and runs them on
// the team of workers (team.go). Items take scratch memory from their worker's
// arena (arena.go). Weights are packed into panels of 32 outputs (matrix.go),
// and all products with weights go through one function (product.go). The cache
// is described in cache.go.
package cpu
