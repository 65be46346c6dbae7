package driver

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestErrors(t *testing.T) {
	a := newFake().api()
	for r, want := range map[result]string{
		outOfMemory:    "cuX (what for): CUDA_ERROR_OUT_OF_MEMORY (2): out of memory; the device's memory is used up",
		illegalAddress: "LATENT_CUDA_SYNC=1",
		noDevice:       "CUDA_VISIBLE_DEVICES",
		invalidDevice:  "counted from 0",
		stubLibrary:    "LD_LIBRARY_PATH",
		noBinaryForGPU: "update the driver",
		systemMismatch: "do not fit together",
		outOfResources: "more registers",
		1:              "CUDA_ERROR_1 (1): text",
	} {
		if err := a.check("cuX", "what for", r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %s", r, err, want)
		}
	}
	if err := a.check("cuX", "", success); err != nil {
		t.Errorf("success is %v", err)
	}
	err := fmt.Errorf("more: %w", a.check("cuX", "", outOfMemory))
	if !errors.Is(err, ErrOutOfMemory) || errors.Is(err, ErrNoDevice) {
		t.Errorf("%v is not told as one of memory", err)
	}
	if text := (&Error{Call: "cuX", Name: "NAME", Code: 3}).Error(); text != "cuX: NAME (3)" {
		t.Errorf("a bare error is %q", text)
	}
}

func TestCompileError(t *testing.T) {
	err := &CompileError{Name: "a.cu", Text: "NVRTC_ERROR_COMPILATION", Log: "a.cu(1): warning #1\na.cu(3): error: no\na.cu(4): error: never\n"}
	if want := "compile a.cu: a.cu(3): error: no"; err.Error() != want || fmt.Sprintf("%v", err) != want || fmt.Sprintf("%+v", err) != want+"\n"+err.Log {
		t.Errorf("got %+v", err)
	}
	if err := (&CompileError{Name: "a.cu", Text: "NVRTC_ERROR_COMPILATION"}); err.Error() != "compile a.cu: NVRTC_ERROR_COMPILATION" {
		t.Errorf("without a log: %v", err)
	}
}
