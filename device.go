package latent

import (
	"errors"
	"fmt"

	"latent/checkpoint"
	"latent/device"
	"latent/device/cpu"
	"latent/device/cuda"
	"latent/device/cuda/driver"
	"latent/model"
)

// Values of Options.Device, as device.Info.Kind has them.
const (
	kindCPU  = "cpu"
	kindCUDA = "cuda"
)

// openDevice opens the device that the options ask for. If they leave it open
// and there is no GPU that can be used, it is the CPU, and why says why.
func openDevice(o Options) (dev device.Device, why string, err error) {
	if o.Device != kindCPU {
		dev, err = openGPU(o)
		switch {
		case err == nil:
			return dev, "", nil
		case o.Device == kindCUDA:
			return nil, "", &DeviceError{err}
		}
		why = err.Error()
		if !noGPU(err) {
			o.progress("there is a GPU, but it cannot be used, so the CPU is: " + why)
		}
	}
	dev, err = cpu.New(cpu.Options{Threads: o.Threads})
	if err != nil {
		return nil, "", &DeviceError{err}
	}
	return dev, why, nil
}

// noGPU tells whether a GPU could not be opened because there is none.
func noGPU(err error) bool {
	return errors.Is(err, driver.ErrNoDriver) || errors.Is(err, driver.ErrUnsupported) || errors.Is(err, driver.ErrNoDevice)
}

// openGPU opens the first GPU that CUDA_VISIBLE_DEVICES leaves.
func openGPU(o Options) (device.Device, error) {
	gpu, err := cuda.Open(cuda.Options{Search: driver.Search{Dir: o.CUDAPath}, Progress: o.progress})
	if err != nil {
		return nil, err
	}
	return gpu, nil
}

// progress passes on what a person who waits wants to know.
func (o Options) progress(line string) {
	if o.Progress != nil {
		o.Progress(line)
	}
}

// deviceDefaults are defaults that depend on the kind of device.
type deviceDefaults struct {
	maxRunning, chunk int
	fraction          float64
	expand, other     int64 // bytes of MHA's keys and values; of index scores and of absorbed rows
}

// defaultsOf returns the defaults for a kind of device. Those of GPUs are what
// users of SGLang and vLLM find there: steps large enough to fill the machine.
func defaultsOf(kind string) deviceDefaults {
	if kind == kindCUDA {
		return deviceDefaults{maxRunning: 256, chunk: 8192, fraction: 0.88, expand: 1 << 30, other: 512 << 20}
	}
	return deviceDefaults{maxRunning: 64, chunk: 512, fraction: 0.7, expand: model.DefaultExpandBytes, other: model.DefaultExpandBytes}
}

// onDevice fills in what depends on the device and refuses what it does not
// have.
func (o Options) onDevice(info device.Info) (Options, error) {
	if o.Deterministic && !info.BatchInvariant {
		return o, &OptionError{"Deterministic", "true",
			fmt.Sprintf("false on %s: what its kernels compute for a row depends, in the last bits, on the batch; the CPU's do not (device cpu)", info.Name)}
	}
	if info.Kind == kindCUDA {
		for _, c := range []struct{ name, value string }{{"DType", o.DType}, {"KVCacheDType", o.KVCacheDType}} {
			if c.value == "float32" {
				return o, &OptionError{c.name, c.value, "auto or a narrower type: GPUs compute in bfloat16 here; for float32 take the CPU (device cpu)"}
			}
		}
	}
	d := defaultsOf(info.Kind)
	for _, c := range []struct {
		value *int
		or    int
	}{{&o.MaxRunning, d.maxRunning}, {&o.ChunkedPrefillSize, d.chunk}} {
		if *c.value == 0 {
			*c.value = c.or
		}
	}
	if o.MHAWorkspaceBytes == 0 {
		o.MHAWorkspaceBytes = d.expand
	}
	if o.MemFractionStatic == 0 {
		o.MemFractionStatic = d.fraction
	}
	return o, nil
}

// formats returns the arithmetic and the cache format in force.
func (o Options) formats(c *checkpoint.Config, info device.Info) (device.DType, device.CacheFormat) {
	arithmetic := device.F32
	if o.DType == "bfloat16" || o.DType == "auto" && (c.DType == "bfloat16" || info.Kind == kindCUDA) {
		arithmetic = device.BF16
	}
	switch o.KVCacheDType {
	case "float32":
		return arithmetic, device.CacheF32
	case "bfloat16":
		return arithmetic, device.CacheBF16
	case "fp8_e4m3":
		return arithmetic, device.CacheF8
	}
	if arithmetic == device.BF16 {
		return arithmetic, device.CacheBF16
	}
	return arithmetic, device.CacheF32
}

// modelOptions returns how the model is laid out on the device.
func (o Options) modelOptions(c *checkpoint.Config, info device.Info) model.Options {
	arithmetic, format := o.formats(c, info)
	other := defaultsOf(info.Kind).other
	return model.Options{
		Arithmetic: arithmetic, CacheFormat: format, MaxContext: o.MaxContext,
		ExpandBytes: o.MHAWorkspaceBytes, ScoreBytes: other, AbsorbBytes: other,
	}
}
