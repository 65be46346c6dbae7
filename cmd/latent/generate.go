package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"text/tabwriter"
	"time"

	"latent"
	"latent/chat"
	"latent/engine"
	"latent/pathway"
)

// generateCommand answers one prompt.
type generateCommand struct {
	Prompt string `arg:"" optional:"" help:"What to answer; - or nothing reads it from standard input."`

	Raw         bool     `help:"Continue the prompt as it is, without the chat encoding."`
	System      string   `help:"System message." placeholder:"TEXT"`
	Thinking    bool     `help:"Let the model reason before it answers."`
	MaxTokens   int      `help:"Bound on the answer. Default: what fits the context." placeholder:"N"`
	Temperature *float64 `help:"0 is greedy. Default: the checkpoint's." placeholder:"F"`
	TopP        *float64 `help:"Default: the checkpoint's." placeholder:"F"`
	TopK        *int     `help:"Default: the checkpoint's." placeholder:"N"`
	Seed        *uint64  `help:"Makes sampling repeatable." placeholder:"N"`
	Stop        []string `help:"Text that ends the answer; may be given several times." sep:"none" placeholder:"TEXT"`
	ShowPlan    bool     `help:"Print which attention pathways were taken, and why, after the answer."`

	modelFlags
}

// Run streams the answer to standard output.
func (c *generateCommand) Run(ctx context.Context, t *terminal) error {
	prompt, err := c.prompt(t)
	if err != nil {
		return err
	}
	e, err := latent.Open(ctx, c.options())
	if err != nil {
		return err
	}
	defer e.Close()

	params := e.Sampling()
	if c.Temperature != nil {
		params.Temperature = *c.Temperature
	}
	if c.TopP != nil {
		params.TopP = *c.TopP
	}
	if c.TopK != nil {
		params.TopK = *c.TopK
	}
	if c.Seed != nil {
		params.Seed = *c.Seed
	} else {
		params.Seed = rand.Uint64()
	}
	req := latent.Request{Sampling: &params, MaxTokens: c.MaxTokens, Stop: c.Stop, Explain: c.ShowPlan}
	if c.Raw {
		req.Prompt = prompt
	} else {
		if c.System != "" {
			req.Messages = append(req.Messages, chat.Message{Role: chat.System, Content: c.System})
		}
		req.Messages = append(req.Messages, chat.Message{Role: chat.User, Content: prompt})
		req.Thinking = c.Thinking
	}

	start := time.Now()
	var first time.Duration
	var usage engine.Usage
	out := bufio.NewWriter(t.out)
	for d, err := range e.Generate(ctx, req) {
		if err != nil {
			return errors.Join(out.Flush(), err)
		}
		if first == 0 && len(d.Tokens) > 0 {
			first = time.Since(start)
		}
		out.WriteString(d.Reasoning + d.Text)
		if err := out.Flush(); err != nil {
			return err
		}
		usage = d.Usage
	}
	out.WriteByte('\n')
	if c.ShowPlan {
		printDecisions(out, usage, first, time.Since(start))
	}
	return out.Flush()
}

func (c *generateCommand) prompt(t *terminal) (string, error) {
	if c.Prompt != "" && c.Prompt != "-" {
		return c.Prompt, nil
	}
	data, err := io.ReadAll(t.in)
	if err != nil {
		return "", fmt.Errorf("read the prompt from standard input: %w", err)
	}
	prompt := strings.TrimSuffix(string(data), "\n")
	if prompt == "" {
		return "", errors.New("no prompt: give one as an argument or on standard input")
	}
	return prompt, nil
}

// printDecisions prints the attention decisions of one request, runs of decode
// steps that were decided alike in one line.
func printDecisions(w io.Writer, u engine.Usage, first, total time.Duration) {
	fmt.Fprintf(w, "\n%d prompt tokens (%d from the cache), %d generated; first token after %s, all after %s\n",
		u.Prompt, u.Cached, u.Completion, first.Round(time.Millisecond/10), total.Round(time.Millisecond/10))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "phase\tpositions\tpathway\treason\tpredicted/layer\tinstead of")
	for i := 0; i < len(u.Decisions); {
		d, to := &u.Decisions[i], u.Decisions[i].To
		cost := d.PredictedUS
		next := i + 1
		for d.Phase == pathway.Decode && next < len(u.Decisions) {
			n := &u.Decisions[next]
			if n.Phase != d.Phase || n.Pathway != d.Pathway || n.Reason != d.Reason || n.From != to {
				break
			}
			to, cost = n.To, cost+n.PredictedUS
			next++
		}
		fmt.Fprintf(tw, "%s\t%d–%d\t%s\t%s\t%.1f µs\t%s\n", d.Phase, d.From, to-1, d.Pathway, d.Reason, cost, instead(d))
		i = next
	}
	tw.Flush()
	fmt.Fprintf(w, "rows by pathway:")
	for p, rows := range u.Rows {
		fmt.Fprintf(w, " %s %d", pathway.Pathway(p), rows)
	}
	fmt.Fprintf(w, "; indexer ran for %d rows\n", u.IndexerRows)
}

// instead lists what a decision was compared with.
func instead(d *engine.Decision) string {
	var parts []string
	for p := range pathway.Count {
		switch name := pathway.Pathway(p); {
		case name == d.Pathway:
		case math.IsInf(d.Alternatives[p], 1):
			parts = append(parts, fmt.Sprintf("%s (%s)", name, d.Excluded[p]))
		default:
			parts = append(parts, fmt.Sprintf("%s %.1f µs", name, d.Alternatives[p]))
		}
	}
	return strings.Join(parts, ", ")
}
