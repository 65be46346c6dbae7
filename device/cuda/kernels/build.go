package kernels

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Compiler is what Build needs of NVRTC (driver.NVRTC).
type Compiler interface {
	Version() (major, minor int)
	Compile(name, source string, options []string) (image []byte, log string, err error)
}

// Built is a compiled unit.
type Built struct {
	Unit
	Image  []byte // cubin
	Log    string // the compiler's; empty when the image came from disk
	Cached bool
}

// CacheDir returns the folder for compiled kernels, in the user's cache folder.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("kernels: no folder to keep compiled kernels in: %w", err)
	}
	return filepath.Join(dir, "latent", "kernels"), nil
}

// Build compiles units, in parallel, taking from dir what was compiled before
// and leaving there what is new; dir "" keeps nothing. progress, if not nil, is
// told after each unit, one call at a time. A cache that cannot be read or
// written costs time only and is no error.
func Build(c Compiler, units []Unit, dir string, progress func(b *Built, done, total int)) ([]Built, error) {
	built := make([]Built, len(units))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	var mu sync.Mutex
	done := 0
	for i, u := range units {
		group.Go(func() error {
			b, err := build(c, u, dir)
			if err != nil {
				return err
			}
			built[i] = b
			mu.Lock()
			defer mu.Unlock()
			done++
			if progress != nil {
				progress(&built[i], done, len(units))
			}
			return nil
		})
	}
	return built, group.Wait()
}

func build(c Compiler, u Unit, dir string) (Built, error) {
	source, err := u.Source()
	if err != nil {
		return Built{}, err
	}
	path := ""
	if dir != "" {
		path = filepath.Join(dir, key(c, u, source)+".cubin")
		if image, err := load(path); err == nil {
			return Built{Unit: u, Image: image, Cached: true}, nil
		}
	}
	image, log, err := c.Compile(u.File, source, u.Options())
	if err != nil {
		return Built{}, fmt.Errorf("kernels: unit %s: %w", u.Name, err)
	}
	if path != "" {
		_ = store(path, image)
	}
	return Built{Unit: u, Image: image, Log: log}, nil
}

// key names a compilation by everything that goes into it.
func key(c Compiler, u Unit, source string) string {
	h := sha256.New()
	major, minor := c.Version()
	fmt.Fprintf(h, "nvrtc %d.%d\n", major, minor)
	for _, o := range u.Options() {
		fmt.Fprintln(h, o)
	}
	io.WriteString(h, source)
	return fmt.Sprintf("%s-%x", u.Name, h.Sum(nil)[:16])
}

var errDamaged = errors.New("kernels: damaged file")

// load reads an image that store wrote: the image and its SHA-256.
func load(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := len(data) - sha256.Size
	if n <= 0 {
		return nil, errDamaged
	}
	if sum := sha256.Sum256(data[:n]); !bytes.Equal(sum[:], data[n:]) {
		return nil, errDamaged
	}
	return data[:n:n], nil
}

// store writes an image so that a reader sees all of it or nothing.
func store(path string, image []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	sum := sha256.Sum256(image)
	_, err = f.Write(append(image[:len(image):len(image)], sum[:]...))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
