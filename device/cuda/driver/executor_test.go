package driver

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// want compares the calls that a fake noted.
func (f *fake) want(t *testing.T, calls ...string) {
	t.Helper()
	if diff := cmp.Diff(calls, f.taken()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestOrder(t *testing.T) {
	f := newFake()
	e := f.executor(t)
	k := kernel(t, e, "k")
	if k.Registers != 40 || k.StaticShared != 1024 || k.ParamBytes != 16 || k.LocalBytes != 0 {
		t.Errorf("the function is %+v", k)
	}
	f.want(t, "retain", "create stream", "load", "get k")
	p, err := e.Alloc(1000)
	if err != nil {
		t.Fatal(err)
	}
	start(e, k, 1)
	e.Fill(p, 7, 10)
	start(e, k, 2)
	e.Copy(p+16, p, 8)
	e.Enqueue(func(stream uintptr) error {
		return f.api().check("matmul", "", f.call(fmt.Sprint("matmul on ", stream)))
	})
	e.Copy(p, p+16, 0)
	e.Fill(p, 7, 0)
	got := make([]byte, 20)
	if err := e.Download(got, p+8); err != nil {
		t.Fatal(err)
	}
	if want := append(append(append([]byte{7, 7}, make([]byte, 6)...), bytes.Repeat([]byte{7}, 8)...), 0, 0, 0, 0); !bytes.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	e.Free(p)
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	f.want(t, "alloc", "k(1)", "fill", "k(2)", "copy over", fmt.Sprint("matmul on ", e.stream), "sync", "copy out", "sync", "free", "sync")
}

func TestErrorSticks(t *testing.T) {
	f := newFake()
	e := f.executor(t)
	k, bad := kernel(t, e, "k"), kernel(t, e, "bad")
	p, err := e.Alloc(16)
	if err != nil {
		t.Fatal(err)
	}
	f.taken()
	f.fail("bad(2)", outOfResources)
	start(e, k, 1)
	start(e, bad, 2)
	start(e, k, 3)
	e.Fill(p, 0, 16)
	e.Free(p) // is done nevertheless
	ran := false
	doErr := e.Do(func() error { ran = true; return nil })
	downloadErr := e.Download(make([]byte, 1), p)
	err = e.Sync()
	var failed *Error
	if !errors.As(err, &failed) || failed.Code != int(outOfResources) || !strings.Contains(err.Error(), "bad, grid [1 1 1], block [32 1 1]") || failed.Advice == "" {
		t.Errorf("Sync returns %v", err)
	}
	if ran || doErr == nil || doErr.Error() != err.Error() || downloadErr == nil || downloadErr.Error() != err.Error() {
		t.Errorf("Do returns %v, ran: %t; Download returns %v", doErr, ran, downloadErr)
	}
	f.want(t, "k(1)", "bad(2)", "free", "sync")
	start(e, k, 4)
	if err := e.Sync(); err != nil {
		t.Errorf("Sync did not clear the error: %v", err)
	}
	f.want(t, "k(4)", "sync")
	if err := e.Do(func() error { return ErrNoDevice }); err != ErrNoDevice {
		t.Errorf("Do returns %v", err)
	}
	if err := e.Sync(); err != nil {
		t.Errorf("an error that Do returned stayed: %v", err)
	}
}

// TestLostContext: a kernel that fails is seen by a later call, and for good.
func TestLostContext(t *testing.T) {
	f := newFake()
	e, err := newExecutor(f.api(), DeviceInfo{})
	if err != nil {
		t.Fatal(err)
	}
	k := kernel(t, e, "k")
	f.fail("sync", illegalAddress)
	start(e, k, 1)
	for i := range 3 {
		err := e.Sync()
		var failed *Error
		if !errors.As(err, &failed) || !failed.Lost() || !strings.Contains(err.Error(), SyncEnv+"=1") || !strings.Contains(err.Error(), "compute-sanitizer") {
			t.Errorf("Sync %d returns %v", i, err)
		}
		start(e, k, 2)
	}
	if _, err := e.Alloc(16); err == nil || !strings.Contains(err.Error(), "ILLEGAL_ADDRESS") {
		t.Errorf("Alloc returns %v", err)
	}
	if err := e.Close(); err == nil || !strings.Contains(err.Error(), "ILLEGAL_ADDRESS") {
		t.Errorf("Close returns %v", err)
	}
	if n := len(f.live); f.live["context"]+f.live["stream"] != 0 {
		t.Errorf("%d kinds are left: %v", n, f.live)
	}
}

func TestSyncEnvironment(t *testing.T) {
	t.Setenv(SyncEnv, "1")
	f := newFake()
	e := f.executor(t)
	k := kernel(t, e, "k")
	f.taken()
	start(e, k, 1)
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	f.want(t, "k(1)", "sync", "sync")
	f.fail("sync", misalignedAddress-1000) // some code after which work goes on
	start(e, k, 2)
	if err := e.Sync(); err == nil || !strings.Contains(err.Error(), "after k") {
		t.Errorf("the error does not name the kernel: %v", err)
	}
	f.taken()
	g, err := e.Capture(func() error { start(e, k, 3); return nil })
	if err != nil {
		t.Fatal(err)
	}
	f.want(t, "begin", "k(3)", "end", "instantiate", "upload graph", "destroy graph")
	g.Free()
}

func TestClose(t *testing.T) {
	f := newFake()
	e := f.executor(t)
	k := kernel(t, e, "k")
	p, err := e.AllocPinned(100)
	if err != nil {
		t.Fatal(err)
	}
	p.Free()
	p.Free()
	ev, err := e.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	ev.Free()
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	f.taken()
	start(e, k, 1)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	f.want(t, "k(1)", "sync", "destroy stream", "release")
	if err := e.Close(); err != nil {
		t.Errorf("a second Close returns %v", err)
	}
	if err := e.Sync(); err != ErrClosed {
		t.Errorf("Sync returns %v", err)
	}
	if _, err := e.Alloc(1); err != ErrClosed {
		t.Errorf("Alloc returns %v", err)
	}
	if err := e.Download(make([]byte, 1), fakeBase); err != ErrClosed {
		t.Errorf("Download returns %v", err)
	}
	e.Free(fakeBase)
	func() {
		defer func() {
			if v := fmt.Sprint(recover()); !strings.Contains(v, "closed executor") {
				t.Errorf("Launch panics with %v", v)
			}
		}()
		start(e, k, 2)
	}()
	f.want(t)
}

func TestOpenFails(t *testing.T) {
	for _, call := range []string{"retain", "create stream"} {
		f := newFake()
		f.fail(call, outOfMemory)
		_, err := newExecutor(f.api(), DeviceInfo{})
		if !errors.Is(err, ErrOutOfMemory) || errors.Is(err, ErrNoDevice) || f.live["context"] != 0 {
			t.Errorf("%s fails: %v, left: %v", call, err, f.live)
		}
	}
}

// TestSharedMemory: what exceeds the defaults is asked for once.
func TestSharedMemory(t *testing.T) {
	f := newFake()
	e := f.executor(t)
	k := kernel(t, e, "k")
	f.taken()
	one := [3]uint32{1, 1, 1}
	var params [16]byte
	launch := func(shared, cluster uint32) {
		e.Launch(&Launch{Function: k, Grid: one, Block: one, Shared: shared, Cluster: [3]uint32{cluster, 1, 1}}, unsafe.Pointer(&params), 16)
	}
	const most = 232448 - 1024 // without the static part
	launch(47<<10, 0)
	launch(47<<10+1, 8)
	launch(most, 16)
	launch(most, 16)
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	f.want(t, "k(0)", fmt.Sprint("set 8 to ", most), "k(0)", "set 14 to 1", "k(0)", "k(0)", "sync")
	launch(most+1, 0)
	if err := e.Sync(); err == nil || !strings.Contains(err.Error(), fmt.Sprint(most)) {
		t.Errorf("too much shared memory: %v", err)
	}
}

func TestWrongParameters(t *testing.T) {
	f := newFake()
	e := f.executor(t)
	k := kernel(t, e, "k")
	func() {
		defer func() {
			if v := fmt.Sprint(recover()); !strings.Contains(v, "k takes a parameter of 16 bytes, launched with 8") {
				t.Errorf("Launch panics with %v", v)
			}
		}()
		var params [8]byte
		e.Launch(&Launch{Function: k}, unsafe.Pointer(&params), 8)
	}()
	m, err := e.LoadModule([]byte("code"))
	if err != nil {
		t.Fatal(err)
	}
	f.params[1] = 8
	if _, err := m.Function("two"); err == nil || !strings.Contains(err.Error(), "more than one parameter") {
		t.Errorf("two parameters: %v", err)
	}
	f.params = map[int]int{0: maxParams + 1}
	if _, err := m.Function("long"); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxParams)) {
		t.Errorf("a long parameter: %v", err)
	}
	f.params = nil
	if k, err := m.Function("none"); err != nil || k.ParamBytes != 0 {
		t.Errorf("no parameter: %+v, %v", k, err)
	}
	f.fail("get k", 500)
	if _, err := m.Function("k"); err == nil || !strings.Contains(err.Error(), "cuModuleGetFunction (k)") {
		t.Errorf("a kernel that is not there: %v", err)
	}
	if _, err := e.LoadModule(nil); err == nil {
		t.Errorf("a module of nothing loads")
	}
}

