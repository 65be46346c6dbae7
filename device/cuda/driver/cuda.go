package driver

import (
	"fmt"
	"unsafe"
)

// Ptr is an address in device memory.
type Ptr uint64

// MinimumVersion is the oldest driver that has all functions used here, as
// [CUDA.DriverVersion] counts: CUDA 12.4.
const MinimumVersion = 12040

// CUDA is the driver's library.
type CUDA struct {
	library *library
	api     *api
	version int

	device  deviceFunctions
	mapping mapping
}

// deviceFunctions are those that describe devices.
type deviceFunctions struct {
	count, get, name, attribute, totalMem, pci, uuid uintptr
}

// OpenCUDA finds and initialises the driver. Without one the error is a
// *LibraryError; a driver without a usable GPU gives an *Error.
func OpenCUDA(s Search) (*CUDA, error) {
	l, err := s.open(wanted{
		title: "NVIDIA driver", names: []string{"libcuda.so.1"}, driver: true, err: ErrNoDriver,
		advice: "install NVIDIA's driver; in a container, start it with the GPUs (--gpus all)",
	})
	if err != nil {
		return nil, err
	}
	c := &CUDA{library: l}
	b := &binder{library: l}
	version := b.symbol("cuDriverGetVersion")
	if b.err != nil {
		return nil, b.err
	}
	var v int32
	call(version, uintptr(unsafe.Pointer(&v)))
	c.version = int(v)
	if err := checkVersion(l, c.version); err != nil {
		return nil, err
	}
	if c.api, err = bind(l); err != nil {
		return nil, err
	}
	c.mapping.bind(b)
	c.device = deviceFunctions{
		count: b.symbol("cuDeviceGetCount"), get: b.symbol("cuDeviceGet"), name: b.symbol("cuDeviceGetName"),
		attribute: b.symbol("cuDeviceGetAttribute"), totalMem: b.symbol("cuDeviceTotalMem_v2"),
		pci: b.symbol("cuDeviceGetPCIBusId"), uuid: b.symbol("cuDeviceGetUuid_v2"),
	}
	initialise := b.symbol("cuInit")
	if b.err != nil {
		return nil, b.err
	}
	if err := c.api.check("cuInit", "", result(call(initialise, 0))); err != nil {
		return nil, err
	}
	return c, nil
}

// checkVersion refuses a driver that is too old. The stub of a toolkit says 0;
// cuInit tells better what is wrong with it.
func checkVersion(l *library, version int) error {
	if version == 0 || version >= MinimumVersion {
		return nil
	}
	return &LibraryError{
		Library: l.title, Err: ErrNoDriver,
		Failed: []error{fmt.Errorf("%s is for CUDA %s, but CUDA %s is needed", l.path, versionText(version), versionText(MinimumVersion))},
		Advice: "update the driver to 550 or newer",
	}
}

// versionText writes 12040 as 12.4.
func versionText(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }

// DriverVersion is the newest CUDA that the driver supports: 13000 for 13.0.
func (c *CUDA) DriverVersion() int { return c.version }

// Path is where the library was found.
func (c *CUDA) Path() string { return c.library.path }

// DeviceInfo describes a GPU.
type DeviceInfo struct {
	Ordinal        int    // among those that CUDA_VISIBLE_DEVICES leaves
	Name           string // as NVIDIA calls it
	Major, Minor   int    // compute capability: 9, 0 for Hopper
	SMs            int    // multiprocessors
	Memory         int64  // bytes in all
	Free           int64  // bytes free; -1 if that could not be found out
	L2             int64  // bytes of L2 cache
	SharedPerBlock int    // bytes of shared memory that a block may ask for
	PCI, UUID      string // "0000:1b:00.0", "GPU-..."
}

// Devices describes all GPUs. To learn what is free it makes a context on each
// that has none yet, which takes some tenths of a second; see also Device.
func (c *CUDA) Devices() ([]DeviceInfo, error) {
	var count int32
	if err := c.api.check("cuDeviceGetCount", "", result(call(c.device.count, uintptr(unsafe.Pointer(&count))))); err != nil {
		return nil, err
	}
	list := make([]DeviceInfo, count)
	for i := range list {
		var err error
		if list[i], err = c.Device(i); err != nil {
			return nil, err
		}
		e, err := NewExecutor(c, i)
		if err != nil {
			continue
		}
		if free, _, err := e.MemInfo(); err == nil {
			list[i].Free = free
		}
		e.Close()
	}
	return list, nil
}

// Device describes a GPU without making a context: Free is -1.
func (c *CUDA) Device(ordinal int) (DeviceInfo, error) {
	info := DeviceInfo{Ordinal: ordinal, Free: -1}
	var device int32
	if err := c.api.check("cuDeviceGet", fmt.Sprintf("device %d", ordinal), result(call(c.device.get, uintptr(unsafe.Pointer(&device)), uintptr(ordinal)))); err != nil {
		return info, err
	}
	var name, pci [128]byte
	var uuid [16]byte
	var total int64
	r := result(call(c.device.name, uintptr(unsafe.Pointer(&name)), uintptr(len(name)-1), uintptr(device)))
	for _, next := range []func() result{
		func() result {
			return result(call(c.device.pci, uintptr(unsafe.Pointer(&pci)), uintptr(len(pci)-1), uintptr(device)))
		},
		func() result { return result(call(c.device.uuid, uintptr(unsafe.Pointer(&uuid)), uintptr(device))) },
		func() result {
			return result(call(c.device.totalMem, uintptr(unsafe.Pointer(&total)), uintptr(device)))
		},
	} {
		if r == success {
			r = next()
		}
	}
	attribute := func(id int) int {
		var value int32
		if r == success {
			r = result(call(c.device.attribute, uintptr(unsafe.Pointer(&value)), uintptr(id), uintptr(device)))
		}
		return int(value)
	}
	info.Major, info.Minor, info.SMs = attribute(deviceMajor), attribute(deviceMinor), attribute(deviceSMs)
	info.L2, info.SharedPerBlock = int64(attribute(deviceL2)), attribute(deviceSharedPerBlock)
	info.Name, info.PCI, info.Memory = goString(&name[0]), goString(&pci[0]), total
	info.UUID = fmt.Sprintf("GPU-%x-%x-%x-%x-%x", uuid[:4], uuid[4:6], uuid[6:8], uuid[8:10], uuid[10:])
	return info, c.api.check("cuDeviceGetAttribute", fmt.Sprintf("device %d", ordinal), r)
}

// check makes an error of a result that is not success.
func (a *api) check(function, detail string, r result) error {
	if r == success {
		return nil
	}
	name, text := a.describe(r)
	return &Error{Call: function, Detail: detail, Code: int(r), Name: name, Text: text, Advice: r.advice()}
}
