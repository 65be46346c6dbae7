package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"latent"
	"latent/bench"
)

// benchCommand measures.
type benchCommand struct {
	Attention benchAttention `cmd:"" help:"What the stages of a layer take, by attention pathway, length and prefix."`
	Serve     benchServe     `cmd:"" help:"How fast a server answers, under a load of requests."`
}

// benchAttention measures the stages of a layer.
type benchAttention struct {
	Lengths  []int    `aliases:"new" help:"New tokens of each sequence." default:"512,1024,2000,4096" placeholder:"N,..."`
	Prefix   []int    `help:"Cached tokens before them." default:"0,2048" placeholder:"N,..."`
	Batch    []int    `help:"Sequences in a step." default:"1" placeholder:"N,..."`
	Pathways []string `help:"Plans to compare: mha and mla, which select only beyond index_topk; mha-masked and mla-sparse, which select for every row; adaptive; threshold; all." default:"mha,mla,adaptive" placeholder:"NAME,..."`
	Layer    int      `help:"Layer to look at, from 0; -1 is the last one." default:"-1" placeholder:"N"`
	Warmup   int      `help:"Rounds before those that are measured." default:"3" placeholder:"N"`
	Repeat   int      `help:"Rounds that are measured." default:"20" placeholder:"N"`
	Budget   duration `help:"Time for a combination of batch, prefix and length; what takes longer gets fewer rounds, at least three." default:"10s" placeholder:"D"`
	JSON     string   `name:"json" help:"File to write all figures to, with least values and 90th percentiles." placeholder:"FILE"`

	modelFlags
}

// Help shows examples under latent bench attention --help.
func (*benchAttention) Help() string {
	return `Runs steps of the loaded model, with random records in the attention cache, and prints the median times of a layer's stages for every
combination of --batch, --prefix and --lengths, all plans in turns; then where MLA and MHA cross, and what the adaptive plan loses to the best fixed one.

Examples:
  latent bench attention --model configs/deepseek-v3.2.json --load-format dummy --json-model-override-args '{"num_hidden_layers": 4}'
      a layer with experts of DeepSeek-V3.2 with random weights
  latent bench attention --lengths 1 --prefix 512,4000 --batch 1,8 --pathways all
      decode steps of the demo model`
}

// Run measures, prints and writes.
func (c *benchAttention) Run(ctx context.Context, t *terminal) error {
	if c.JSON != "" { // better now than after the measurement
		if info, err := os.Stat(filepath.Dir(c.JSON)); err != nil || !info.IsDir() {
			return fmt.Errorf("--json %s: there is no folder %s", c.JSON, filepath.Dir(c.JSON))
		}
	}
	plans := c.Pathways
	if slices.Equal(plans, []string{"all"}) {
		plans = bench.Plans()
	}
	for _, p := range plans {
		if !slices.Contains(bench.Plans(), p) {
			return &exitError{exitUsage, fmt.Errorf("--pathways %s: want some of %s, or all", p, strings.Join(bench.Plans(), ", "))}
		}
	}
	if len(c.Lengths)*len(c.Prefix)*len(c.Batch)*len(plans) == 0 || c.Warmup < 0 || c.Repeat < 1 {
		return &exitError{exitUsage, fmt.Errorf("nothing to measure: --lengths, --prefix, --batch and --pathways want a value each, --repeat at least 1")}
	}
	longest, most := slices.Max(c.Lengths)+slices.Max(c.Prefix), slices.Max(c.Batch)
	o := c.options(t.progress)
	if o.MaxTotalTokens == 0 {
		o.MaxTotalTokens = max(2, bench.PagesFor(most, longest)) * 64
	}
	if o.ChunkedPrefillSize == 0 { // what a step's workspace is for
		o.ChunkedPrefillSize = max(1, most*slices.Max(c.Lengths))
	}
	l, err := latent.Load(ctx, o)
	if err != nil {
		return err
	}
	defer l.Close()
	start := time.Now()
	r, err := l.BenchAttention(ctx, bench.AttentionOptions{
		Lengths: c.Lengths, Prefixes: c.Prefix, Batches: c.Batch, Plans: plans, Layer: c.Layer,
		Warmup: c.Warmup, Repeat: c.Repeat, Budget: time.Duration(c.Budget),
		Progress: func(cell *bench.Cell, done, total int) {
			t.progress(fmt.Sprintf("%d of %d after %s: %d x %d+%d tokens", done, total, time.Since(start).Round(time.Second/10),
				cell.Batch, cell.Prefix, cell.New))
		},
	})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	if err := r.WriteText(t.out); err != nil || c.JSON == "" {
		return err
	}
	f, err := os.Create(c.JSON)
	if err != nil {
		return err
	}
	if err := r.WriteJSON(f); err != nil {
		return fmt.Errorf("%s: %w", c.JSON, err)
	}
	return f.Close()
}
