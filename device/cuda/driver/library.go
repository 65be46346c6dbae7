package driver

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Why a library could not be opened; see [LibraryError].
var (
	ErrUnsupported = errors.New("CUDA is supported on Linux on amd64 and arm64 only")
	ErrNoDriver    = errors.New("there is no NVIDIA driver")
	ErrNoLibrary   = errors.New("a CUDA library is missing")
)

// A LibraryError says that a library was not found or could not be used.
type LibraryError struct {
	Library string   // what it is, e.g. "NVRTC"
	Names   []string // file names tried
	Folders []string // where, beside the loader's own path
	Failed  []error  // of files that exist but did not load
	Advice  string   // what to do
	Err     error    // ErrUnsupported, ErrNoDriver or ErrNoLibrary
}

// Error returns a line or two; Names and Folders in full are in %+v.
func (e *LibraryError) Error() string {
	text := fmt.Sprintf("%s: %v", e.Library, e.Err)
	switch {
	case len(e.Failed) > 0:
		text += fmt.Sprintf(": %v", errors.Join(e.Failed...))
	case len(e.Names) > 0:
		text += fmt.Sprintf(": no %s on the loader's path or in %d other folders", strings.Join(e.Names, " or "), len(e.Folders))
	}
	if e.Advice != "" {
		text += "; " + e.Advice
	}
	return text
}

// Unwrap returns the sentinel.
func (e *LibraryError) Unwrap() error { return e.Err }

// Format adds the folders for %+v.
func (e *LibraryError) Format(f fmt.State, verb rune) {
	fmt.Fprint(f, e.Error())
	if verb == 'v' && f.Flag('+') {
		for _, folder := range e.Folders {
			fmt.Fprintf(f, "\n\tlooked in %s", folder)
		}
	}
}

// wanted describes a library to look for.
type wanted struct {
	title  string   // for messages
	names  []string // file names, best first
	driver bool     // comes with the driver, not with the toolkit
	// companions are patterns of libraries that it loads by name later and that
	// only its own folder may have; they are loaded first.
	companions []string
	advice     string
	err        error
}

// library is a loaded library.
type library struct {
	title  string
	path   string // of the file; its name alone where the loader does not tell
	handle uintptr
}

// open looks for a library in the places of s.
func (s Search) open(w wanted) (*library, error) {
	failure := &LibraryError{Library: w.title, Names: w.names, Advice: w.advice, Err: w.err}
	if !supported {
		return nil, &LibraryError{Library: w.title, Err: ErrUnsupported}
	}
	for _, c := range s.candidates(w) {
		if c.folder != "" {
			if len(failure.Folders) == 0 || failure.Folders[len(failure.Folders)-1] != c.folder {
				failure.Folders = append(failure.Folders, c.folder)
			}
			if _, err := os.Stat(c.path()); err != nil {
				continue
			}
			for _, pattern := range w.companions {
				files, _ := filepath.Glob(filepath.Join(c.folder, pattern)) // the pattern is well formed
				for _, file := range files {
					if _, err := dlopen(file, true); err != nil {
						failure.Failed = append(failure.Failed, err)
					}
				}
			}
		}
		handle, err := dlopen(c.path(), false)
		if err == nil {
			l := &library{title: w.title, path: c.path(), handle: handle}
			if c.folder == "" {
				l.path = loadedPath(c.name)
			}
			return l, nil
		}
		if c.folder != "" || !strings.HasPrefix(err.Error(), c.name+": cannot open shared object file") { // which says that there is none
			failure.Failed = append(failure.Failed, err)
		}
	}
	return nil, failure
}

// loadedPath finds where the loader found a library of this name.
func loadedPath(name string) string {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return name
	}
	defer f.Close()
	stem, _, _ := strings.Cut(name, ".so")
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		_, path, found := strings.Cut(lines.Text(), "/")
		if found && strings.HasPrefix(filepath.Base(path), stem+".so") {
			return "/" + path
		}
	}
	return name
}

// symbol returns the address of a function.
func (l *library) symbol(name string) (uintptr, error) {
	address, err := dlsym(l.handle, name)
	if err != nil {
		return 0, &LibraryError{
			Library: l.title, Err: ErrNoLibrary, Failed: []error{fmt.Errorf("%s has no %s", l.path, name)},
			Advice: "it is too old: install one of CUDA 12.4 or newer",
		}
	}
	return address, nil
}

// routine is a C function that one goroutine calls often: its arguments have
// memory here. What their numbers point to must be on the heap, or be no Go
// memory at all, and be kept alive by other means until the call returns.
type routine struct {
	function uintptr
	args     [16]uintptr
}

// call calls the function with the first n of the arguments.
func (r *routine) call(n int) uintptr { return call(r.function, r.args[:n]...) }