// TestRing queues more than the ring holds, from several goroutines, with
// pauses in which the executor falls asleep.
func TestRing(t *testing.T) {
	const goroutines, each = 4, 3 * ringSize
	f := newFake()
	e := f.executor(t)
	next := [goroutines]int{}
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				e.Enqueue(func(uintptr) error {
					if next[g] != i {
						t.Errorf("goroutine %d: %d instead of %d", g, i, next[g])
					}
					next[g]++
					return nil
				})
				if i%1000 == 999 {
					time.Sleep(3 * spinTime)
				}
				if i%500 == g {
					if err := e.Do(func() error { return nil }); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := e.Sync(); err != nil || next != [goroutines]int{each, each, each, each} {
		t.Errorf("%v ran, error %v", next, err)
	}
}

// TestAlignment: parameters lie as tensor maps must.
func TestAlignment(t *testing.T) {
	f := newFake()
	a := f.api()
	var addresses []uintptr
	a.launch = func(_ uintptr, _ *Launch, _ uintptr, parameter unsafe.Pointer) result {
		addresses = append(addresses, uintptr(parameter))
		return success
	}
	e, err := newExecutor(a, DeviceInfo{})
	if err != nil {
		t.Fatal(err)
	}
	k := kernel(t, e, "k")
	for range 3 {
		start(e, k, 0)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if address%64 != 0 {
			t.Errorf("a parameter lies at %#x", address)
		}
	}
}

// TestNoAllocation: queueing allocates nothing, running neither.
func TestNoAllocation(t *testing.T) {
	f := newFake()
	e := f.executor(t)
	k := kernel(t, e, "k")
	ev, err := e.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	f.quiet = true
	work := func(uintptr) error { return nil }
	got := testing.AllocsPerRun(20, func() {
		for i := range 2 * ringSize {
			start(e, k, byte(i))
			e.Enqueue(work)
		}
		e.Record(ev)
		if err := e.Sync(); err != nil {
			t.Error(err)
		}
	})
	if got >= 1 {
		t.Errorf("%v allocations for %d commands", got, 4*ringSize)
	}
	f.quiet = false
	ev.Free()
}

// TestUploadBytes uploads pieces of random sizes, over many turns of the staging
// buffers, from memory that is overwritten at once.
func TestUploadBytes(t *testing.T) {
	f := newFake()
	e := f.executor(t)
	r := rand.New(rand.NewChaCha8([32]byte{1}))
	source := make([]byte, 41<<20)
	var want []byte
	const total = 150 << 20
	p, err := e.Alloc(total)
	if err != nil {
		t.Fatal(err)
	}
	e.UploadBytes(p, nil)
	for len(want) < total {
		n := r.IntN(1 << r.IntN(26))
		if r.IntN(20) == 0 {
			n = len(source)
		}
		n = min(n, total-len(want))
		piece := source[:n]
		for i := 0; i < n; i += 1 + r.IntN(1000) {
			piece[i] = byte(r.Uint32())
		}
		e.UploadBytes(p+Ptr(len(want)), piece)
		want = append(want, piece...)
		clear(piece)
	}
	got := make([]byte, total)
	if err := e.Download(got, p); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("byte %d is %d, want %d", i, got[i], want[i])
			}
		}
	}
	f.fail("copy in", illegalAddress-1000)
	e.UploadBytes(p, want[:3*stagingBytes])
	if err := e.Sync(); err == nil {
		t.Error("a copy failed, but not Sync")
	}
	e.UploadBytes(p, want[:3*stagingBytes])
	if err := e.Sync(); err != nil {
		t.Error(err)
	}
	e.Free(p)
}

