package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"latent/device/cuda/driver"
)

func TestGPUReport(t *testing.T) {
	found := func(version string) libraryReport { return libraryReport{true, version, "/lib/" + version + ".so"} }
	h200 := driver.DeviceInfo{
		Name: "NVIDIA H200", Major: 9, SMs: 132, Memory: 150_754_820_096, Free: 150_109_880_320, L2: 60 << 20,
		SharedPerBlock: 232448, PCI: "0000:1b:00.0", UUID: "GPU-1",
	}
	a100 := driver.DeviceInfo{Ordinal: 1, Name: "NVIDIA A100", Major: 8, SMs: 108, Memory: 80 << 30, Free: -1, L2: 40 << 20, PCI: "0000:2b:00.0", UUID: "GPU-2"}
	for _, c := range []struct {
		report gpuReport
		list   []driver.DeviceInfo
		want   string
	}{
		{gpuReport{}, nil, `driver    none that can be used
NVRTC     none that can be used
cuBLASLt  none that can be used
GPU       none that can be used

latent computes on the CPU here
`},
		{gpuReport{Driver: found("CUDA 13.0"), Compiler: found("13.0"), BLAS: found("13.1.0")}, []driver.DeviceInfo{h200, a100}, `driver    CUDA 13.0, /lib/CUDA 13.0.so
NVRTC     13.0, /lib/13.0.so
cuBLASLt  13.1.0, /lib/13.1.0.so
GPU 0     NVIDIA H200, compute capability 9.0, 132 SMs, 140.4 GiB of memory, 139.8 GiB free, 60 MiB of L2
          PCI 0000:1b:00.0, GPU-1
GPU 1     NVIDIA A100, compute capability 8.0, 108 SMs, 80.0 GiB of memory, 40 MiB of L2
          PCI 0000:2b:00.0, GPU-2

GPU 1 (NVIDIA A100) has compute capability 8.0; the kernels need 9.0 (Hopper: H100, H200, H20)

latent can compute on a GPU here
`},
		{gpuReport{Driver: found("CUDA 13.0"), Compiler: found("13.0"), Obstacles: []string{"cuBLASLt: missing"}}, []driver.DeviceInfo{h200}, `driver    CUDA 13.0, /lib/CUDA 13.0.so
NVRTC     13.0, /lib/13.0.so
cuBLASLt  none that can be used
GPU 0     NVIDIA H200, compute capability 9.0, 132 SMs, 140.4 GiB of memory, 139.8 GiB free, 60 MiB of L2
          PCI 0000:1b:00.0, GPU-1

cuBLASLt: missing

latent computes on the CPU here
`},
	} {
		c.report.add(c.list)
		var out strings.Builder
		if err := c.report.print(&out); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, out.String()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	for version, want := range map[int]string{13000: "13.0", 12040: "12.4"} {
		if got := dotted(version, 1000, 10); got != want {
			t.Errorf("%d is %s, want %s", version, got, want)
		}
	}
	if got := dotted(130102, 10000, 100, 1); got != "13.1.2" {
		t.Errorf("130102 is %s", got)
	}
}
