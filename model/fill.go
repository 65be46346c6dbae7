package model

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"latent/device"
)

// FillCache stores random latents and index keys in every slot of the attention
// cache, for measurements: as if something had been computed before.
func (m *Model) FillCache(seed uint64) error {
	if m.cache == nil {
		return fmt.Errorf("model: fill the attention cache: there is none")
	}
	const most = 64 // pages at a time
	rng := rand.New(rand.NewPCG(seed, 0))
	pages := m.cache.Spec().Pages
	rows := min(most, pages) * device.PageTokens
	c := m.cfg
	m.work.err = nil
	u := m.work.tensor(slotLatent, m.act, rows, c.Latent+c.RopeDim)
	key := u
	if c.Indexer != nil {
		key = m.work.tensor(slotIndexKey, m.act, rows, c.Indexer.Dim)
	}
	if m.work.err != nil {
		return m.work.err
	}
	m.dev.Upload(u, normalBytes(rng, u.Type, u.Rows*u.Cols))
	if c.Indexer != nil {
		m.dev.Upload(key, normalBytes(rng, key.Type, key.Rows*key.Cols))
	}
	for first := 0; first < pages; first += most {
		n := min(most, pages-first) * device.PageTokens
		step := device.Step{Tokens: make([]int32, n), Positions: make([]int32, n), Slots: make([]int32, n)}
		seq := device.Seq{Rows: n}
		for i := range n {
			step.Positions[i] = int32(i % m.opts.MaxContext)
			step.Slots[i] = int32(first*device.PageTokens + i)
		}
		for p := first; p < first+n/device.PageTokens; p++ {
			seq.Pages = append(seq.Pages, int32(p))
		}
		step.Seqs = []device.Seq{seq}
		m.dev.Begin(&step)
		for l := range m.layers {
			w := &m.layers[l]
			m.dev.StoreLatent(m.cache, l, u.Slice(0, n), w.latentNorm, latentEps, m.rope)
			if w.index != nil {
				m.dev.StoreIndexKey(m.cache, l, key.Slice(0, n), w.index.keyNorm, w.index.keyBias, indexEps, m.irope)
			}
		}
	}
	return m.dev.Sync()
}

// normalBytes returns n elements of F32 or BF16 from the normal distribution.
// They repeat after a number of elements that no row length divides, so that
// rows differ.
func normalBytes(rng *rand.Rand, t device.DType, n int) []byte {
	const period = 1<<16 + 1 // a prime
	size := t.Size()
	out := make([]byte, n*size)
	for i := range min(n, period) {
		x := float32(rng.NormFloat64())
		if t == device.F32 {
			binary.NativeEndian.PutUint32(out[4*i:], math.Float32bits(x))
		} else {
			binary.NativeEndian.PutUint16(out[2*i:], device.BF16FromF32(x))
		}
	}
	for done := min(n, period) * size; done < len(out); {
		done += copy(out[done:], out[:done])
	}
	return out
}