func TestUploadPinned(t *testing.T) {
	f := newFake()
	e := f.executor(t)
	p, err := e.Alloc(100)
	if err != nil {
		t.Fatal(err)
	}
	host, err := e.AllocPinned(50)
	if err != nil {
		t.Fatal(err)
	}
	copy(host.Bytes(), "0123456789")
	e.Upload(p+1, host, 2, 5)
	e.Upload(p, host, 50, 0)
	ev, err := e.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	e.Record(ev)
	if err := e.WaitEvent(ev); err != nil {
		t.Fatal(err)
	}
	clear(host.Bytes())
	if d, err := e.Elapsed(ev, ev); d != 1500*time.Microsecond || err != nil {
		t.Errorf("Elapsed returns %v, %v", d, err)
	}
	got := make([]byte, 7)
	if err := e.Download(got, p); err != nil || string(got) != "\x0023456\x00" {
		t.Errorf("got %q, %v", got, err)
	}
	if free, total, err := e.MemInfo(); free != 1 || total != 2 || err != nil {
		t.Errorf("MemInfo returns %d, %d, %v", free, total, err)
	}
	host.Free()
	ev.Free()
	e.Free(p)
}

// BenchmarkLaunch is the cost of queueing and running a launch but for the
// driver's part, against a call through a channel.
func BenchmarkLaunch(b *testing.B) {
	f := newFake()
	e := f.executor(b)
	k := kernel(b, e, "k")
	f.quiet = true
	for b.Loop() {
		start(e, k, 1)
	}
	if err := e.Sync(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDo is the time of a round trip to an executor that is awake.
func BenchmarkDo(b *testing.B) {
	e := newFake().executor(b)
	for b.Loop() {
		if err := e.Do(func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWake is the time of a round trip to an executor that sleeps.
func BenchmarkWake(b *testing.B) {
	e := newFake().executor(b)
	var total time.Duration
	for b.Loop() {
		for !e.work.asleep.Load() {
			runtime.Gosched()
		}
		time.Sleep(50 * time.Microsecond)
		begin := time.Now()
		if err := e.Do(func() error { return nil }); err != nil {
			b.Fatal(err)
		}
		total += time.Since(begin)
	}
	b.ReportMetric(float64(total.Nanoseconds())/float64(b.N), "ns/wake")
}
