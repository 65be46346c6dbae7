package latent

import (
	"context"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"latent/checkpoint"
	"latent/device"
	"latent/device/cuda/driver"
	"latent/pathway"
)

// TestOptionErrors gives every option that is checked by itself values outside
// its range, and wants an OptionError that names it; and values inside, which
// must stay.
func TestOptionErrors(t *testing.T) {
	const most = 1 << 30
	for _, c := range []struct {
		option    string
		good, bad []any
	}{
		{"LoadFormat", []any{"auto", "dummy"}, []any{"Auto", "gguf"}},
		{"Device", []any{"auto", "cpu", "cuda"}, []any{"gpu", "cuda:0"}},
		{"DType", []any{"auto", "float32", "bfloat16"}, []any{"half", "fp8_e4m3"}},
		{"KVCacheDType", []any{"auto", "float32", "bfloat16", "fp8_e4m3"}, []any{"fp8_e5m2", " "}},
		{"AttentionPolicy", []any{"adaptive", "threshold", "mla", "mha"}, []any{"mha-masked", "default"}},
		{"Threads", []any{1, 4096}, []any{-1, 4097}},
		{"SeqLenThreshold", []any{1, most}, []any{-1, most + 1}},
		{"MaxContext", []any{1, most}, []any{-1, most + 1}},
		{"MaxRunning", []any{1, most}, []any{-1, most + 1}},
		{"MaxQueued", []any{1, most}, []any{-1, most + 1}},
		{"ChunkedPrefillSize", []any{1, most}, []any{-1, most + 1}},
		{"MaxTotalTokens", []any{128, most}, []any{-1, 1, 127, most + 1}},
		{"MHAWorkspaceBytes", []any{int64(1), int64(1) << 50}, []any{int64(-1), int64(1)<<50 + 1, int64(math.MaxInt64)}},
		{"MemFractionStatic", []any{1e-9, 1.0}, []any{-0.1, 1.0001, math.NaN(), math.Inf(1), math.Inf(-1)}},
	} {
		for _, value := range c.bad {
			var o Options
			reflect.ValueOf(&o).Elem().FieldByName(c.option).Set(reflect.ValueOf(value))
			_, err := o.withDefaults()
			var option *OptionError
			if !errors.As(err, &option) || option.Option != c.option || option.Want == "" {
				t.Errorf("%s %v: error %v", c.option, value, err)
			}
		}
		for _, value := range c.good {
			var o Options
			reflect.ValueOf(&o).Elem().FieldByName(c.option).Set(reflect.ValueOf(value))
			o, err := o.withDefaults()
			if got := reflect.ValueOf(o).FieldByName(c.option).Interface(); err != nil || got != value {
				t.Errorf("%s %v: became %v, error %v", c.option, value, got, err)
			}
		}
	}
}

// TestOptionDefaults pins what the documentation of Options promises for the
// zero value, by kind of device; and that what is set stays.
func TestOptionDefaults(t *testing.T) {
	for _, want := range []Options{
		{Device: "cpu", MaxRunning: 64, ChunkedPrefillSize: 512, MemFractionStatic: 0.7, MHAWorkspaceBytes: 256 << 20},
		{Device: "cuda", MaxRunning: 256, ChunkedPrefillSize: 8192, MemFractionStatic: 0.88, MHAWorkspaceBytes: 1 << 30},
	} {
		info := device.Info{Kind: want.Device}
		want.Device = "auto"
		want.LoadFormat, want.DType, want.KVCacheDType, want.AttentionPolicy = "auto", "auto", "auto", "adaptive"
		want.MaxQueued, want.policy = 2048, pathway.PolicyAdaptive
		got, err := Options{}.withDefaults()
		if err == nil {
			got, err = got.onDevice(info)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", info.Kind, got, err, want)
		}
		set := Options{MaxRunning: 3, ChunkedPrefillSize: 5, MemFractionStatic: 0.25, MHAWorkspaceBytes: 7, DType: "bfloat16"}
		if got, err := set.onDevice(info); err != nil || !reflect.DeepEqual(got, set) {
			t.Errorf("%s: %+v became %+v, %v", info.Kind, set, got, err)
		}
	}
}

// TestDeviceRefuses asks devices for what they do not have.
func TestDeviceRefuses(t *testing.T) {
	cpu, gpu := device.Info{Kind: "cpu", BatchInvariant: true}, device.Info{Kind: "cuda", Name: "NVIDIA H200"}
	for _, c := range []struct {
		option string
		o      Options
		info   device.Info
		refuse bool
	}{
		{"DType", Options{DType: "float32"}, gpu, true},
		{"DType", Options{DType: "float32"}, cpu, false},
		{"DType", Options{DType: "bfloat16"}, gpu, false},
		{"KVCacheDType", Options{KVCacheDType: "float32"}, gpu, true},
		{"KVCacheDType", Options{KVCacheDType: "float32"}, cpu, false},
		{"KVCacheDType", Options{KVCacheDType: "fp8_e4m3"}, gpu, false},
		{"Deterministic", Options{Deterministic: true}, gpu, true},
		{"Deterministic", Options{Deterministic: true}, cpu, false},
		{"Deterministic", Options{Deterministic: true}, device.Info{Kind: "cuda", BatchInvariant: true}, false},
	} {
		_, err := c.o.onDevice(c.info)
		var option *OptionError
		if c.refuse && (!errors.As(err, &option) || option.Option != c.option || !strings.Contains(option.Want, "device cpu")) || !c.refuse && err != nil {
			t.Errorf("%+v on %s: error %v", c.o, c.info.Kind, err)
		}
	}
}

