package driver

import (
	"sync/atomic"
	"time"
)

// spinTime is how long a goroutine watches a counter before it sleeps. Waking it
// costs 30 to 60 µs on the virtual machines measured; an executor that outlasts
// this is still awake when the goroutine that it answered comes with the next
// command. It is paid once for each burst of commands.
const spinTime = 100 * time.Microsecond

// gate lets one goroutine wait until a counter that others advance has changed.
type gate struct {
	asleep atomic.Bool
	token  chan struct{} // one token, for whoever is asleep
}

func newGate() gate { return gate{token: make(chan struct{}, 1)} }

// open wakes the waiting goroutine, if one sleeps, and tells whether one did.
// The counter has been advanced before.
func (g *gate) open() bool {
	if g.asleep.Load() && g.asleep.CompareAndSwap(true, false) {
		g.token <- struct{}{}
		return true
	}
	return false
}

// await returns when the counter may be another than old.
func (g *gate) await(counter *atomic.Uint64, old uint64, spin bool) {
	if spin {
		for start := time.Now(); time.Since(start) < spinTime; {
			for range 32 { // time.Since costs as much as some loads
				if counter.Load() != old {
					return
				}
			}
		}
	}
	g.asleep.Store(true)
	if counter.Load() != old && g.asleep.CompareAndSwap(true, false) {
		return
	}
	<-g.token // whoever cleared asleep sends it
}
