package model_test

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"latent/checkpoint"
	"latent/device"
	"latent/device/cuda"
	"latent/model"
	"latent/pathway"
)

var (
	decodeConfig  = flag.String("decode-model", "../configs/deepseek-v3.2.json", "configuration for BenchmarkDecode, with dummy weights")
	decodeLayers  = flag.Int("decode-layers", 6, "layers of that model")
	decodeBatch   = flag.String("decode-batch", "1,8,32,128", "sequences in a step")
	decodeContext = flag.String("decode-context", "512,2000,4096,32768", "contexts of the sequences")
)

// countingGPU counts captures.
type countingGPU struct {
	*cuda.Device
	captures int
}

func (d *countingGPU) Capture(step *device.Step, pages int, f func()) (device.Graph, error) {
	d.captures++
	return d.Device.Capture(step, pages, f)
}

// BenchmarkDecode times decode steps on a GPU, to the token ids on the host: as
// captured steps run, and as they would run uncaptured. Of the former it tells
// what the GPU takes, from the first to the last kernel, and what the whole
// takes on the host's clock: the difference is the host's part. Caches hold
// random records.
//
//	go test ./model -run '^$' -bench Decode -benchtime 1x
func BenchmarkDecode(b *testing.B) {
	dev := &countingGPU{Device: openGPU(b)}
	c, err := checkpoint.Open(*decodeConfig, checkpoint.Options{Dummy: true, Override: fmt.Sprintf(`{"num_hidden_layers": %d}`, *decodeLayers)})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	m, err := model.Load(dev, c.Config, c.Weights, model.Options{Arithmetic: device.BF16, CacheFormat: device.CacheF8,
		ExpandBytes: 1 << 30, ScoreBytes: 512 << 20, AbsorbBytes: 512 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	batches, contexts := numbers(b, *decodeBatch), numbers(b, *decodeContext)
	pages := slices.Max(batches) * (slices.Max(contexts)/device.PageTokens + 1)
	if err := m.AllocateCache(pages); err != nil {
		b.Fatal(err)
	}
	if err := m.FillCache(1); err != nil {
		b.Fatal(err)
	}
	g := m.Geometry()
	planner, err := pathway.New(pathway.Config{Geometry: g, Calibration: pathway.Estimate(g, 500e12, 4e12),
		Policy: pathway.PolicyMLA, WorkspaceBytes: 1 << 30, KVBytesPerKey: m.KVBytesPerKey()})
	if err != nil {
		b.Fatal(err)
	}
	for _, context := range contexts {
		for _, n := range batches {
			b.Run(fmt.Sprintf("context=%d/batch=%d", context, n), func(b *testing.B) {
				benchmarkDecode(b, dev, m, planner, n, context, c.Config.Vocab)
			})
		}
	}
}

func benchmarkDecode(b *testing.B, dev *countingGPU, m *model.Model, planner *pathway.Planner, n, context, vocab int) {
	batch := model.Batch{Plan: new(pathway.Plan)}
	for s := range n {
		seq := device.Seq{Row: s, Rows: 1, Prefix: context - 1}
		for p := range (context + device.PageTokens - 1) / device.PageTokens {
			seq.Pages = append(seq.Pages, int32(p*n+s))
		}
		batch.Step.Tokens = append(batch.Step.Tokens, int32((s*7919+context)%vocab))
		batch.Step.Positions = append(batch.Step.Positions, int32(context-1))
		last := seq.Pages[len(seq.Pages)-1]
		batch.Step.Slots = append(batch.Step.Slots, last*device.PageTokens+int32((context-1)%device.PageTokens))
		batch.Step.Seqs = append(batch.Step.Seqs, seq)
		batch.Extents = append(batch.Extents, pathway.Extent{Prefix: context - 1, New: 1, Phase: pathway.Decode})
		batch.LogitRows = append(batch.LogitRows, int32(s))
		batch.Draws = append(batch.Draws, device.Draw{TopP: 1, Vocabulary: int32(vocab)})
	}
	planner.Plan(batch.Extents, batch.Plan)
	watch := dev.NewStopwatch()
	var onGPU, whole, uncaptured []time.Duration
	step := func(trace *model.Trace) time.Duration {
		start := time.Now()
		if _, err := m.Forward(&batch, trace); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	step(nil) // as it is
	step(nil) // captured
	captures := dev.captures
	for range 20 {
		whole = append(whole, step(nil))
	}
	batch.Meanwhile = watch.Mark
	for range 10 {
		watch.Reset()
		watch.Mark()
		step(nil)
		if laps := watch.Laps(nil); len(laps) == 1 {
			onGPU = append(onGPU, laps[0])
		}
	}
	for range 10 {
		uncaptured = append(uncaptured, step(&model.Trace{}))
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2].Nanoseconds()) / 1e3
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(onGPU), "gpu-us")
	b.ReportMetric(median(whole), "step-us")
	b.ReportMetric(median(whole)-median(onGPU), "host-us")
	b.ReportMetric(median(uncaptured), "uncaptured-us")
	b.ReportMetric(float64(n)*1e6/median(whole), "tok/s")
	b.ReportMetric(float64(dev.captures-captures), "captures-again")
}

// numbers reads a list such as "1,8,32".
func numbers(b *testing.B, list string) []int {
	var out []int
	for _, word := range strings.Split(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}
