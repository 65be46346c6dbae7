package model

import "latent/device"

// latentEps is the epsilon of q_a_layernorm and kv_a_layernorm. It is fixed:
// the configuration's rms_norm_eps does not apply to them (Hugging Face
// transformers, modeling_deepseek_v3).
const latentEps = 1e-6

// attention adds the attention of layer l to h. x is the layer's normed input
// [T, d].
func (m *Model) attention(l int, h, x device.Tensor) {
	c, w, s := m.cfg, &m.layers[l], &m.sched
	tokens := h.Rows

	// Queries: q_a → norm → q_b, or one projection. The compressed query also
	// feeds the indexer.
	q := m.work.tensor(slotQuery, m.act, tokens, c.Heads*(c.Nope+c.RopeDim))
	compressed := x
	if w.queryA != nil {
		compressed = m.work.tensor(slotQueryA, m.act, tokens, c.QueryRank)
		m.dev.Linear(compressed, x, w.queryA, false)
		m.dev.RMSNorm(compressed, compressed, w.queryNorm, latentEps)
	}
	m.dev.Linear(q, compressed, w.query, false)
	m.dev.RopeQuery(q, c.Heads, m.rope)
	m.timing.stage(l, StageQuery)

	// Latents and index keys of every new token, whatever the pathway.
	u := m.work.tensor(slotLatent, m.act, tokens, c.Latent+c.RopeDim)
	m.dev.Linear(u, x, w.latent, false)
	m.dev.StoreLatent(m.cache, l, u, w.latentNorm, latentEps, m.rope)
	if w.index != nil {
		m.storeIndexKeys(l, x)
	}
	m.timing.stage(l, StageStore)
	m.timing.part(l, stageOther)
	if w.index != nil && s.scoreRows > 0 {
		m.selectKeys(l, x, compressed)
		m.timing.part(l, StageTopK)
	}

	out := m.work.tensor(slotAttn, m.act, tokens, c.Heads*c.Value)
	for i := range s.waves {
		m.expanded(l, &s.waves[i], out, q)
	}
	if len(s.waves) > 0 {
		m.timing.part(l, StageMHA)
	}
	for _, runs := range s.absorb {
		m.absorbed(l, runs, out, q)
	}
	if len(s.absorb) > 0 {
		m.timing.part(l, StageMLA)
	}
	m.dev.Linear(h, out, w.out, true)
	m.timing.stage(l, StageOut)
}

// expanded runs one wave of the MHA family: expand the wave's keys, attend, and
// merge the parts of sequences that span several waves.
func (m *Model) expanded(l int, v *wave, out, q device.Tensor) {
	c, kvb := m.cfg, m.layers[l].kvb
	kv := m.work.memory(slotKV, m.dev.KVBytes(kvb, c.RopeDim, v.keys))
	lse := m.work.tensor(slotLSE, device.F32, out.Rows, c.Heads)
	mask := m.selections[device.SelectMask]
	m.dev.ExpandKV(kv, m.cache, l, kvb, v.ranges)
	m.timing.stage(l, StageExpand)
	if len(v.first) > 0 {
		m.dev.MHA(out, lse, q, kv, kvb, mask, m.scale, v.first)
		m.timing.stage(l, StageMHA)
	}
	if len(v.later) > 0 {
		part := m.work.tensor(slotPart, m.act, out.Rows, out.Cols)
		partLSE := m.work.tensor(slotPartLSE, device.F32, out.Rows, c.Heads)
		m.dev.MHA(part, partLSE, q, kv, kvb, mask, m.scale, v.later)
		m.timing.stage(l, StageMHA)
		m.dev.MergeLSE(out, lse, part, partLSE, v.later)
		m.timing.stage(l, StageMerge)
	}
}

// absorbed runs rows of the MLA family: move kv_b into the query, attend over
// the latents, and bring the result back.
func (m *Model) absorbed(l int, runs []device.Run, out, q device.Tensor) {
	c, kvb := m.cfg, m.layers[l].kvb
	rows := device.RunRows(runs)
	qa := m.work.tensor(slotAbsorbed, m.act, rows, c.Heads*(c.Latent+c.RopeDim))
	z := m.work.tensor(slotLatentOut, m.act, rows, c.Heads*c.Latent)
	lse := m.work.tensor(slotLatentLSE, device.F32, rows, c.Heads)
	m.dev.Absorb(qa, q, kvb, runs)
	m.timing.stage(l, StageAbsorb)
	m.dev.MLA(z, lse, qa, m.cache, l, m.selections[device.SelectIndices], m.scale, runs)
	m.timing.stage(l, StageMLA)
	m.dev.Unabsorb(out, z, kvb, runs)
	m.timing.stage(l, StageUnabsorb)
}

// absorbRowBytes returns the workspace of one absorbed row.
func (m *Model) absorbRowBytes() int64 {
	c := m.cfg
	return int64(c.Heads) * int64(2*c.Latent+c.RopeDim) * int64(m.act.Size())
}
