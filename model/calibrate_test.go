package model_test

import (
	"testing"

	"latent/device"
	"latent/pathway"
)

// emptying is a ticking GPU whose cache takes long to empty.
type emptying struct {
	*ticking
	emptied int
}

func (d *emptying) Info() device.Info {
	info := d.Device.Info()
	info.Kind = "cuda"
	return info
}

func (d *emptying) RMSNorm(dst, src, weight device.Tensor, eps float32) {
	if dst.Bytes() < 100<<20 {
		panic("something else was normalised")
	}
	d.emptied++
	d.tick("empty", 100000)
}

// TestCalibrateOnGPU calibrates on a device with a clock of its own. The samples
// have the times of its operations, to the microsecond, and not those of
// emptying the cache before each.
func TestCalibrateOnGPU(t *testing.T) {
	var d *emptying
	g := openGolden(t, "../testdata/golden/deepseek_v32", variant{device: func(base device.Device) device.Device {
		d = &emptying{ticking: newTicking(base)}
		return d
	}})
	samples, err := g.model.Calibrate(0)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[pathway.Operation]int{}
	for _, s := range samples {
		counts[s.Operation]++
		want := map[pathway.Operation]float64{
			pathway.OpExpand: 1300, pathway.OpMHA: 1700, pathway.OpMHAMasked: 1700, pathway.OpMLA: 2900, pathway.OpMLASparse: 2900,
			pathway.OpAbsorb: 2300 + 3100, pathway.OpScore: 1 + 1000, pathway.OpSelectIndices: 1100, pathway.OpSelectMask: 1100,
			pathway.OpMerge: 1900,
		}[s.Operation]
		if s.Microseconds != want {
			t.Errorf("%v of %.0f rows took %v µs, want %v", s.Operation, s.Rows, s.Microseconds, want)
		}
		if s.Pairs < s.Rows || s.Keys > 16*512 {
			t.Errorf("%v has sizes %+v", s.Operation, s)
		}
	}
	for op := range pathway.Operation(pathway.OperationCount) {
		if counts[op] != 5 { // cases with contexts up to the 512 tokens that the model has
			t.Errorf("%d samples of %v, want 5", counts[op], op)
		}
	}
	if d.emptied < 5*len(samples) {
		t.Errorf("the cache was emptied %d times for %d samples", d.emptied, len(samples))
	}
}
