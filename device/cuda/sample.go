package cuda

import (
	"fmt"
	"math"
	"unsafe"

	"latent/device"
	"latent/device/cuda/driver"
)

// choice mirrors struct Choice of kernels/sample.cu.
type choice struct {
	TopP, Margin, Uniform float64
	Scale                 float32
	TopK, Vocabulary      int32
	_                     int32
}

// newChoice translates a draw as package sample does.
func newChoice(d *device.Draw) choice {
	c := choice{TopP: d.TopP, Margin: math.Inf(-1), Uniform: d.Uniform, TopK: max(d.TopK, 0), Vocabulary: d.Vocabulary}
	if d.Temperature > 0 {
		c.Scale = float32(1 / d.Temperature)
	}
	if d.MinP > 0 {
		c.Margin = math.Log(d.MinP) * d.Temperature
	}
	return c
}

type sampleParams struct {
	IDs, Logits, Choices driver.Ptr
	Columns, Cached      int32
}

// Sample implements device.Sampler. Sums of probabilities are rounded otherwise
// than on the host, to 2^-44 of the most likely token's: a random number within
// about 1e-10 of the border between two tokens may choose the other one.
func (d *Device) Sample(ids, logits device.Tensor, draws []device.Draw) {
	want("Sample", "logits", logits, device.F32, len(draws), logits.Cols)
	want("Sample", "ids", ids, device.I32, len(draws), 1)
	if len(draws) == 0 {
		return
	}
	const words = int(unsafe.Sizeof(choice{}) / 4)
	p := sampleParams{IDs: ptr(ids), Logits: ptr(logits), Columns: int32(logits.Cols)}
	p.Choices = d.stage(words*len(draws), func(dst []int32) {
		choices := unsafe.Slice((*choice)(unsafe.Pointer(unsafe.SliceData(dst))), len(draws))
		for i := range draws {
			if v := draws[i].Vocabulary; v < 1 || int(v) > logits.Cols {
				panic(fmt.Sprintf("cuda: Sample: a vocabulary of %d for logits %s", v, shape(logits)))
			}
			choices[i] = newChoice(&draws[i])
		}
	})
	const (
		parts = 8         // PARTS: blocks that share a row
		room  = 200 << 10 // of shared memory for a part of the row
	)
	shared := 4 * roundUp(divUp(logits.Cols, parts), 32)
	p.Cached = 1
	if shared > room {
		shared, p.Cached = 0, 0
	}
	launch(d, d.kernel("sample", "sample"), grid1(parts*len(draws)), block1(1024), shared, &p)
}
