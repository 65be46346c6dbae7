package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"latent"
	"latent/chat"
	"latent/checkpoint"
	"latent/device"
)

// inspectCommand looks into models.
type inspectCommand struct {
	Config  inspectConfig  `cmd:"" help:"What a configuration means: sizes, parameters, memory."`
	Weights inspectWeights `cmd:"" help:"The tensors of a checkpoint, and whether they are what the configuration calls for."`
	Tokens  inspectTokens  `cmd:"" help:"How a text is cut into tokens."`
	Logits  inspectLogits  `cmd:"" help:"Logits and selections for given token ids, as a safetensors file."`
}

type inspectConfig struct{ modelFlags }

// Run prints the configuration as understood.
func (c *inspectConfig) Run(t *terminal) error {
	ck, err := latent.OpenCheckpoint(c.options())
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
	row("layers", "%d of hidden size %d, the first %d dense, %d MTP", cfg.Layers, cfg.Hidden, dense, cfg.MTPLayers)
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
	o := c.options()
	ck, err := latent.OpenCheckpoint(o)
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
	fmt.Fprintf(t.out, "%d bytes in all; MTP tensors: %t\n", total, ck.HasMTP())
	if unused := ck.Unused(); len(unused) > 0 {
		fmt.Fprintf(t.out, "not used: %s\n", strings.Join(unused, ", "))
	}
	return ck.Verify()
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
	Text string `arg:"" help:"The text."`
	Chat bool   `help:"Encode it as a user's message."`

	modelFlags
}

// Run prints ids and pieces.
func (c *inspectTokens) Run(t *terminal) error {
	enc, err := latent.OpenEncoder(c.options())
	if err != nil {
		return err
	}
	req := latent.Request{Prompt: c.Text}
	if c.Chat {
		req = latent.Request{Messages: []chat.Message{{Role: chat.User, Content: c.Text}}}
	}
	ids, _, err := enc.Encode(req)
	if err != nil {
		return err
	}
	for _, id := range ids {
		fmt.Fprintf(t.out, "%d\t%q\n", id, enc.Tokenizer().TokenBytes(int(id)))
	}
	fmt.Fprintf(t.out, "%d tokens\n", len(ids))
	return nil
}

type inspectLogits struct {
	IDsFile string `name:"ids-file" required:"" help:"JSON file with an array of token ids, or an array of arrays run as one batch." placeholder:"F.json"`
	Out     string `required:"" help:"safetensors file to write: logits.{i} F32 [tokens, vocabulary], topk.{i}.layer{l} I32 [tokens, K] padded with -1." placeholder:"O.safetensors"`

	modelFlags
}

// Run computes the logits of every position.
func (c *inspectLogits) Run(ctx context.Context, t *terminal) error {
	prompts, err := readIDs(c.IDsFile)
	if err != nil {
		return err
	}
	o := c.options()
	pages, longest := 0, 0
	for _, p := range prompts {
		pages += (len(p) + device.PageTokens - 1) / device.PageTokens
		longest = max(longest, len(p))
	}
	if o.MaxTotalTokens == 0 {
		o.MaxTotalTokens = max(2, pages) * device.PageTokens
	}
	chunk := o.ChunkedPrefillSize // 0: whole prompts
	if o.ChunkedPrefillSize == 0 {
		o.ChunkedPrefillSize = longest
	}
	l, err := latent.Load(ctx, o)
	if err != nil {
		return err
	}
	defer l.Close()
	results, err := l.Evaluate(prompts, chunk)
	if err != nil {
		return err
	}
	var tensors []checkpoint.Tensor
	for i, r := range results {
		tensors = append(tensors, checkpoint.Tensor{
			Name: fmt.Sprintf("logits.%d", i), Type: device.F32, Shape: []int{len(prompts[i]), l.Config().Vocab},
			Data: float32Bytes(r.Logits),
		})
		for _, layer := range l.Config().Indexed() {
			k := min(len(prompts[i]), l.Config().Indexer.TopK)
			tensors = append(tensors, checkpoint.Tensor{
				Name: fmt.Sprintf("topk.%d.layer%d", i, layer), Type: device.I32, Shape: []int{len(prompts[i]), k},
				Data: selectionBytes(r.Selected[layer], k),
			})
		}
	}
	if err := writeFile(c.Out, tensors); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.out, "wrote %d tensors for %d prompts to %s\n", len(tensors), len(prompts), c.Out)
	return err
}

// parseIDs reads an array of ids or an array of arrays.
func parseIDs(data []byte) ([][]int32, error) {
	var many [][]int32
	manyErr := json.Unmarshal(data, &many)
	if manyErr != nil {
		var one []int32
		if err := json.Unmarshal(data, &one); err != nil {
			return nil, fmt.Errorf("want an array of token ids or an array of such arrays: %w", manyErr)
		}
		many = [][]int32{one}
	}
	if len(many) == 0 {
		return nil, fmt.Errorf("no prompts in the file")
	}
	for i, ids := range many {
		if len(ids) == 0 {
			return nil, fmt.Errorf("prompt %d is empty: want at least one token id", i)
		}
	}
	return many, nil
}
