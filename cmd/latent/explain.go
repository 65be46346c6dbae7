package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"

	"latent"
	"latent/pathway"
)

// explainCommand prints the plan of a hypothetical step.
type explainCommand struct {
	Sequences []string `arg:"" help:"The step's sequences: NEW[@PREFIX][xCOUNT], new tokens behind cached ones. 1@PREFIX is a decode."`

	JSON      bool    `help:"Print JSON."`
	Heads     int     `help:"Attention heads on a rank, for a model split over several devices. Default: all." placeholder:"N"`
	Flops     float64 `help:"Estimate for a device of this many operations a second (such as 680e12) instead of this machine; needs --bandwidth." placeholder:"F"`
	Bandwidth float64 `help:"Bytes a second of that device (such as 4.2e12)." placeholder:"F"`

	modelFlags
}

// Help shows examples under latent explain --help.
func (*explainCommand) Help() string {
	return `Examples:
  latent explain 300 5000 20@1900 1@900x8 1@3000
      two prompts, a question behind a cached prefix, and nine decodes, on the demo model and this machine
  latent explain --model configs/deepseek-v3.2.json --heads 16 --flops 680e12 --bandwidth 4.2e12 5000
      a prompt of 5,000 tokens on one of eight GPUs`
}

// Run prints the plan. It reads the model's configuration, but no weights.
func (c *explainCommand) Run(t *terminal) error {
	extents, err := parseExtents(c.Sequences)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if (c.Flops > 0) != (c.Bandwidth > 0) {
		return &exitError{exitUsage, fmt.Errorf("--flops and --bandwidth describe a device together: give both or neither")}
	}
	planner, source, err := latent.NewPlanner(c.options(t.progress), latent.Machine{Flops: c.Flops, Bandwidth: c.Bandwidth, Heads: c.Heads})
	if err != nil {
		return err
	}
	var plan pathway.Plan
	planner.Plan(extents, &plan)
	if c.JSON {
		out := json.NewEncoder(t.out)
		out.SetIndent("", "  ")
		return out.Encode(planner.Explanation(extents, &plan))
	}
	if _, err := fmt.Fprintf(t.out, "costs: %s\n", source); err != nil {
		return err
	}
	return planner.Explain(t.out, extents, &plan)
}

var extentSyntax = regexp.MustCompile(`^(\d{1,9})(?:@(\d{1,9}))?(?:x(\d{1,5}))?$`)

// parseExtents reads NEW[@PREFIX][xCOUNT].
func parseExtents(specs []string) ([]pathway.Extent, error) {
	const most = 4096
	const mostPositions = 1 << 30 // all sequences together; a plan lists the key chunks of them
	positions := 0
	var extents []pathway.Extent
	for _, s := range specs {
		m := extentSyntax.FindStringSubmatch(s)
		if m == nil {
			return nil, fmt.Errorf("sequence %q: want NEW[@PREFIX][xCOUNT], such as 300, 20@1900 or 1@512x8", s)
		}
		number := func(text string, or int) int {
			if text == "" {
				return or
			}
			n, _ := strconv.Atoi(text) // at most nine digits
			return n
		}
		e := pathway.Extent{New: number(m[1], 0), Prefix: number(m[2], 0)}
		if e.New == 1 && e.Prefix > 0 {
			e.Phase = pathway.Decode
		}
		count := number(m[3], 1)
		if e.New == 0 || count == 0 {
			return nil, fmt.Errorf("sequence %q: wants at least one new token and one sequence", s)
		}
		if len(extents)+count > most {
			return nil, fmt.Errorf("more than %d sequences in one step", most)
		}
		if positions += count * e.Context(); positions > mostPositions {
			return nil, fmt.Errorf("more than %d positions in one step", mostPositions)
		}
		for range count {
			extents = append(extents, e)
		}
	}
	return extents, nil
}
