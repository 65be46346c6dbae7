package device

import "time"

// Stopwatch measures what operations of a device take. Between two marks lie
// the operations that were called between them.
//
// A stopwatch belongs to its device: it is used by the same goroutine, keeps
// what it needs for later measurements, and goes when the device is closed.
type Stopwatch interface {
	// Reset forgets all marks.
	Reset()
	// Mark notes when the operations so far are done. It neither waits nor, in
	// the long run, allocates.
	Mark()
	// Laps appends the time from each mark to the next to dst: one less than
	// there are marks. It waits until the last has been passed. If the device
	// has failed, laps may be 0.
	Laps(dst []time.Duration) []time.Duration
}

// Timed is a device whose operations may still run when their calls return, so
// that only the device can tell what they take. See [NewStopwatch].
type Timed interface {
	Device
	NewStopwatch() Stopwatch
}

// NewStopwatch returns a stopwatch for d: its own if it is [Timed]. Otherwise
// operations are done when their calls return, and it reads the clock.
func NewStopwatch(d Device) Stopwatch {
	if t, ok := d.(Timed); ok {
		return t.NewStopwatch()
	}
	return new(clock)
}

// clock is a stopwatch for synchronous devices.
type clock struct{ marks []time.Time }

func (c *clock) Reset() { c.marks = c.marks[:0] }
func (c *clock) Mark()  { c.marks = append(c.marks, time.Now()) }

func (c *clock) Laps(dst []time.Duration) []time.Duration {
	for i := 1; i < len(c.marks); i++ {
		dst = append(dst, c.marks[i].Sub(c.marks[i-1]))
	}
	return dst
}
