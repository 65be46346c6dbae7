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
	numSlots
)

// workspace is the transient memory of a forward pass.
type workspace struct {
	dev   device.Device
	slots [numSlots]device.Memory
	err   error // first failed allocation
}

// bytes returns memory of at least n bytes for s. On failure it remembers the
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
	return mem
}

// tensor returns an uninitialised rows x cols tensor in s.
func (w *workspace) tensor(s slot, t device.DType, rows, cols int) device.Tensor {
	v := device.Tensor{Type: t, Rows: rows, Cols: cols}
	v.Mem = w.memory(s, v.Bytes())
	return v
}

// Bytes returns the bytes held.
func (w *workspace) bytes() int64 {
	var n int64
	for _, m := range w.slots {
		if m != nil {
			n += m.Bytes()
		}
	}
	return n
}

func (w *workspace) free() {
	for i, m := range w.slots {
		if m != nil {
			m.Free()
			w.slots[i] = nil
		}
	}
}
