package devicetest

import (
	"fmt"
	"time"

	"latent/device"
)

// checkStopwatch times a stretch with work between two without, and compares
// with the host's clock, within what clocks differ by.
func checkStopwatch(e *env) error {
	const resolution = 2 * time.Millisecond
	src, _ := e.matrix(device.F32, 300, 300, 1)
	w := must(e.dev.LoadMatrix(e.arithmetic, src))
	s := e.newScene(shape{0, 64})
	in := e.tensor(e.act, 300, e.normal(e.act, s.rows()*300, 1))
	out := e.alloc(e.act, s.rows(), 300)
	e.dev.Begin(&s.step)
	work := func(times int) {
		for range times {
			e.dev.Linear(out.Tensor, in.Tensor, w, false)
		}
	}
	work(1)
	if err := e.dev.Sync(); err != nil {
		return err
	}
	watch := device.NewStopwatch(e.dev)
	if laps := watch.Laps(nil); len(laps) != 0 {
		return fmt.Errorf("%d laps without a mark", len(laps))
	}
	watch.Mark()
	work(3)
	watch.Mark()
	watch.Reset()

	const before = 12345 * time.Hour
	start := time.Now()
	watch.Mark()
	watch.Mark()
	work(20)
	watch.Mark()
	watch.Mark()
	laps := watch.Laps([]time.Duration{before})
	elapsed := time.Since(start)
	if len(laps) != 4 || laps[0] != before {
		return fmt.Errorf("laps of 4 marks, appended to one: %v", laps)
	}
	sum := time.Duration(0)
	for _, lap := range laps[1:] {
		if lap < 0 {
			return fmt.Errorf("a negative lap: %v", laps[1:])
		}
		sum += lap
	}
	if sum > elapsed+resolution {
		return fmt.Errorf("laps of %v in %v", laps[1:], elapsed)
	}
	if laps[2] == 0 {
		return fmt.Errorf("20 products between the second and the third mark took %v", laps[1:])
	}
	watch.Mark()
	if again := watch.Laps(nil); len(again) != 4 {
		return fmt.Errorf("a mark later there are %d laps, want 4", len(again))
	}
	return nil
}
