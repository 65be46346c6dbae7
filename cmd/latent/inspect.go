package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"latent"
	"latent/chat"
	"latent/checkpoint"
	"latent/device"
)

// inspectCommand looks into models and the machine.
type inspectCommand struct {
	Config  inspectConfig  `cmd:"" help:"What a configuration means: sizes, parameters, memory."`
	Weights inspectWeights `cmd:"" help:"The tensors of a checkpoint, and whether they are what the configuration calls for."`
	Tokens  inspectTokens  `cmd:"" help:"How a text is cut into tokens."`
	Logits  inspectLogits  `cmd:"" help:"Logits and selections for given token ids, as a safetensors file."`
	GPU     inspectGPU     `cmd:"" name:"gpu" help:"GPUs, the CUDA libraries that were found, and what is missing."`
}

type inspectConfig struct{ modelFlags }

// Help says what --model may be.
func (*inspectConfig) Help() string {
	return "Weights are not read: --model may also name a configuration file."
}

// Run prints the configuration as understood.
func (c *inspectConfig) Run(t *terminal) error {
	o := c.options(nil)
	if o.Model != "" {
		o.LoadFormat = "dummy"
	}
	ck, err := latent.OpenCheckpoint(o)
	if err != nil {
		return err
	}
	defer ck.Close()
	cfg := ck.Config
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("model", "%s (%s)", ck.Name, cfg.ModelType)
	p := cfg.Parameters()
	row("parameters", "%.2f M, %.2f M active for a token; MTP %.2f M", float64(p.Total)/1e6, float64(p.Active)/1e6, float64(p.MTP)/1e6)
	dense := 0
	for _, moe := range cfg.MoE {
		if !moe {
			dense++
		}
	}
	row("layers", "%d of hidden size %d, %d of them dense, %d MTP", cfg.Layers, cfg.Hidden, dense, cfg.MTPLayers)
	row("attention", "%d heads, query rank %d, latent %d, nope %d, rope %d, value %d", cfg.Heads, cfg.QueryRank, cfg.Latent, cfg.Nope, cfg.RopeDim, cfg.Value)
	rope := "none"
	if y := cfg.Rope.YaRN; y != nil {
		rope = fmt.Sprintf("YaRN %gx%d", y.Factor, y.Original)
	}
	row("positions", "%d, theta %g, scaling %s; softmax scale %.8g", cfg.MaxPos, cfg.Rope.Theta, rope, cfg.SoftmaxScale())
	if ix := cfg.Indexer; ix != nil {
		row("indexer", "%d heads x %d, selects %d keys, own in %d of %d layers", ix.Heads, ix.Dim, ix.TopK, len(cfg.Indexed()), cfg.Layers)
	} else {
		row("indexer", "none: attention is dense")
	}
	if cfg.Experts > 0 {
		r := cfg.Router
		row("experts", "%d of size %d, %d chosen, %d shared; %d groups, %d kept; scale %g", cfg.Experts, cfg.ExpertDim, r.Choose, cfg.Shared, r.Groups, r.KeepGroups, r.Scale)
	}
	row("vocabulary", "%d; stop tokens %v", cfg.Vocab, ck.StopTokens())
	row("stored as", "%s%s", orUnknown(cfg.DType), map[bool]string{true: ", FP8 blocks of 128x128"}[cfg.BlockFP8])
	for _, f := range []device.CacheFormat{device.CacheF32, device.CacheBF16, device.CacheF8} {
		latents, index := cfg.TokenBytes(f)
		row("cache, "+f.String(), "%d bytes a token: latents %d, index keys %d", latents+index, latents, index)
	}
	return w.Flush()
}

func orUnknown(s string) string {
	if s == "" {
		return "unstated type"
	}
	return s
}

type inspectWeights struct {
	All bool `help:"List every tensor, not one line for each kind."`
	modelFlags
}

// Run lists tensors and verifies them.
func (c *inspectWeights) Run(t *terminal) error {
	ck, err := latent.OpenCheckpoint(c.options(nil))
	if err != nil {
		return err
	}
	defer ck.Close()
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "tensor\ttype\tshape\tbytes")
	kinds := map[string]int{}
	type line struct {
		stored checkpoint.Stored
		bytes  int64
		count  int
	}
	var lines []line
	var total int64
	for _, s := range ck.Stored() {
		total += s.Bytes
		name := s.Name
		if !c.All {
			name = kindOf(name)
		}
		at, seen := kinds[name]
		if !seen {
			at = len(lines)
			kinds[name] = at
			s.Name = name
			lines = append(lines, line{stored: s})
		}
		lines[at].bytes += s.Bytes
		lines[at].count++
	}
	for _, l := range lines {
		name := l.stored.Name
		if l.count > 1 {
			name = fmt.Sprintf("%s (%d)", name, l.count)
		}
		fmt.Fprintf(w, "%s\t%s\t%v\t%d\n", name, l.stored.DType, l.stored.Shape, l.bytes)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	summary := fmt.Sprintf("%d bytes in all; MTP tensors: %t\n", total, ck.HasMTP())
	if unused := ck.Unused(); len(unused) > 0 {
		summary += fmt.Sprintf("not used: %s\n", strings.Join(unused, ", "))
	}
	if _, err := io.WriteString(t.out, summary); err != nil {
		return err
	}
	if err := ck.Verify(); err != nil {
		return &latent.CheckpointError{Err: err}
	}
	_, err = fmt.Fprintln(t.out, "all tensors are what the configuration calls for")
	return err
}

// kindOf replaces the numbers of layers and experts by N.
func kindOf(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		if p != "" && strings.Trim(p, "0123456789") == "" {
			parts[i] = "N"
		}
	}
	return strings.Join(parts, ".")
}

type inspectTokens struct {
	Text string `arg:"" optional:"" help:"The text; - or nothing reads it from standard input."`
	Chat bool   `help:"Encode it as a user's message."`

	modelFlags
}

// Run prints ids and pieces.
func (c *inspectTokens) Run(t *terminal) error {
	enc, err := latent.OpenEncoder(c.options(nil))
	if err != nil {
		return err
	}
	text, err := t.text(c.Text)
	if err != nil {
		return err
	}
	req := latent.Request{Prompt: text}
	if c.Chat {
		req = latent.Request{Messages: []chat.Message{{Role: chat.User, Content: text}}}
	}
	ids, _, err := enc.Encode(req)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(t.out)
	for _, id := range ids {
		fmt.Fprintf(out, "%d\t%q\n", id, enc.Tokenizer().TokenBytes(int(id)))
	}
	fmt.Fprintf(out, "%d tokens\n", len(ids))
	return out.Flush()
}
