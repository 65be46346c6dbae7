package task

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// Seed names a random stream: a hash of the run's seed, the task, the item and
// the repeat. Requests send it modulo 2^31.
func Seed(seed uint64, task, item string, repeat int) uint64 {
	key := streamKey(seed, task, item, repeat)
	return binary.LittleEndian.Uint64(key[:])
}

// stream returns the random source of that name.
func stream(seed uint64, task, item string, repeat int) *rand.Rand {
	return rand.New(rand.NewChaCha8(streamKey(seed, task, item, repeat)))
}

// streamKey hashes the four parts, each with its length, so that no two lists
// of parts run together.
func streamKey(seed uint64, task, item string, repeat int) [32]byte {
	b := binary.LittleEndian.AppendUint64(nil, seed)
	for _, s := range []string{task, item} {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	return sha256.Sum256(binary.LittleEndian.AppendUint64(b, uint64(repeat)))
}

// sample returns at most n of the given indices, those with the smallest
// hashes of their IDs, in the order given: a further item may push one out, but
// never changes which of the others stands before which. n <= 0 means all.
func sample(indices []int, n int, seed uint64, task string, id func(int) string) []int {
	if n <= 0 || n >= len(indices) {
		return indices
	}
	rank := map[int]uint64{}
	for _, i := range indices {
		rank[i] = Seed(seed, task+"/sample", id(i), 0)
	}
	chosen := slices.Clone(indices)
	slices.SortFunc(chosen, func(a, b int) int { return cmp.Or(cmp.Compare(rank[a], rank[b]), cmp.Compare(a, b)) })
	chosen = chosen[:n]
	slices.Sort(chosen)
	return chosen
}
