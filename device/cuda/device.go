package cuda

import (
	"errors"
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
	"latent/device/cuda/kernels"
)

// version names the state of the kernels for calibrations; it changes when
// costs do.
const version = "cuda-1"

// Options configure a Device.
type Options struct {
	// Search says where the CUDA libraries are looked for.
	Search driver.Search
	// Ordinal is the number of the GPU.
	Ordinal int
	// CacheDir is the folder for compiled kernels; "" means the user's cache
	// folder, "none" keeps nothing.
	CacheDir string
	// Progress, if not nil, is told in one line what opening waits for.
	Progress func(line string)
}

// Device implements device.Device on one GPU. It is used by one goroutine at a
// time. See the package documentation.
type Device struct {
	info    device.Info
	cuda    *driver.CUDA
	exec    *driver.Executor
	kernels map[kernelName]*driver.Function
	modules map[string]*driver.Module

	geometry  geometry
	products  products
	codesMaps map[codesKey]driver.TensorMap
	scratches map[string]*memory
	moved     int // counts scratch buffers that took another address
	live      map[*memory]struct{}
	err       error // first failure before a command was queued
}

var (
	_ device.Device   = (*Device)(nil)
	_ device.Capturer = (*Device)(nil)
	_ device.Sampler  = (*Device)(nil)
	_ device.Timed    = (*Device)(nil)
	_ device.Buffered = (*Device)(nil)
)

// Open finds the libraries, compiles the kernels (or takes them from disk) and
// prepares the GPU.
func Open(opts Options) (_ *Device, err error) {
	d := &Device{
		kernels: map[kernelName]*driver.Function{}, modules: map[string]*driver.Module{}, scratches: map[string]*memory{},
		live: map[*memory]struct{}{}, codesMaps: map[codesKey]driver.TensorMap{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.cuda, err = driver.OpenCUDA(opts.Search); err != nil {
		return nil, err
	}
	gpu, err := d.cuda.Device(opts.Ordinal)
	if err != nil {
		return nil, fmt.Errorf("cuda: GPU %d: %w", opts.Ordinal, err)
	}
	if gpu.Major != 9 || gpu.Minor != 0 {
		return nil, fmt.Errorf("cuda: GPU %d (%s) has compute capability %d.%d; the kernels need 9.0 (Hopper: H100, H200, H20)",
			opts.Ordinal, gpu.Name, gpu.Major, gpu.Minor)
	}
	d.info = device.Info{
		Kind: "cuda", Name: gpu.Name, Tier: kernels.Architecture, Version: version,
		Workers: gpu.SMs, Memory: gpu.Memory,
	}
	built, err := buildKernels(opts)
	if err != nil {
		return nil, err
	}
	if d.exec, err = driver.NewExecutor(d.cuda, opts.Ordinal); err != nil {
		return nil, err
	}
	if err := d.loadKernels(built); err != nil {
		return nil, err
	}
	if err := d.products.init(d, opts.Search); err != nil {
		return nil, err
	}
	if !d.products.blockScales && opts.Progress != nil {
		opts.Progress("this cuBLASLt multiplies no FP8 blocks with scales (CUDA 12.9 or newer does): FP8 layers outside of experts take bfloat16, twice the memory")
	}
	return d, d.geometry.init(d)
}

// buildKernels compiles all units or finds them on disk.
func buildKernels(opts Options) ([]kernels.Built, error) {
	nvrtc, err := driver.OpenNVRTC(opts.Search)
	if err != nil {
		return nil, err
	}
	units, err := kernels.Units()
	if err != nil {
		return nil, err
	}
	dir := opts.CacheDir
	switch dir {
	case "":
		// Without a cache folder every start compiles; that is no failure.
		dir, _ = kernels.CacheDir()
	case "none":
		dir = ""
	}
	return kernels.Build(nvrtc, units, dir, func(b *kernels.Built, done, total int) {
		if opts.Progress != nil && !b.Cached {
			opts.Progress(fmt.Sprintf("compiled CUDA kernels %d of %d: %s", done, total, b.Name))
		}
	})
}

// loadKernels loads the modules of all units.
func (d *Device) loadKernels(built []kernels.Built) error {
	for i := range built {
		m, err := d.exec.LoadModule(built[i].Image)
		if err != nil {
			return fmt.Errorf("cuda: load kernels %s: %w", built[i].Name, err)
		}
		d.modules[built[i].Name] = m
	}
	return nil
}

// Info implements device.Device.
func (d *Device) Info() device.Info { return d.info }

// Close implements device.Device. It frees all memory that came from d.
func (d *Device) Close() error {
	if d.exec == nil {
		return nil
	}
	err := errors.Join(d.Sync(), d.products.close())
	d.geometry.free()
	for m := range d.live {
		m.Free()
	}
	err = errors.Join(err, d.exec.Close())
	d.exec = nil
	return err
}

// Activation implements device.Device: activations are always bfloat16.
func (d *Device) Activation(device.DType) device.DType { return device.BF16 }

// Sync implements device.Device.
func (d *Device) Sync() error {
	err := d.exec.Sync()
	if d.err != nil {
		err, d.err = d.err, nil
	}
	return err
}

// fail keeps the first error for Sync; operations until then do nothing.
func (d *Device) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// wantBF16 refuses arithmetic that this backend does not have.
func wantBF16(op string, arithmetic device.DType) error {
	if arithmetic != device.BF16 {
		return fmt.Errorf("cuda: %s: arithmetic in %v: the GPU backend computes in bfloat16 (--dtype bfloat16); "+
			"for float32 take the CPU (--device cpu)", op, arithmetic)
	}
	return nil
}
