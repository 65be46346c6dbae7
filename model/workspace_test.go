package model_test

import (
	"testing"

	"latent/checkpoint"
	"latent/device"
	"latent/model"
	"latent/pathway"
)

// accountant counts the memory that is taken while it is watching.
type accountant struct {
	device.Device
	watching bool
	bytes    int64
}

func (a *accountant) Alloc(bytes int64) (device.Memory, error) {
	if a.watching {
		a.bytes += bytes
	}
	return a.Device.Alloc(bytes)
}

func (a *accountant) NewSelection(form device.SelectionForm, rows, keys, topk int) (device.Selection, error) {
	if a.watching {
		row := int64(4 * topk)
		if form == device.SelectMask {
			row = int64(keys+31) / 32 * 4
		}
		a.bytes += int64(rows) * row
	}
	return a.Device.NewSelection(form, rows, keys, topk)
}

// TestWorkspaceBytes runs steps that need every piece of the workspace, under
// bounds small enough that key chunks, chunks of scores and chunks of absorbed
// rows are many, and wants what they take, the host's copy of the logits
// included, to stay within WorkspaceBytes.
func TestWorkspaceBytes(t *testing.T) {
	for _, dir := range goldenSets(t) {
		t.Run(dir, func(t *testing.T) {
			var a *accountant
			var kvBytes int64 // of one expanded key, and a little
			g := openGolden(t, dir, variant{
				config: func(c *checkpoint.Config) { kvBytes = 5 * int64(c.Heads*(c.Nope+c.Value)+c.RopeDim) },
				device: func(d device.Device) device.Device {
					a = &accountant{Device: d}
					return a
				},
				opts: func(o *model.Options) {
					o.ExpandBytes, o.ScoreBytes, o.AbsorbBytes = 128*kvBytes, 1<<14, 1<<16
				},
			})
			p := g.planner(t, pathway.Config{WorkspaceBytes: g.model.Options().ExpandBytes})
			// One prompt expanded, in several waves, and one absorbed.
			const rows = 400
			b := &model.Batch{Plan: new(pathway.Plan), Extents: []pathway.Extent{
				{New: rows, Policy: pathway.PolicyMHA}, {New: rows, Policy: pathway.PolicyMLA}}}
			for s := range b.Extents {
				var pages []int32
				for i := range (rows + device.PageTokens - 1) / device.PageTokens {
					pages = append(pages, int32(2*i+s))
				}
				b.Step.Seqs = append(b.Step.Seqs, device.Seq{Row: s * rows, Rows: rows, Pages: pages})
				for i := range rows {
					b.Step.Tokens = append(b.Step.Tokens, int32(i%g.cfg.Vocab))
					b.Step.Positions = append(b.Step.Positions, int32(i))
					b.Step.Slots = append(b.Step.Slots, pages[i/device.PageTokens]*device.PageTokens+int32(i%device.PageTokens))
					b.LogitRows = append(b.LogitRows, int32(s*rows+i))
				}
			}
			p.Plan(b.Extents, b.Plan)
			if len(b.Plan.Waves) < 2 {
				t.Fatalf("%d waves, want several", len(b.Plan.Waves))
			}
			a.watching = true
			logits, err := g.model.Forward(b, nil)
			if err != nil {
				t.Fatal(err)
			}
			taken, bound := a.bytes+4*int64(len(logits)), g.model.WorkspaceBytes(len(b.Step.Tokens), len(b.LogitRows))
			t.Logf("%d bytes of %d", taken, bound)
			if taken > bound {
				t.Errorf("a step took %d bytes, the bound is %d", taken, bound)
			}
			if taken < bound/2 {
				t.Errorf("a step took %d bytes, less than half the bound of %d: one of them is miscounted", taken, bound)
			}
		})
	}
}
