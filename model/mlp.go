package model

import "latent/device"

// mlp adds the layer's MLP to h: one dense MLP, or routed experts plus the
// shared ones. x is the normed input [T, d].
func (m *Model) mlp(l int, h, x device.Tensor) {
	c, w := m.cfg, &m.layers[l]
	if w.gateUp != nil {
		inner := w.gateUp.Rows() / 2
		gu := m.work.tensor(slotGateUp, m.act, x.Rows, 2*inner)
		act := m.work.tensor(slotInner, m.act, x.Rows, inner)
		m.dev.Linear(gu, x, w.gateUp, false)
		m.dev.SwiGLU(act, gu)
		m.dev.Linear(h, act, w.down, true)
	}
	m.timing.stage(l, StageMLP)
	if w.router == nil {
		return
	}
	logits := m.work.tensor(slotRouterLogits, device.F32, x.Rows, c.Experts)
	ids := m.work.tensor(slotRouterIDs, device.I32, x.Rows, c.Router.Choose)
	weights := m.work.tensor(slotRouterWeights, device.F32, x.Rows, c.Router.Choose)
	m.dev.Linear(logits, x, w.router, false)
	m.dev.Route(ids, weights, logits, w.routerBias, m.router)
	m.timing.stage(l, StageRoute)
	m.dev.MoE(h, x, ids, weights, w.experts)
	m.timing.stage(l, StageExperts)
}
