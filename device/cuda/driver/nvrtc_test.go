package driver

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// openNVRTC finds the compiler where LATENT_CUDA_PATH says or anywhere else.
func openNVRTC(t *testing.T) *NVRTC {
	t.Helper()
	n, err := OpenNVRTC(Search{Dir: os.Getenv("LATENT_CUDA_PATH")})
	if err != nil {
		t.Skipf("there is no NVRTC: %v", err)
	}
	return n
}

func TestCompile(t *testing.T) {
	n := openNVRTC(t)
	major, minor := n.Version()
	t.Logf("NVRTC %d.%d at %s", major, minor, n.Path())
	if major < 12 || !strings.HasPrefix(n.Path(), "/") {
		t.Errorf("NVRTC %d.%d at %q", major, minor, n.Path())
	}
	options := []string{"--gpu-architecture=sm_90a", "--std=c++17", "--ptxas-options=-v", "-DVALUE=7"}
	cubin, log, err := n.Compile("seven.cu", `extern "C" __global__ void seven(int* p) { p[threadIdx.x] = VALUE; }`, options)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(cubin), "\x7fELF") || !strings.Contains(log, "Used") {
		t.Errorf("got %d bytes %q..., log %q", len(cubin), cubin[:min(4, len(cubin))], log)
	}

	_, _, err = n.Compile("bad.cu", "extern \"C\" __global__ void bad(int* p) {\n  p[0] = unheard_of;\n}", options)
	var failed *CompileError
	if !errors.As(err, &failed) || !strings.Contains(err.Error(), "bad.cu(2)") || !strings.Contains(err.Error(), "unheard_of") {
		t.Errorf("a wrong program gives %v", err)
	}
	if _, _, err = n.Compile("a.cu", "", []string{"--gpu-architecture=sm_1"}); err == nil || errors.As(err, &failed) && failed.Name == "a.cu" {
		t.Errorf("an architecture that there is not gives %v", err)
	}
	if _, _, err = n.Compile("a.cu", "", []string{"--gpu-architecture=compute_90a"}); err == nil || !strings.Contains(err.Error(), "real architecture") {
		t.Errorf("a virtual architecture gives %v", err)
	}
}

// TestCompileGPUKernels compiles what the tests on a GPU run.
func TestCompileGPUKernels(t *testing.T) {
	n := openNVRTC(t)
	if _, log, err := n.Compile("gpu.cu", gpuSource, []string{"--gpu-architecture=sm_90a", "--std=c++17", "-default-device"}); err != nil || log != "" {
		t.Errorf("%+v\n%s", err, log)
	}
}
