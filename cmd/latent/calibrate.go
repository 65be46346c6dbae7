package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"latent"
	"latent/device"
	"latent/pathway"
)

// calibrateCommand measures what attention costs.
type calibrateCommand struct {
	Out       string `help:"File to write. Default: the place where the other commands look, in the user's cache folder." placeholder:"FILE"`
	MaxTokens int    `help:"Longest context to measure; longer ones than the model has are left out. Default: 8192, on a GPU 16384." placeholder:"N"`
	DryRun    bool   `help:"Measure and print, but write nothing."`
	modelFlags
}

// Help explains what a calibration is for.
func (*calibrateCommand) Help() string {
	return `Times the device's attention operations with this model and fits the costs that the planner compares pathways with. The result
is valid for this machine, number of threads, model shape and formats. Keep the machine quiet meanwhile. Without a calibration the
planner works from operation counts: its plans are as exact, but may not be the fastest.`
}

// Run measures, prints and writes.
func (c *calibrateCommand) Run(t *terminal) error {
	o := c.options(t.progress)
	o.Calibration = "builtin"
	if o.MaxTotalTokens == 0 {
		o.MaxTotalTokens = 2 * device.PageTokens // measurements need memory, not the model's cache
	}
	l, err := latent.Load(context.Background(), o)
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Fprintf(t.err, "latent: measuring %s on %s, which takes some seconds to minutes\n", l.Name(), l.Device().Name)
	start := time.Now()
	costs, err := l.Calibrate(c.MaxTokens)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(t.out, "measured in %s on %s\n\n", time.Since(start).Round(time.Second/10), costs.Key.Device); err != nil {
		return err
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "part\tµs a unit\t")
	for p, v := range costs.Units {
		fmt.Fprintf(w, "%s\t%.4g\t\n", pathway.Part(p), v)
	}
	fmt.Fprintln(w, "\noperation\tsamples\tRMS error\tworst\t")
	for _, r := range costs.Residuals {
		fmt.Fprintf(w, "%s\t%d\t%.0f %%\t%.0f %%\t\n", r.Operation, r.Samples, 100*r.RMS, 100*r.Worst)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if c.DryRun {
		return nil
	}
	path := c.Out
	if path == "" {
		if path, err = costs.Key.CachePath(); err != nil {
			return err
		}
	}
	if err := costs.Save(path); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.out, "\nwritten to %s\n", path)
	return err
}
