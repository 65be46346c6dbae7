package latent

import (
	"context"
	"errors"
	"math"
	"reflect"
	"testing"

	"latent/checkpoint"
	"latent/device"
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
// zero value.
func TestOptionDefaults(t *testing.T) {
	got, err := Options{}.withDefaults()
	want := Options{
		LoadFormat: "auto", DType: "auto", KVCacheDType: "auto", AttentionPolicy: "adaptive",
		MaxRunning: 64, MaxQueued: 2048, ChunkedPrefillSize: 512, MemFractionStatic: 0.7, policy: pathway.PolicyAdaptive,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
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
		o, err := Options{DType: c.dtype, KVCacheDType: c.cache}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		arithmetic, format := o.formats(&checkpoint.Config{DType: c.stored})
		if arithmetic != c.arithmetic || format != c.format {
			t.Errorf("dtype %s, cache %s, stored as %q: %v and %v, want %v and %v", c.dtype, c.cache, c.stored, arithmetic, format, c.arithmetic, c.format)
		}
	}
}

// TestMemoryBudget walks the edges of the budget: what a MemoryError asks for
// suffices, a page less does not.
func TestMemoryBudget(t *testing.T) {
	ctx := context.Background()
	load := func(o Options) (Memory, *MemoryError) {
		t.Helper()
		o.Calibration = "builtin"
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
	opts, err := Options{Calibration: "builtin", MemFractionStatic: 0.5}.withDefaults()
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
	e, err := Open(context.Background(), Options{Calibration: "builtin", MaxTotalTokens: 128})
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
