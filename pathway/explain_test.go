package pathway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestExplain runs the scripts in testdata/explain. A script configures a
// planner and explains steps:
//
//	planner [model=v32|v3] [heads=N] [tflops=F] [gbps=F] [policy=NAME] [threshold=N] [approximate] [deterministic] [keys=N]
//	explain [json]
//	PHASE PREFIX NEW [POLICY] …
//
// with one extent a line.
func TestExplain(t *testing.T) {
	datadriven.Walk(t, "testdata/explain", func(t *testing.T, path string) {
		var p *Planner
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "planner":
				var err error
				if p, err = scriptPlanner(t, d); err != nil {
					return "error: " + err.Error() + "\n"
				}
				return "ok\n"
			case "explain":
				extents, err := scriptExtents(d.Input)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				var plan Plan
				p.Plan(extents, &plan)
				checkPlan(t, p, extents, &plan)
				var b bytes.Buffer
				if d.HasArg("json") {
					e := json.NewEncoder(&b)
					e.SetIndent("", " ")
					err = e.Encode(p.Explanation(extents, &plan))
				} else {
					err = p.Explain(&b, extents, &plan)
				}
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				// Trailing blanks would be lost by editors.
				lines := strings.Split(b.String(), "\n")
				for i := range lines {
					lines[i] = strings.TrimRight(lines[i], " ")
				}
				return strings.Join(lines, "\n")
			}
			d.Fatalf(t, "unknown command %q", d.Cmd)
			return ""
		})
	})
}

func scriptPlanner(t *testing.T, d *datadriven.TestData) (*Planner, error) {
	g, c := v32(), Config{KVBytesPerKey: 1}
	if d.HasArg("model") {
		var model string
		d.ScanArgs(t, "model", &model)
		if model == "v3" {
			g = v3()
		}
	}
	tflops, gbps, keys := "800", "4460", 8192
	for name, v := range map[string]any{"heads": &g.Heads, "threshold": &c.Threshold, "keys": &keys, "tflops": &tflops, "gbps": &gbps} {
		if d.HasArg(name) {
			d.ScanArgs(t, name, v)
		}
	}
	if d.HasArg("policy") {
		var policy string
		d.ScanArgs(t, "policy", &policy)
		var err error
		if c.Policy, err = ParsePolicy(policy); err != nil {
			return nil, err
		}
	}
	c.AllowApproximate, c.Deterministic = d.HasArg("approximate"), d.HasArg("deterministic")
	c.Geometry, c.WorkspaceBytes = g, int64(keys)
	flops, err := strconv.ParseFloat(tflops, 64)
	if err != nil {
		return nil, err
	}
	bandwidth, err := strconv.ParseFloat(gbps, 64)
	if err != nil {
		return nil, err
	}
	c.Calibration = Estimate(g, flops*1e12, bandwidth*1e9)
	return New(c)
}

func scriptExtents(text string) ([]Extent, error) {
	var extents []Extent
	for line := range strings.Lines(text) {
		var e Extent
		var phase, policy string
		if _, err := fmt.Sscan(line, &phase, &e.Prefix, &e.New); err != nil {
			return nil, fmt.Errorf("extent %q: %w", line, err)
		}
		switch phase {
		case "decode":
			e.Phase = Decode
		case "verify":
			e.Phase = Verify
		}
		if fields := strings.Fields(line); len(fields) > 3 {
			policy = fields[3]
			var err error
			if e.Policy, err = ParsePolicy(policy); err != nil {
				return nil, err
			}
		}
		extents = append(extents, e)
	}
	return extents, nil
}
