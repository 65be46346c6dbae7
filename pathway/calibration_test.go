package pathway

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestCalibrationRoundTrip(t *testing.T) {
	c := h200(v32())
	c.Source = SourceMeasured
	c.Key.Device, c.Key.Backend, c.Key.Cache, c.Key.Weights = "NVIDIA H200/sm_90a", "cuda 1", "fp8_e4m3", "bfloat16"
	c.Residuals = []Residual{{"mha", 12, 0.03, 0.11}}
	path := filepath.Join(t.TempDir(), "new", "folders", c.Key.FileName())
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := LoadCalibration(path, c.Key)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("got %+v, %v; saved %+v", got, err, c)
	}
	other := c.Key
	other.Geometry.Heads = 16
	if _, err := LoadCalibration(path, other); !errors.Is(err, ErrCalibration) || !strings.Contains(err.Error(), path) {
		t.Errorf("loaded for another model: %v", err)
	}
	if _, err := LoadCalibration(path+"x", c.Key); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("saving left %v, %v", files, err)
	}
}

func TestSaveRefusesBadCalibration(t *testing.T) {
	c := Estimate(v32(), 0, 0)
	path := filepath.Join(t.TempDir(), "c.json")
	if err := c.Save(path); !errors.Is(err, ErrCalibration) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a bad calibration was written")
	}
}

func TestFileNames(t *testing.T) {
	k := Key{Device: "Intel(R) Xeon(R)/../é", Geometry: v32()}
	name := k.FileName()
	if filepath.Base(name) != name || strings.ContainsAny(name, "/\\ ()") || !strings.HasSuffix(name, ".json") {
		t.Errorf("file name %q", name)
	}
	seen := map[string]bool{name: true}
	for _, change := range []func(*Key){
		func(k *Key) { k.Device = "intel(r) xeon(r)/../é" },
		func(k *Key) { k.Backend = "2" },
		func(k *Key) { k.Cache = "bfloat16" },
		func(k *Key) { k.Weights = "bfloat16" },
		func(k *Key) { k.Geometry.Latent++ },
	} {
		other := k
		change(&other)
		if name := other.FileName(); seen[name] {
			t.Errorf("%+v shares the name %q", other, name)
		} else {
			seen[name] = true
		}
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if path, err := k.CachePath(); err != nil || path != filepath.Join(dir, "latent", "calibration", name) {
		t.Errorf("cache path %q, %v", path, err)
	}
}

func calibrationJSON(t testing.TB) string {
	c := h200(v32())
	data, err := json.Marshal(&c)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// hostile lists calibration files with what their errors say.
func hostile(t testing.TB) map[string]string {
	good := calibrationJSON(t)
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	return map[string]string{
		"":                                   "EOF",
		"null":                               "version 0",
		"[]":                                 "cannot unmarshal",
		"{}":                                 "version 0",
		good[:len(good)/2]:                   "unexpected EOF",
		good + "{}":                          "more than one JSON value",
		good + "x":                           "more than one JSON value",
		edit(`"version":1`, `"version":2`):   "calibrate again",
		edit(`"version":1`, `"version":"1"`): "cannot unmarshal",
		edit(`"source":"estimate"`, `"source":"x"`):           `source "x"`,
		edit(`"source"`, `"sauce"`):                           `unknown field "sauce"`,
		edit(`"overhead_mha":4`, `"overhead_mha":-4`):         "unit cost overhead_mha is -4",
		edit(`"overhead_mha":4`, `"overhead_mha":1e300`):      "unit cost overhead_mha is 1e+300",
		edit(`"overhead_mha":4`, `"overhead_mha":1e999`):      "1e999",
		edit(`"overhead_mha":4`, `"overhead_mha":null`):       "unit costs without overhead_mha",
		edit(`"overhead_mha":4`, `"overhead_mba":4`):          "unit costs without overhead_mha",
		edit(`"overhead_mha":4`, `"overhead_mha":4,"warp":1`): `unknown unit cost "warp"`,
		edit(`"unit_us"`, `"residuals":[],"unit_uz"`):         `unknown field "unit_uz"`,
		`{"version":1,"source":"estimate","key":{"geometry":{"heads":1,"nope":1,"value":1,"latent":1,"record_bytes":1}}}`: "unit cost overhead_mha is NaN",
		edit(`"unit_us":{`, `"unit_us":null,"x":{`):                      "unit costs without overhead_mha",
		edit(`"heads":128`, `"heads":-128`):                              "heads is -128",
		edit(`"heads":128`, `"heads":1e9`):                               "cannot unmarshal",
		edit(`"heads":128`, `"heads":99999999999999999999`):              "cannot unmarshal",
		edit(`"indexed_share":1`, `"indexed_share":1.5`):                 "indexed_share is 1.5",
		edit(`"index_topk":2048`, `"index_topk":0`):                      "indexed_share is 1 for a model without an indexer",
		edit(`"unit_us"`, `"residuals":[{"rms_relative":-1}],"unit_us"`): "residual",
		strings.Repeat(" ", maxCalibrationFile) + good:                   "want at most",
		strings.Repeat(`{"key":`, 20000):                                 "exceeded max depth",
	}
}

func TestParseCalibrationErrors(t *testing.T) {
	if _, err := ParseCalibration([]byte(calibrationJSON(t))); err != nil {
		t.Fatal(err)
	}
	for data, want := range hostile(t) {
		_, err := ParseCalibration([]byte(data))
		if !errors.Is(err, ErrCalibration) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q…: error %v, want one with %q", data, err, want)
		}
	}
}

// FuzzCalibration: whatever parses makes a planner whose plans hold the
// invariants, and reads back what it writes.
func FuzzCalibration(f *testing.F) {
	f.Add([]byte(calibrationJSON(f)))
	for data := range hostile(f) {
		if len(data) < 1<<16 {
			f.Add([]byte(data))
		}
	}
	extents := []Extent{{New: 300}, {New: 5000}, {Prefix: 1900, New: 20}, {Prefix: 9000, New: 1, Phase: Decode}}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCalibration(data)
		if err != nil {
			if !errors.Is(err, ErrCalibration) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		out, err := json.Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseCalibration(out); err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("read %+v, wrote %s, read back %+v, %v", c, out, again, err)
		}
		p, err := New(Config{Geometry: c.Key.Geometry, Calibration: c, WorkspaceBytes: 1000, KVBytesPerKey: 1})
		if err != nil {
			t.Fatal(err)
		}
		var plan Plan
		p.Plan(extents, &plan)
		checkPlan(t, p, extents, &plan)
	})
}