// TestNoGPU opens devices where there is no driver: a GPU that is asked for is
// an error of the device, one that may be is a reason to take the CPU.
func TestNoGPU(t *testing.T) {
	if _, err := driver.OpenCUDA(driver.Search{}); err == nil {
		t.Skip("there is a GPU")
	}
	_, _, err := openDevice(Options{Device: "cuda"})
	var failed *DeviceError
	if !errors.As(err, &failed) || !noGPU(err) {
		t.Errorf("device cuda: error %v", err)
	}
	for _, c := range []struct {
		device string
		why    bool
	}{{"auto", true}, {"cpu", false}} {
		dev, why, err := openDevice(Options{Device: c.device, Threads: 1, Progress: func(line string) {
			t.Errorf("device %s: told of %q where nothing is amiss", c.device, line)
		}})
		if err != nil {
			t.Fatal(err)
		}
		if dev.Info().Kind != "cpu" || (why != "") != c.why {
			t.Errorf("device %s: %s because of %q", c.device, dev.Info().Kind, why)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMemoryErrors words what a device refuses, with the figures and what to
// change.
func TestMemoryErrors(t *testing.T) {
	refused := errors.New("cuda: allocate 100 MiB with 3 of 1000 MiB free")
	mem := Memory{Budget: 880 << 20, Weights: 500 << 20, Workspace: 80 << 20}
	planned := mem
	planned.Cache = 300 << 20
	for want, e := range map[string]*MemoryError{
		"of 880 MiB (1000 MiB of the device's memory times mem-fraction-static), weights take 500 MiB and workspace 80 MiB, " +
			"but the attention cache needs 301 MiB; raise mem-fraction-static": {Need: 300<<20 + 1, Total: 1000 << 20, Memory: mem},
		"of the device's 1000 MiB the plan gives weights 500 MiB, workspace 80 MiB and the attention cache 300 MiB": {Total: 1000 << 20, Memory: planned, Err: refused},
		"the weights take about 500 MiB, the device has 1000 MiB: cuda: allocate":                                   {Total: 1000 << 20, Memory: Memory{Weights: 500 << 20}, Err: refused},
	} {
		if got := e.Error(); !strings.Contains(got, want) || errors.Is(e, refused) != (e.Err != nil) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

// TestFormats lists which arithmetic and cache format follow from options and
// checkpoint.
func TestFormats(t *testing.T) {
	for _, c := range []struct {
		dtype, cache, stored string
		arithmetic           device.DType
		format               device.CacheFormat
	}{
		{"auto", "auto", "float32", device.F32, device.CacheF32},
		{"auto", "auto", "bfloat16", device.BF16, device.CacheBF16},
		{"auto", "auto", "float16", device.F32, device.CacheF32},
		{"auto", "auto", "", device.F32, device.CacheF32},
		{"auto", "float32", "bfloat16", device.BF16, device.CacheF32},
		{"auto", "bfloat16", "float32", device.F32, device.CacheBF16},
		{"auto", "fp8_e4m3", "bfloat16", device.BF16, device.CacheF8},
		{"float32", "auto", "bfloat16", device.F32, device.CacheF32},
		{"float32", "bfloat16", "bfloat16", device.F32, device.CacheBF16},
		{"float32", "fp8_e4m3", "float32", device.F32, device.CacheF8},
		{"bfloat16", "auto", "float32", device.BF16, device.CacheBF16},
		{"bfloat16", "float32", "float32", device.BF16, device.CacheF32},
		{"bfloat16", "bfloat16", "float32", device.BF16, device.CacheBF16},
	} {
		cpu := device.Info{Kind: "cpu"}
		o, err := Options{DType: c.dtype, KVCacheDType: c.cache}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		arithmetic, format := o.formats(&checkpoint.Config{DType: c.stored}, cpu)
		if arithmetic != c.arithmetic || format != c.format {
			t.Errorf("dtype %s, cache %s, stored as %q: %v and %v, want %v and %v", c.dtype, c.cache, c.stored, arithmetic, format, c.arithmetic, c.format)
		}
	}
}

// TestFormatsOnGPU: whatever is stored, a GPU computes in bfloat16.
func TestFormatsOnGPU(t *testing.T) {
	for _, stored := range []string{"float32", "bfloat16", "float16", ""} {
		for cache, format := range map[string]device.CacheFormat{"auto": device.CacheBF16, "bfloat16": device.CacheBF16, "fp8_e4m3": device.CacheF8} {
			o := Options{DType: "auto", KVCacheDType: cache}
			got := o.modelOptions(&checkpoint.Config{DType: stored}, device.Info{Kind: "cuda"})
			if got.Arithmetic != device.BF16 || got.CacheFormat != format || got.ScoreBytes != 512<<20 || got.AbsorbBytes != 512<<20 {
				t.Errorf("cache %s, stored as %q: %+v", cache, stored, got)
			}
		}
	}
}

// TestMemoryBudget walks the edges of the budget: what a MemoryError asks for
// suffices, a page less does not.
func TestMemoryBudget(t *testing.T) {
	ctx := context.Background()
	load := func(o Options) (Memory, *MemoryError) {
		t.Helper()
		o.Device, o.Calibration = "cpu", "builtin"
		l, err := Load(ctx, o)
		var memory *MemoryError
		switch {
		case errors.As(err, &memory):
			return Memory{}, memory
		case err != nil:
			t.Fatal(err)
		}
		defer l.Close()
		return l.Memory(), nil
	}
	plenty, err := load(Options{MaxTotalTokens: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if plenty.Pages != 16 || plenty.Cache%16 != 0 {
		t.Errorf("1000 tokens took %d pages, want 16 of 64 tokens", plenty.Pages)
	}
	page := plenty.Cache / 16

	_, refused := load(Options{MaxTotalTokens: 1000, MemFractionStatic: 1e-6})
	if refused == nil {
		t.Fatal("a millionth of the memory was enough")
	}
	if refused.Need != plenty.Cache || refused.Memory.Weights != plenty.Weights || refused.Memory.Workspace != plenty.Workspace ||
		refused.Memory.Budget != int64(float64(refused.Total)*1e-6) {
		t.Errorf("the error counts %+v, loaded were %+v", refused, plenty)
	}

	need := refused.Memory.Weights + refused.Memory.Workspace + refused.Need
	fraction := func(bytes int64) float64 { return (float64(bytes) + 0.5) / float64(refused.Total) }
	if exact, err := load(Options{MaxTotalTokens: 1000, MemFractionStatic: fraction(need)}); err != nil || exact.Pages != 16 {
		t.Errorf("what the error asks for: %d pages, error %v", exact.Pages, err)
	}
	if _, err := load(Options{MaxTotalTokens: 1000, MemFractionStatic: fraction(need - 1)}); err == nil {
		t.Error("a byte less was enough")
	}

	// Without a size of its own the cache takes what is left, two pages at least.
	if rest, err := load(Options{MemFractionStatic: fraction(need)}); err != nil || rest.Pages != 16 {
		t.Errorf("the rest of the budget: %d pages, error %v; want 16", rest.Pages, err)
	}
	least := need - 14*page
	if rest, err := load(Options{MemFractionStatic: fraction(least)}); err != nil || rest.Pages != 2 {
		t.Errorf("room for two pages: %d pages, error %v", rest.Pages, err)
	}
	if _, err := load(Options{MemFractionStatic: fraction(least - 1)}); err == nil || err.Need != 2*page {
		t.Errorf("room for less than two pages: error %+v, want a need of %d bytes", err, 2*page)
	}
	// And no more than is of use.
	if all, err := load(Options{MaxRunning: 1, MaxContext: 640}); err != nil || all.Pages != 10 {
		t.Errorf("one sequence of 640 tokens: %d pages, error %v; want 10", all.Pages, err)
	}
}

// mute is a device that does not know its memory.
type mute struct{ device.Device }

func (d mute) Info() device.Info {
	info := d.Device.Info()
	info.Memory = 0
	return info
}

// TestUnknownMemory loads a model where the system does not tell how much memory
// there is, with an assumed amount.
func TestUnknownMemory(t *testing.T) {
	opts, err := Options{Device: "cpu", Calibration: "builtin", MemFractionStatic: 0.5}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l := &Loaded{opts: opts}
	defer func() { l.Close() }()
	silence := func() error { l.device = mute{l.device}; return nil }
	for _, step := range []func() error{l.openCheckpoint, l.openDevice, silence, l.loadModel, l.plan, l.allocate} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if m := l.Memory(); m.Budget != 4<<30 || m.Pages < 64 || m.Weights+m.Workspace+m.Cache > m.Budget {
		t.Errorf("memory %+v, want pages within half of 8 GiB", m)
	}
}

// TestEngineKeepsItsModel: what would write over the cache of running requests,
// or use the device beside them, is refused by an engine; and closing an idle
// engine, once or twice, is no error.
func TestEngineKeepsItsModel(t *testing.T) {
	e, err := Open(context.Background(), Options{Device: "cpu", Calibration: "builtin", MaxTotalTokens: 128})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Evaluate([][]int32{{1, 2}}, 0); !errors.Is(err, errServing) {
		t.Errorf("Evaluate: %v", err)
	}
	if _, err := e.Calibrate(1024); !errors.Is(err, errServing) {
		t.Errorf("Calibrate: %v", err)
	}
	for range 2 {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}
