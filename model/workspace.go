package model

import (
	"fmt"

	"latent/device"
)

// slot names a piece of the workspace. A slot is reused by every layer and
// grows to the largest size asked for, which the step size and the byte bounds
// of Options limit.
type slot int

const (
	slotHidden slot = iota
	slotNormed
	slotQueryA
	slotQuery
	slotLatent
	slotAttn
	slotLSE
	slotPart
	slotPartLSE
	slotKV
	slotAbsorbed
	slotLatentOut
	slotLatentLSE
	slotIndexKey
	slotIndexInput
	slotIndexQuery
	slotIndexWeights
	slotScores
	slotGateUp
	slotInner
	slotRouterLogits
	slotRouterIDs
	slotRouterWeights
	slotLast
	slotLastNormed
	slotLogits
	slotIDs
	numSlots
)

// workspace is the transient memory of a forward pass.
type workspace struct {
	dev   device.Device
	slots [numSlots]device.Memory
	err   error // first failed allocation
	moved int   // counts slots that took other memory
}

// memory returns memory of at least n bytes for s. On failure it remembers the
// error and returns nil; operations must not run then.
func (w *workspace) memory(s slot, n int64) device.Memory {
	if mem := w.slots[s]; mem != nil && mem.Bytes() >= n {
		return mem
	}
	if w.slots[s] != nil {
		w.slots[s].Free()
		w.slots[s] = nil
	}
	mem, err := w.dev.Alloc(max(n, 1))
	if err != nil {
		if w.err == nil {
			w.err = fmt.Errorf("model: workspace of %d bytes: %w", n, err)
		}
		return nil
	}
	w.slots[s] = mem
	w.moved++
	return mem
}

// tensor returns an uninitialised rows x cols tensor in s.
func (w *workspace) tensor(s slot, t device.DType, rows, cols int) device.Tensor {
	v := device.Tensor{Type: t, Rows: rows, Cols: cols}
	v.Mem = w.memory(s, v.Bytes())
	return v
}

func (w *workspace) free() {
	for i, m := range w.slots {
		if m != nil {
			m.Free()
			w.slots[i] = nil
		}
	}
}

// WorkspaceBytes returns a bound on the transient memory of a step of so many
// tokens, of which so many have their logits computed, the host's copy of them
// included. What a device needs within one operation is not part of it.
func (m *Model) WorkspaceBytes(tokens, logits int) int64 {
	c, o := m.cfg, m.opts
	perRow := 2*c.Hidden + max(c.QueryRank, 1) + c.Heads*(c.Nope+c.RopeDim) + c.Latent + c.RopeDim +
		2*c.Heads*c.Value + 3*max(c.Inter, c.Shared*c.ExpertDim)
	// In 4 bytes each: three log-sum-exps, the router.
	exact := 3*c.Heads + c.Experts + 2*c.Router.Choose
	if ix := c.Indexer; ix != nil {
		perRow += ix.Dim + ix.Heads*ix.Dim + max(c.Hidden, c.QueryRank)
		exact += ix.Heads + ix.TopK + roundUp(o.MaxContext, 4096)/32 // both forms of selection
	}
	rows := int64(tokens)
	total := rows*int64(perRow)*int64(m.act.Size()) + rows*int64(exact)*4
	// Of logit rows: the hidden state and its norm; the logits on device and host.
	total += int64(logits) * (2*int64(c.Hidden)*int64(m.act.Size()) + 2*4*int64(c.Vocab))
	return total + o.ExpandBytes + o.ScoreBytes + o.AbsorbBytes
}
