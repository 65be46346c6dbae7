package cuda

import (
	"errors"
	"os"
	"testing"

	"latent/device"
	"latent/device/cuda/driver"
	"latent/device/devicetest"
)

// openTest opens the first GPU, or skips the test where there is none.
func openTest(t testing.TB) *Device {
	t.Helper()
	d, err := Open(Options{Search: driver.Search{Dir: os.Getenv("LATENT_CUDA_PATH")}})
	if errors.Is(err, driver.ErrNoDriver) || errors.Is(err, driver.ErrNoLibrary) {
		t.Skipf("no GPU to test on: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newTestDevice is openTest with Close at the end of the test.
func newTestDevice(t testing.TB) *Device {
	d := openTest(t)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func TestConformance(t *testing.T) {
	devicetest.Run(t, devicetest.Options{
		Arithmetic: []devicetest.Arithmetic{{Type: device.BF16, Tolerance: 1.0 / 64}},
		Caches:     []device.CacheFormat{device.CacheBF16, device.CacheF8},
		// FP8 queries are handed over as codes.
		OpaqueIndexQuery: true,
	}, func(t testing.TB) device.Device { return openTest(t) })
}
