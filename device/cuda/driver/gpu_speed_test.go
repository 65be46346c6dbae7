package driver

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"
)

// TestGPUSpeed measures what the package costs, beside what it calls.
func TestGPUSpeed(t *testing.T) {
	if testing.Short() {
		t.Skip("measures for some seconds")
	}
	g := openGPU(t)
	f, sleep := g.kernel(t, "empty"), g.kernel(t, "sleep")
	l := &Launch{Function: f, Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{32, 1, 1}}
	var a add
	burst := func(n int) (queued, done time.Duration) {
		begin := time.Now()
		for range n {
			g.Launch(l, unsafe.Pointer(&a), unsafe.Sizeof(a))
		}
		queued = time.Since(begin)
		g.sync(t)
		return queued, time.Since(begin)
	}
	burst(100)
	t.Logf("allocations for 1000 launches and Sync: %v", testing.AllocsPerRun(5, func() { burst(1000) }))
	for _, n := range []int{1, 10, 100, 1000, 10_000} {
		queued, done := burst(n)
		t.Logf("%5d launches: %v each to queue, %v each until all ran", n, queued/time.Duration(n), done/time.Duration(n))
	}
	dependent := *l
	dependent.Dependent = true
	l = &dependent
	burst(100)
	queued, done := burst(1000)
	t.Logf(" 1000 dependent launches: %v each to queue, %v each until all ran", queued/1000, done/1000)
	l = &Launch{Function: f, Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{32, 1, 1}}
	graph, err := g.Capture(func() error {
		for range 1000 {
			g.Launch(l, unsafe.Pointer(&a), unsafe.Sizeof(a))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		begin := time.Now()
		graph.Launch()
		g.sync(t)
		t.Logf("a graph of 1000 launches: %v", time.Since(begin))
	}
	graph.Free()

	median := func(n int, f func()) time.Duration {
		var list []time.Duration
		for range n {
			begin := time.Now()
			f()
			list = append(list, time.Since(begin))
		}
		slices.Sort(list)
		return list[n/2]
	}
	small := g.alloc(t, 1<<20)
	buffer := make([]byte, 1<<20)
	t.Logf("Do: %v", median(500, func() { _ = g.Do(nothing) }))
	t.Logf("Do of a sleeping executor, with 200 µs of sleep: %v", median(100, func() { time.Sleep(200 * time.Microsecond); _ = g.Do(nothing) }))
	t.Logf("sleep of 200 µs: %v", median(100, func() { time.Sleep(200 * time.Microsecond) }))
	t.Logf("Sync of nothing: %v", median(500, func() { g.sync(t) }))
	t.Logf("Launch and Sync: %v", median(500, func() { burst(1) }))
	for _, work := range []time.Duration{0, 20 * time.Microsecond, 80 * time.Microsecond, 500 * time.Microsecond} {
		t.Logf("Launch of 1 ms and Sync, the goroutine busy for %v between: %v", work, median(50, func() {
			for begin := time.Now(); time.Since(begin) < work; {
			}
			run(g, sleep, 1, 1, uint64(1e6))
			g.sync(t)
		})-work)
	}
	var direct time.Duration
	_ = g.Do(func() error {
		direct = median(500, func() {
			g.api.launch(f.handle, l, g.stream, unsafe.Pointer(&a))
			g.api.syncStream(g.stream)
		})
		return nil
	})
	t.Logf("the same of the driver alone: %v", direct)
	_ = g.Do(func() error {
		begin := time.Now()
		for range 1000 {
			g.api.launch(f.handle, l, g.stream, unsafe.Pointer(&a))
		}
		t.Logf("1000 launches by the driver alone: %v each", time.Since(begin)/1000)
		return nil
	})
	g.sync(t)
	spec := TensorMapSpec{Type: MapBF16, Base: 4096, Dims: []uint64{64, 1000}, Strides: []uint64{128}, Box: []uint32{64, 64}, Swizzle: 128}
	t.Logf("EncodeTensorMap: %v, %v allocations", median(500, func() { _, _ = EncodeTensorMap(g.cuda, spec) }),
		testing.AllocsPerRun(100, func() { _, _ = EncodeTensorMap(g.cuda, spec) }))
	t.Logf("UploadBytes of 4 KiB: %v", median(500, func() { g.UploadBytes(small, buffer[:4096]) }))
	for _, n := range []int{64, 4096, 64 << 10, 1 << 20} {
		t.Logf("Download of %d bytes: %v", n, median(100, func() { _ = g.Download(buffer[:n], small) }))
	}

	const size = 1 << 30
	source := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{4}).Read(source) // cannot fail
	p := g.alloc(t, size)
	rate := func(what string, n int, f func()) {
		best := time.Hour
		for range 3 {
			begin := time.Now()
			f()
			g.sync(t)
			best = min(best, time.Since(begin))
		}
		t.Logf("%s: %.1f GB/s", what, float64(n)/best.Seconds()/1e9)
	}
	rate("UploadBytes of 1 GiB", size, func() { g.UploadBytes(p, source) })
	rate("UploadBytes of 1 GiB by 14 MiB", size, func() {
		for at := 0; at < size; at += 14 << 20 {
			g.UploadBytes(p+Ptr(at), source[at:min(size, at+14<<20)])
		}
	})
	host, err := g.AllocPinned(256 << 20)
	if err != nil {
		t.Fatal(err)
	}
	rate("Upload of 256 MiB", 256<<20, func() { g.Upload(p, host, 0, 256<<20) })
	for _, copiers := range []int{1, 2, 3, 4, 6, 8} {
		rate(fmt.Sprintf("%d goroutines copy 16 MiB to pinned memory", copiers), 256<<20, func() {
			for at := 0; at < 256<<20; at += 16 << 20 {
				copyParallel(host.Bytes()[at:at+16<<20], source[at:at+16<<20], copiers)
			}
		})
	}
	rate("plain copy from pageable memory", 256<<20, func() {
		g.Enqueue(func(stream uintptr) error {
			g.api.copyIn(p, unsafe.Pointer(&source[0]), 256<<20, stream)
			return nil
		})
	})
	host.Free()
	rate("Download of 256 MiB", 256<<20, func() { _ = g.Download(source[:256<<20], p) })
	rate("Copy of 512 MiB", 512<<20, func() { g.Copy(p, p+512<<20, 512<<20) })
	rate("Fill of 1 GiB", size, func() { g.Fill(p, 1, size) })
}
