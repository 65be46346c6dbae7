package driver

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// Search says where to look for NVIDIA's libraries: in Dir, on the loader's
// path, under CUDA_HOME and CUDA_PATH, in the usual folders of the toolkit and
// of the driver, and in those of Python wheels, in this order. The driver's own
// library is not looked for in folders of the toolkit, which hold a stub of it.
type Search struct {
	Dir string // --cuda-path: a toolkit, or a folder with libraries; may be empty
}

// candidate is a file to try; without a folder, a name for the loader.
type candidate struct{ folder, name string }

func (c candidate) path() string { return filepath.Join(c.folder, c.name) }

// candidates lists what to try. Dir goes before everything; elsewhere a better
// name goes before a better place.
func (s Search) candidates(w wanted) []candidate {
	var list []candidate
	if s.Dir != "" {
		for _, folder := range toolkitFolders(s.Dir) {
			for _, name := range w.names {
				list = append(list, candidate{folder, name})
			}
		}
	}
	folders := driverFolders()
	if !w.driver {
		folders = slices.Concat(homeFolders(), usualFolders(), folders, pythonFolders())
	}
	for _, name := range w.names {
		list = append(list, candidate{"", name})
		for _, folder := range folders {
			list = append(list, candidate{folder, name})
		}
	}
	return list
}

// targets are the folders of a toolkit for this machine, debian is the name of
// its multi-architecture folder.
func targets() (folders []string, debian string) {
	if runtime.GOARCH == "arm64" {
		return []string{"targets/sbsa-linux/lib", "targets/aarch64-linux/lib"}, "aarch64-linux-gnu"
	}
	return []string{"targets/x86_64-linux/lib"}, "x86_64-linux-gnu"
}

// toolkitFolders are where the libraries of a toolkit at root can be, root
// included.
func toolkitFolders(root string) []string {
	folders := []string{root, filepath.Join(root, "lib64"), filepath.Join(root, "lib")}
	target, _ := targets()
	for _, t := range target {
		folders = append(folders, filepath.Join(root, t))
	}
	return folders
}

// homeFolders are those of the toolkits that the environment names.
func homeFolders() []string {
	var folders []string
	for _, name := range []string{"CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX"} {
		if root := os.Getenv(name); root != "" {
			folders = append(folders, toolkitFolders(root)...)
		}
	}
	return folders
}

// usualFolders are those of toolkits, newest first.
func usualFolders() []string {
	var folders []string
	roots := existing("/usr/local/cuda", "/usr/local/cuda-*", "/opt/cuda")
	slices.SortStableFunc(roots, func(a, b string) int { // /usr/local/cuda stays first
		if len(a) == len("/usr/local/cuda") || len(b) == len("/usr/local/cuda") {
			return len(a) - len(b)
		}
		return compareVersions(b, a)
	})
	for _, root := range roots {
		folders = append(folders, toolkitFolders(root)...)
	}
	return folders
}

// compareVersions orders names by the numbers in them.
func compareVersions(a, b string) int {
	return slices.Compare(numbers(a), numbers(b))
}

func numbers(s string) []int {
	var list []int
	inside := false
	for _, c := range s {
		switch digit := c >= '0' && c <= '9'; {
		case digit && !inside:
			list, inside = append(list, int(c-'0')), true
		case digit:
			list[len(list)-1] = list[len(list)-1]*10 + int(c-'0')
		default:
			inside = false
		}
	}
	return list
}

// driverFolders are where drivers and container runtimes put libcuda.
func driverFolders() []string {
	_, debian := targets()
	return []string{
		"/usr/lib/" + debian, "/usr/lib64", "/usr/lib", "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib",
		"/usr/lib/wsl/lib", "/run/opengl-driver/lib", "/usr/lib/" + debian + "/nvidia/current",
	}
}

// pythonFolders are those of the wheels nvidia-*, which pip installs beside
// PyTorch: site-packages/nvidia/*/lib.
func pythonFolders() []string {
	roots := []string{"/usr/lib", "/usr/local/lib"}
	if env := os.Getenv("VIRTUAL_ENV"); env != "" {
		roots = append([]string{filepath.Join(env, "lib")}, roots...)
	}
	for _, bin := range filepath.SplitList(os.Getenv("PATH")) { // of the Pythons that the user runs
		if _, err := os.Stat(filepath.Join(bin, "python3")); err == nil {
			roots = append(roots, filepath.Join(filepath.Dir(bin), "lib"))
		}
	}
	if home := os.Getenv("HOME"); home != "" {
		roots = append(roots, filepath.Join(home, ".local/lib"))
	}
	var patterns []string
	for _, root := range roots {
		for _, packages := range []string{"site-packages", "dist-packages"} {
			patterns = append(patterns, filepath.Join(root, "python3*", packages, "nvidia/*/lib"))
		}
	}
	folders := existing(patterns...)
	seen := map[string]bool{}
	return slices.DeleteFunc(folders, func(folder string) bool {
		before := seen[folder]
		seen[folder] = true
		return before
	})
}

// existing returns what there is of patterns, in their order.
func existing(patterns ...string) []string {
	var found []string
	for _, p := range patterns {
		matches, _ := filepath.Glob(p) // the patterns are well formed; a root with brackets in it finds nothing
		found = append(found, matches...)
	}
	return found
}
