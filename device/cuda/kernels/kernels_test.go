package kernels

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestUnits checks that every source declares units and that their text has
// nothing left to include.
func TestUnits(t *testing.T) {
	units, err := Units()
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range units {
		source, err := u.Source()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(source) {
			if strings.HasPrefix(strings.TrimSpace(line), "#include") {
				t.Errorf("unit %s: %s", u.Name, line)
			}
		}
	}
}

const compilerLog = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for first
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 16 bytes stack, 1024 bytes smem
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas info    : Function properties for helper
    0 bytes stack frame, 99 bytes spill stores, 99 bytes spill loads
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers
`

func TestParseUsage(t *testing.T) {
	got, warnings, err := ParseUsage(compilerLog)
	if err != nil {
		t.Fatal(err)
	}
	want := []Usage{
		{Kernel: "first", Registers: 168, Stack: 16, SpillStores: 8, SpillLoads: 12, Shared: 1024},
		{Kernel: "second", Registers: 32},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "serialized") {
		t.Errorf("warnings %q", warnings)
	}
	if !got[0].Spills() || got[1].Spills() {
		t.Error("spills are mistaken")
	}
	if _, _, err := ParseUsage("Compiling entry function 'x' for 'sm_90a'\n"); err == nil {
		t.Error("a log without registers passes")
	}
}

// counter is a compiler that returns its options and counts.
type counter struct {
	calls int
	minor int
}

func (c *counter) Version() (int, int) { return 13, c.minor }

func (c *counter) Compile(name, source string, options []string) ([]byte, string, error) {
	c.calls++
	return []byte(name + strings.Join(options, " ")), "", nil
}

// TestCache checks that a unit is compiled again exactly when something that
// goes into it has changed, or when its file is damaged.
func TestCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "build")
	c := &counter{}
	u := Unit{Name: "u", File: "common.cuh", Defines: []string{"A=1"}}
	build := func(compiled bool, why string) []byte {
		t.Helper()
		before := c.calls
		built, err := Build(c, []Unit{u}, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if (c.calls > before) != compiled || built[0].Cached == compiled {
			t.Errorf("%s: compiled %t, cached %t", why, c.calls > before, built[0].Cached)
		}
		return built[0].Image
	}
	first := build(true, "first time")
	if again := build(false, "again"); !slices.Equal(first, again) {
		t.Error("the image from disk differs")
	}
	u.Defines = []string{"A=2"}
	build(true, "another macro")
	c.minor++
	build(true, "another compiler")
	build(false, "the same compiler")
	files, err := filepath.Glob(filepath.Join(dir, "*.cubin"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		data[0] ^= 1
		if err := os.WriteFile(f, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build(true, "damaged")
	build(false, "mended")
	if left, _ := filepath.Glob(filepath.Join(dir, "new-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	dir = ""
	build(true, "no folder")
}
