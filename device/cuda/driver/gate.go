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

// vigil is how long an executor goes on watching while somebody waits for the
// device, and will have the next step to queue when it is done. To wake an
// executor then costs about 100 µs, as it is locked to a thread that is not the
// one which wakes first; in steps of more than a vigil that is nothing.
const vigil = 20 * time.Millisecond

// gate lets one goroutine wait until a counter that others advance has changed.
type gate struct {
	asleep atomic.Bool
	token  chan struct{} // one token, for whoever is asleep
	vigils atomic.Int32  // reasons to go on watching
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

// await returns when the counter is another than old.
func (g *gate) await(counter *atomic.Uint64, old uint64, spin bool) {
	if spin && g.watch(counter, old) {
		return
	}
	for counter.Load() == old {
		g.asleep.Store(true)
		if counter.Load() != old && g.asleep.CompareAndSwap(true, false) {
			return
		}
		<-g.token // whoever cleared asleep sends it
	}
}

// watch spins, and tells whether the counter has changed.
func (g *gate) watch(counter *atomic.Uint64, old uint64) bool {
	start := time.Now()
	for reason := start; ; { // the last time there was one
		for range 32 { // time.Now costs as much as some loads
			if counter.Load() != old {
				return true
			}
		}
		now := time.Now()
		if g.vigils.Load() > 0 {
			reason = now
		}
		if now.Sub(reason) > spinTime || now.Sub(start) > vigil {
			return false
		}
	}
}
