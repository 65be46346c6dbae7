package cpu

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestTeamRunsEveryItemOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, size := range []int{1, 2, 3, 8} {
		team := newTeam(size)
		for _, n := range []int{0, 1, 2, 7, 1000} {
			counts := make([]atomic.Int32, n)
			busy := make([]atomic.Int32, size)
			team.run(n, func(worker, item int) {
				if busy[worker].Add(1) != 1 {
					t.Errorf("team of %d: two calls on worker %d at once", size, worker)
				}
				counts[item].Add(1)
				busy[worker].Add(-1)
			})
			for i := range counts {
				if c := counts[i].Load(); c != 1 {
					t.Fatalf("team of %d: item %d of %d ran %d times", size, i, n, c)
				}
			}
		}
		team.close()
	}
}

// TestTeamWakes runs jobs after the helpers have parked.
func TestTeamWakes(t *testing.T) {
	defer goleak.VerifyNone(t)
	team := newTeam(3)
	defer team.close()
	for range 20 {
		deadline := time.Now().Add(10 * time.Second)
		for _, h := range team.helpers {
			for !h.parked.Load() {
				if time.Now().After(deadline) {
					t.Fatal("an idle helper does not park")
				}
				time.Sleep(10 * time.Microsecond)
			}
		}
		// Items wait for one another, so every worker must take one.
		var arrived atomic.Int32
		team.run(3, func(int, int) {
			arrived.Add(1)
			for arrived.Load() < 3 {
				time.Sleep(10 * time.Microsecond)
				if time.Now().After(deadline) {
					t.Error("a parked helper does not wake")
					return
				}
			}
		})
	}
}

// TestTeamBlocksForSlowItems lets the caller's patience run out while a helper
// works.
func TestTeamBlocksForSlowItems(t *testing.T) {
	defer goleak.VerifyNone(t)
	team := newTeam(4)
	defer team.close()
	for range 5 {
		var done atomic.Int32
		team.run(4, func(_, item int) {
			time.Sleep(time.Duration(item) * 2 * time.Millisecond)
			done.Add(1)
		})
		if done.Load() != 4 {
			t.Fatalf("run returned after %d of 4 items", done.Load())
		}
	}
}

func TestTeamPassesPanicsOn(t *testing.T) {
	defer goleak.VerifyNone(t)
	team := newTeam(2)
	defer team.close()
	for bad := range 50 {
		func() {
			defer func() {
				v, _ := recover().(string)
				if !strings.HasPrefix(v, "broken invariant\n") || !strings.Contains(v, "TestTeamPassesPanicsOn") {
					t.Errorf("panic value %q", v)
				}
			}()
			team.run(50, func(_, item int) {
				if item == bad {
					panic("broken invariant")
				}
			})
		}()
	}
	// The team still works.
	var n atomic.Int32
	team.run(100, func(int, int) { n.Add(1) })
	if n.Load() != 100 {
		t.Errorf("%d of 100 items ran after a panic", n.Load())
	}
}
