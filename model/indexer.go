package model

import (
	"fmt"
	"math"

	"latent/device"
)

// indexEps is the epsilon of the indexer's k_norm, fixed in the reference.
const indexEps = 1e-6

// storeIndexKeys stores the index keys of all new tokens. It runs even while
// every context is short enough to skip scoring: a later row will need them.
func (m *Model) storeIndexKeys(l int, x device.Tensor) {
	ix := m.layers[l].index
	k := m.work.tensor(slotIndexKey, m.act, x.Rows, m.cfg.Indexer.Dim)
	m.dev.Linear(k, x, ix.key, false)
	m.dev.StoreIndexKey(m.cache, l, k, ix.keyNorm, ix.keyBias, indexEps, m.irope)
}

// selectKeys scores the visible keys of the rows that need a selection and
// selects the best index_topk of each. The selections stay for the layers that
// share this indexer. compressed is the normed output of q_a.
func (m *Model) selectKeys(l int, x, compressed device.Tensor) {
	s, c, ix := &m.sched, m.cfg.Indexer, m.layers[l].index
	// Only the rows that need it are projected.
	in := m.gatherScored(slotIndexInput, compressed)
	q := m.work.tensor(slotIndexQuery, m.act, s.scoreRows, c.Heads*c.Dim)
	m.dev.Linear(q, in, ix.query, false)
	in = m.gatherScored(slotIndexInput, x)
	weights := m.work.tensor(slotIndexWeights, device.F32, s.scoreRows, c.Heads)
	m.dev.Linear(weights, in, ix.weights, false)

	scale := float32(1 / math.Sqrt(float64(c.Heads)*float64(c.Dim)))
	for i := range s.score {
		chunk := &s.score[i]
		rows := device.RunRows(chunk.runs)
		cq, cw := q.Slice(chunk.from, chunk.from+rows), weights.Slice(chunk.from, chunk.from+rows)
		m.dev.IndexQuery(m.cache, cq, cw, scale, m.irope, chunk.runs)
		scores := m.work.tensor(slotScores, device.F32, rows, chunk.columns)
		m.dev.IndexScores(scores, cq, cw, m.cache, l, chunk.runs)
		m.timing.stage(l, StageIndex)
		m.dev.SelectTopK(m.selections[chunk.form], scores, c.TopK, chunk.runs)
		m.timing.stage(l, StageTopK)
	}
}

// gatherScored returns the scored rows of src, without copying when they are
// all of them.
func (m *Model) gatherScored(s slot, src device.Tensor) device.Tensor {
	m.scoredRows = m.scoredRows[:0]
	identity := true
	for i := range m.sched.score {
		for _, r := range m.sched.score[i].runs {
			for j := range r.Rows {
				identity = identity && r.Row+j == len(m.scoredRows)
				m.scoredRows = append(m.scoredRows, int32(r.Row+j))
			}
		}
	}
	if identity && len(m.scoredRows) == src.Rows {
		return src
	}
	dst := m.work.tensor(s, src.Type, len(m.scoredRows), src.Cols)
	m.dev.Gather(dst, src, m.scoredRows)
	return dst
}

// reserveSelections makes selections large enough for the batch.
func (m *Model) reserveSelections() error {
	need := [2]int{device.SelectIndices: m.sched.indexRows, device.SelectMask: m.sched.maskRows}
	for form, rows := range need {
		has := &m.selectionSize[form]
		if rows == 0 || rows <= has.rows && m.sched.context <= has.keys {
			continue
		}
		if m.selections[form] != nil {
			m.selections[form].Free()
			m.selections[form] = nil
		}
		// Contexts grow by a token at a time: round up so as not to follow.
		has.rows, has.keys = max(rows, has.rows), max(roundUp(m.sched.context, 4096), has.keys)
		sel, err := m.dev.NewSelection(device.SelectionForm(form), has.rows, has.keys, m.cfg.Indexer.TopK)
		if err != nil {
			*has = selectionSize{}
			return fmt.Errorf("model: selection for %d rows of %d keys: %w", rows, m.sched.context, err)
		}
		m.selections[form] = sel
		m.selectionsMade++
	}
	return nil
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }
