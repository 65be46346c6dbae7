package model_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"latent/device"
	"latent/device/cuda"
	"latent/device/cuda/driver"
	"latent/engine"
	"latent/model"
)

// Tolerances of bfloat16 arithmetic against float32, relative to the size of a
// prompt's logits, for a bfloat16 and an FP8 cache; the share of a selection
// that may differ because scores are nearly equal; and how far ahead, relative
// to the size of the logits, the most likely token is when it must be the same.
const (
	bf16Logits   = 1e-2
	f8Logits     = 6e-2
	nearTies     = 0.05
	clearlyAhead = 0.1
)

// openGPU opens the first GPU, or skips the test where there is none.
func openGPU(t testing.TB) *cuda.Device {
	t.Helper()
	d, err := cuda.Open(cuda.Options{Search: driver.Search{Dir: os.Getenv("LATENT_CUDA_PATH")}})
	if errors.Is(err, driver.ErrNoDriver) || errors.Is(err, driver.ErrNoLibrary) {
		t.Skipf("no GPU to test on: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestGoldenGPU compares the GPU backend with Hugging Face transformers, for
// every golden set, policy and cache format, prompts in chunks and token by
// token.
func TestGoldenGPU(t *testing.T) {
	dev := openGPU(t)
	for _, dir := range goldenSets(t) {
		for _, format := range []device.CacheFormat{device.CacheBF16, device.CacheF8} {
			g := openGolden(t, dir, variant{
				device: func(device.Device) device.Device { return dev },
				opts: func(o *model.Options) {
					o.Arithmetic, o.CacheFormat = device.BF16, format
				},
			})
			for _, name := range []string{"adaptive", "threshold", "mla", "mha", "mha-chunks"} {
				for _, chunk := range []int{0, 1, 16} {
					t.Run(fmt.Sprintf("%s/%v/%s/chunk%d", filepath.Base(dir), format, name, chunk), func(t *testing.T) {
						g.checkClose(t, name, chunk, format)
					})
				}
			}
		}
	}
}

func (g *golden) checkClose(t *testing.T, policy string, chunk int, format device.CacheFormat) {
	var prompts [][]int32
	lengths := g.lengths()
	for _, n := range lengths {
		prompts = append(prompts, g.ints(t, fmt.Sprintf("len%d.input_ids", n)))
	}
	tr := &tracer{selected: map[[3]int][]int32{}, hidden: map[[3]int][]float32{}, width: g.cfg.Hidden}
	c := g.eval(g.policy(t, policies(g.cfg)[policy]))
	c.Chunk = chunk
	if chunk != 1 { // without a trace single tokens are captured steps
		c.Trace = tr.observe
	}
	logits, err := engine.Evaluate(c, prompts)
	if err != nil {
		t.Fatal(err)
	}
	allowed := bf16Logits
	if format == device.CacheF8 {
		allowed = f8Logits
	}
	for i, n := range lengths {
		want := g.floats(t, fmt.Sprintf("len%d.logits", n))
		relative := relativeError(logits[i], want)
		rows, other := 0, 0
		for p := range n {
			row, wantRow := logits[i][p*g.cfg.Vocab:][:g.cfg.Vocab], want[p*g.cfg.Vocab:][:g.cfg.Vocab]
			if ahead(wantRow) < clearlyAhead {
				continue
			}
			rows++
			if argmax(row) != argmax(wantRow) {
				other++
			}
		}
		missed := g.missedSelections(t, tr, i, n)
		t.Logf("length %d: logits differ by %.2g; %d of %d clear tokens differ; %.2g of the selections", n, relative, other, rows, missed)
		if !(relative <= allowed) {
			t.Errorf("length %d: logits differ by %.3g of their size, allowed is %g", n, relative, allowed)
		}
		if other > 0 {
			t.Errorf("length %d: %d tokens differ of %d that are clearly ahead", n, other, rows)
		}
		if missed > nearTies {
			t.Errorf("length %d: %.3g of the selected keys differ", n, missed)
		}
	}
}

// relativeError is the size of got − want over that of want.
func relativeError(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	diff, size := 0.0, 0.0
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		diff += d * d
		size += float64(want[i]) * float64(want[i])
	}
	return math.Sqrt(diff / size)
}

// ahead is how far the largest logit is before the next, relative to the root
// of their mean square.
func ahead(row []float32) float64 {
	sorted := slices.Sorted(slices.Values(row))
	sum := 0.0
	for _, x := range row {
		sum += float64(x) * float64(x)
	}
	return float64(sorted[len(sorted)-1]-sorted[len(sorted)-2]) / math.Sqrt(sum/float64(len(row)))
}

// missedSelections returns the share of the golden's selected keys that were
// not selected, over rows that needed a selection.
func (g *golden) missedSelections(t *testing.T, tr *tracer, prompt, n int) float64 {
	if g.cfg.Indexer == nil || len(tr.selected) == 0 {
		return 0
	}
	k := min(n, g.cfg.Indexer.TopK)
	all, missed := 0, 0
	for _, layer := range g.cfg.Indexed() {
		want := g.ints(t, fmt.Sprintf("len%d.topk.layer%d", n, layer))
		for p := range n {
			got, traced := tr.selected[[3]int{prompt, layer, p}]
			if !traced {
				continue
			}
			for _, s := range want[p*k : (p+1)*k] {
				if int(s) > p {
					continue
				}
				all++
				if !slices.Contains(got, s) {
					missed++
				}
			}
		}
	}
	return float64(missed) / float64(max(all, 1))
}
