package pathway

import (
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// TestBuiltin finds a calibration by what matters, and only by that.
func TestBuiltin(t *testing.T) {
	measured := Estimate(v32(), 680e12, 4.2e12)
	measured.Source = SourceMeasured
	measured.Key = Key{Device: "NVIDIA H200 sm_90a x132", Backend: "cuda cuda-1", Cache: "bfloat16", Weights: "bfloat16", Geometry: v32()}
	few := measured
	few.Key.Geometry.Heads = 16
	few.Units[PairMHA] = 7
	encode := func(c Calibration) *fstest.MapFile {
		data, err := json.Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		return &fstest.MapFile{Data: data}
	}
	files := fstest.MapFS{"builtin/a.json": encode(few), "builtin/b.json": encode(measured), "builtin/README.md": {Data: []byte("#")}}

	same := func(*Key) {}
	for name, c := range map[string]struct {
		change func(*Key)
		found  bool
	}{
		"the same":                  {same, true},
		"other kernels":             {func(k *Key) { k.Backend = "cuda cuda-9" }, true},
		"indexers in a third of it": {func(k *Key) { k.Geometry.IndexedShare = 0.3 }, true},
		"another backend":           {func(k *Key) { k.Backend = "cpu cuda-1" }, false},
		"another device":            {func(k *Key) { k.Device = "NVIDIA H100 80GB HBM3 sm_90a x132" }, false},
		"another cache":             {func(k *Key) { k.Cache = "fp8_e4m3" }, false},
		"other weights":             {func(k *Key) { k.Weights = "float32" }, false},
		"other heads":               {func(k *Key) { k.Geometry.Heads = 32 }, false},
		"another top-k":             {func(k *Key) { k.Geometry.TopK = 1024 }, false},
	} {
		key := measured.Key
		c.change(&key)
		got, ok, err := builtin(files, key)
		if err != nil || ok != c.found {
			t.Errorf("%s: found %t, %v", name, ok, err)
		}
		if ok && (got.Key != key || got.Units != measured.Units || got.Source != SourceMeasured) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if got, ok, err := builtin(files, few.Key); err != nil || !ok || got.Units[PairMHA] != 7 {
		t.Errorf("16 heads: %+v, %t, %v", got, ok, err)
	}
	files["builtin/c.json"] = &fstest.MapFile{Data: []byte("{}")}
	few.Key.Device = "none"
	if _, _, err := builtin(files, few.Key); !errors.Is(err, ErrCalibration) || !strings.Contains(err.Error(), "c.json") {
		t.Errorf("a broken file: %v", err)
	}
}

// TestBuiltinTables reads every table there is. A device has those of
// DeepSeek-V3.2 for every number of GPUs, or none.
func TestBuiltinTables(t *testing.T) {
	names, err := fs.Glob(builtinFiles, "builtin/*.json")
	if err != nil {
		t.Fatal(err)
	}
	heads := map[string][]int{} // by device and cache
	for _, name := range names {
		data, err := fs.ReadFile(builtinFiles, name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseCalibration(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.Source != SourceMeasured || c.Key.Device == "" || len(c.Residuals) == 0 {
			t.Errorf("%s: source %s, device %q, %d residuals: not what latent calibrate writes", name, c.Source, c.Key.Device, len(c.Residuals))
		}
		if got, ok := Builtin(c.Key); !ok || got.Units != c.Units {
			t.Errorf("%s: another table has its key", name)
		}
		g := c.Key.Geometry
		h := g.Heads
		if g.Heads, g.RecordSize = v32().Heads, v32().RecordSize; g == v32() {
			heads[c.Key.Device+" "+c.Key.Cache] = append(heads[c.Key.Device+" "+c.Key.Cache], h)
		}
	}
	for device, h := range heads {
		slices.Sort(h)
		if !slices.Equal(h, []int{16, 32, 64, 128}) {
			t.Errorf("%s: tables for %v heads, want 16, 32, 64 and 128", device, h)
		}
	}
	if _, ok := Builtin(Key{Device: "no such device", Geometry: v32()}); ok {
		t.Error("there is a table for a device that does not exist")
	}
}
