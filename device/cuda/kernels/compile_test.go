package kernels

import (
	"os"
	"testing"

	"latent/device/cuda/driver"
)

// TestCompile compiles every unit, as a device that opens does, and wants hot
// ones without spilled registers and without warnings of slow matrix products.
// It needs NVRTC, but no GPU. LATENT_REQUIRE_NVRTC=1 makes its absence a failure.
func TestCompile(t *testing.T) {
	nvrtc, err := driver.OpenNVRTC(driver.Search{Dir: os.Getenv("LATENT_CUDA_PATH")})
	if err != nil {
		if os.Getenv("LATENT_REQUIRE_NVRTC") != "" {
			t.Fatal(err)
		}
		t.Skipf("no compiler: %v", err)
	}
	units, err := Units()
	if err != nil {
		t.Fatal(err)
	}
	built, err := Build(nvrtc, units, "", nil)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Logf("%-28s %-34s %9s %6s %6s %6s", "unit", "kernel", "registers", "stack", "spills", "shared")
	for _, b := range built {
		usage, warnings, err := ParseUsage(b.Log)
		if err != nil {
			t.Errorf("%s: %v", b.Name, err)
		}
		if len(usage) == 0 {
			t.Errorf("unit %s has no kernel", b.Name)
		}
		for _, u := range usage {
			t.Logf("%-28s %-34s %9d %6d %6d %6d", b.Name, u.Kernel, u.Registers, u.Stack, u.SpillStores+u.SpillLoads, u.Shared)
			if b.Hot && u.Spills() {
				t.Errorf("unit %s: %s spills %d bytes out and %d in", b.Name, u.Kernel, u.SpillStores, u.SpillLoads)
			}
		}
		if b.Hot {
			for _, w := range warnings {
				t.Errorf("unit %s: %s", b.Name, w)
			}
		}
	}
}
