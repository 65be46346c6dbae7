package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree makes empty files in a temporary folder.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		path := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// noEnvironment unsets what a search looks at.
func noEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX", "VIRTUAL_ENV", "PATH", "HOME"} {
		t.Setenv(name, "")
	}
}

// TestSearchOrder places a library in many folders and takes it away from the
// first again and again.
func TestSearchOrder(t *testing.T) {
	noEnvironment(t)
	target, _ := targets()
	root := tree(t,
		"dir/a", "dir/lib64/a", "dir/lib/a", "dir/"+target[0]+"/a", "dir/b",
		"home/lib64/a", "path/lib/a", "conda/lib/a", "env/lib/python3.12/site-packages/nvidia/cu13/lib/a",
		"run/bin/python3", "run/lib/python3.11/dist-packages/nvidia/cuda_nvrtc/lib/a", "user/.local/lib/python3.9/site-packages/nvidia/x/lib/a", "home/lib64/b",
	)
	t.Setenv("CUDA_HOME", filepath.Join(root, "home"))
	t.Setenv("CUDA_PATH", filepath.Join(root, "path"))
	t.Setenv("CONDA_PREFIX", filepath.Join(root, "conda"))
	t.Setenv("VIRTUAL_ENV", filepath.Join(root, "env"))
	t.Setenv("PATH", filepath.Join(root, "nowhere")+string(os.PathListSeparator)+filepath.Join(root, "run/bin"))
	t.Setenv("HOME", filepath.Join(root, "user"))
	s := Search{Dir: filepath.Join(root, "dir")}
	found := func(w wanted) []string {
		var list []string
		for _, c := range s.candidates(w) {
			if c.folder == "" {
				list = append(list, "loader "+c.name)
			} else if _, err := os.Stat(c.path()); err == nil {
				path, _ := filepath.Rel(root, c.path())
				list = append(list, path)
			}
		}
		return list
	}
	want := []string{
		"dir/a", "dir/b", "dir/lib64/a", "dir/lib/a", "dir/" + target[0] + "/a",
		"loader a", "home/lib64/a", "path/lib/a", "conda/lib/a", "env/lib/python3.12/site-packages/nvidia/cu13/lib/a",
		"run/lib/python3.11/dist-packages/nvidia/cuda_nvrtc/lib/a", "user/.local/lib/python3.9/site-packages/nvidia/x/lib/a",
		"loader b", "home/lib64/b",
	}
	if got := found(wanted{names: []string{"a", "b"}}); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// The driver's library is in no folder of a toolkit, unless that is asked for.
	want = append(slices.Clone(want[:1]), "dir/lib64/a", "dir/lib/a", "dir/"+target[0]+"/a", "loader a")
	if got := found(wanted{names: []string{"a"}, driver: true}); !slices.Equal(got, want) {
		t.Errorf("the driver: got %q, want %q", got, want)
	}
}

func TestVersionOrder(t *testing.T) {
	want := []string{"cuda-9.2", "cuda-11.8", "cuda-12.0", "cuda-12.4", "cuda-12.10", "cuda-13.0", "cuda-13.0.2"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, compareVersions)
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestNotFound(t *testing.T) {
	noEnvironment(t)
	if !supported {
		t.Skip("there is no dlopen here")
	}
	root := tree(t, "lib/libmissing.so.2")
	w := wanted{title: "Missing", names: []string{"libmissing.so.2", "libmissing.so.1"}, advice: "install it", err: ErrNoLibrary}
	_, err := Search{}.open(w)
	var missing *LibraryError
	if !errors.As(err, &missing) || !errors.Is(err, ErrNoLibrary) || errors.Is(err, ErrNoDriver) {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{"Missing", "libmissing.so.2 or libmissing.so.1", "install it"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	_, debian := targets()
	if detailed := fmt.Sprintf("%+v", err); !strings.Contains(detailed, "looked in /usr/lib/"+debian) || strings.Contains(err.Error(), "\n") {
		t.Errorf("in detail: %s", detailed)
	}
	// A file that is no library is told.
	_, err = Search{Dir: root}.open(w)
	if !errors.As(err, &missing) || len(missing.Failed) != 1 || !strings.Contains(err.Error(), filepath.Join(root, "lib/libmissing.so.2")) {
		t.Errorf("got %v", err)
	}
}

// TestOpenLibrary opens the C library, by name and by path.
func TestOpenLibrary(t *testing.T) {
	if !supported {
		t.Skip("there is no dlopen here")
	}
	l, err := Search{}.open(wanted{title: "C", names: []string{"libc.so.6"}, err: ErrNoLibrary})
	if err != nil {
		t.Skipf("this C library has another name: %v", err)
	}
	if !strings.HasPrefix(l.path, "/") || !strings.Contains(l.path, "libc") {
		t.Errorf("it is at %q", l.path)
	}
	abs, err := l.symbol("abs")
	if err != nil {
		t.Fatal(err)
	}
	minus := int32(-5)
	if r := int32(call(abs, uintptr(minus))); r != 5 {
		t.Errorf("abs(-5) is %d", r)
	}
	if _, err := l.symbol("there_is_none"); err == nil || !strings.Contains(err.Error(), "there_is_none") || !strings.Contains(err.Error(), l.path) {
		t.Errorf("a missing symbol: %v", err)
	}
	often := &routine{function: abs}
	if n := testing.AllocsPerRun(1000, func() {
		often.args = [16]uintptr{uintptr(minus)}
		if r := int32(often.call(1)); r != 5 {
			t.Errorf("abs(-5) is %d", r)
		}
	}); n >= 1 {
		t.Errorf("a call allocates %v times", n)
	}
	again, err := Search{Dir: filepath.Dir(l.path)}.open(wanted{title: "C", names: []string{filepath.Base(l.path)}, err: ErrNoLibrary})
	if err != nil || again.path != l.path {
		t.Errorf("by path: %+v, %v", again, err)
	}
}

func TestOldDriver(t *testing.T) {
	l := &library{title: "NVIDIA driver", path: "/lib/libcuda.so.1"}
	for _, version := range []int{0, 12040, 13000} {
		if err := checkVersion(l, version); err != nil {
			t.Errorf("%d: %v", version, err)
		}
	}
	err := checkVersion(l, 11080)
	if !errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), "/lib/libcuda.so.1 is for CUDA 11.8, but CUDA 12.4 is needed; update the driver") {
		t.Errorf("11.8: %v", err)
	}
}

// BenchmarkCall is a call of a C function that does nothing to speak of.
func BenchmarkCall(b *testing.B) {
	l, err := Search{}.open(wanted{title: "C", names: []string{"libc.so.6"}, err: ErrNoLibrary})
	if err != nil {
		b.Skip(err)
	}
	abs, err := l.symbol("abs")
	if err != nil {
		b.Fatal(err)
	}
	often := &routine{function: abs}
	for b.Loop() {
		often.call(11)
	}
}
