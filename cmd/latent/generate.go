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
	"latent/sample"
)

// generateCommand answers one prompt.
type generateCommand struct {
	Prompt string `arg:"" optional:"" help:"What to answer; - or nothing reads it from standard input."`

	Raw         bool     `help:"Continue the prompt as it is, without the chat encoding."`
	System      string   `help:"System message, which goes before the prompt." placeholder:"TEXT"`
	Thinking    bool     `help:"Let the model reason before it answers."`
	MaxTokens   int      `help:"Bound on the answer's tokens. Default: what fits the context." placeholder:"N"`
	Temperature *float64 `help:"Randomness; 0 always takes the likeliest token. Default: the checkpoint's." placeholder:"F"`
	TopP        *float64 `help:"Choose among the likeliest tokens that together have this probability. Default: the checkpoint's." placeholder:"F"`
	TopK        *int     `help:"Choose among this many of the likeliest tokens. Default: the checkpoint's." placeholder:"N"`
	Seed        *uint64  `help:"Makes sampling repeatable. Default: another one each time." placeholder:"N"`
	Stop        []string `help:"Text that ends the answer and is not part of it; may be given several times." sep:"none" placeholder:"TEXT"`
	ShowPlan    bool     `help:"Print which attention pathways were taken, and why, after the answer."`

	modelFlags
}

// Help shows examples under latent generate --help.
func (*generateCommand) Help() string {
	return `Examples:
  latent generate "What is 47 + 38?"
  latent generate --show-plan --temperature 0 < question.txt
  latent generate --raw --max-tokens 50 "It was late when"`
}

// Validate refuses combinations that would be ignored.
func (c *generateCommand) Validate() error {
	switch {
	case c.Raw && c.System != "":
		return errors.New("--raw continues a text: it takes no --system message")
	case c.Raw && c.Thinking:
		return errors.New("--raw continues a text: it takes no --thinking")
	case c.MaxTokens < 0:
		return fmt.Errorf("--max-tokens is %d, want at least 1", c.MaxTokens)
	}
	return nil
}

// Run streams the answer to standard output.
func (c *generateCommand) Run(ctx context.Context, t *terminal) error {
	prompt, err := t.text(c.Prompt)
	if err != nil {
		return err
	}
	e, err := latent.Open(ctx, c.options(t.progress))
	if err != nil {
		return err
	}
	defer e.Close()

	start := time.Now()
	var first time.Duration
	var last latent.Delta
	out := answer{w: t.out}
	for d, err := range e.Generate(ctx, c.request(prompt, e.Sampling())) {
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return errors.Join(err, out.end())
		}
		if err := out.write(d); err != nil {
			return err
		}
		if first == 0 && len(d.Tokens) > 0 {
			first = time.Since(start)
		}
		last = d
	}
	if err := out.end(); err != nil || !c.ShowPlan {
		return err
	}
	return printDecisions(t.out, last, first, time.Since(start))
}

// request returns the request that the flags ask for.
func (c *generateCommand) request(prompt string, params sample.Params) latent.Request {
	params.Seed = rand.Uint64()
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
	}
	req := latent.Request{Sampling: &params, MaxTokens: c.MaxTokens, Stop: c.Stop, Explain: c.ShowPlan}
	if c.Raw {
		req.Prompt = prompt
		return req
	}
	if c.System != "" {
		req.Messages = append(req.Messages, chat.Message{Role: chat.System, Content: c.System})
	}
	req.Messages = append(req.Messages, chat.Message{Role: chat.User, Content: prompt})
	req.Thinking = c.Thinking
	return req
}

// answer writes deltas as they come, reasoning between <think> marks.
type answer struct {
	w         io.Writer
	begun     bool
	reasoning bool // the last text was reasoning
}

func (a *answer) write(d latent.Delta) error {
	text := d.Reasoning
	if text != "" && !a.reasoning {
		text, a.reasoning = "<think>\n"+text, true
	}
	if d.Text != "" && a.reasoning {
		text, a.reasoning = text+"\n</think>\n", false
	}
	if text += d.Text; text == "" {
		return nil
	}
	a.begun = true
	_, err := io.WriteString(a.w, text)
	return err
}

// end ends the last line.
func (a *answer) end() error {
	if !a.begun {
		return nil
	}
	_, err := io.WriteString(a.w, "\n")
	return err
}

// printDecisions prints the attention decisions of one request.
func printDecisions(out io.Writer, last latent.Delta, first, total time.Duration) error {
	w := bufio.NewWriter(out)
	u := last.Usage
	fmt.Fprintf(w, "\n%d prompt tokens (%d from the cache), %d generated (end: %s); first token after %s, all after %s\n",
		u.Prompt, u.Cached, u.Completion, last.Finish, first.Round(time.Millisecond/10), total.Round(time.Millisecond/10))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "phase\tpositions\tpathway\treason\tpredicted/layer\tinstead of")
	for i := range u.Decisions {
		d := &u.Decisions[i]
		fmt.Fprintf(tw, "%s\t%d–%d\t%s\t%s\t%.1f µs\t%s\n", d.Phase, d.From, d.To-1, d.Pathway, d.Reason, d.PredictedUS, instead(d))
	}
	tw.Flush()
	fmt.Fprintf(w, "rows by pathway:")
	for p, rows := range u.Rows {
		fmt.Fprintf(w, " %s %d", pathway.Pathway(p), rows)
	}
	fmt.Fprintf(w, "; indexer ran for %d rows\n", u.IndexerRows)
	return w.Flush()
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
