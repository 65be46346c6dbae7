package driver

import (
	"errors"
	"fmt"
)

// Errors to be told apart with errors.Is.
var (
	ErrClosed      = errors.New("driver: the executor is closed")
	ErrNoDevice    = errors.New("there is no GPU")
	ErrOutOfMemory = errors.New("out of device memory")
)

// result is a CUresult.
type result int32

// Results that are looked at here, from cuda.h.
const (
	success             result = 0
	invalidValue        result = 1
	outOfMemory         result = 2
	stubLibrary         result = 34
	noDevice            result = 100
	invalidDevice       result = 101
	invalidImage        result = 200
	noBinaryForGPU      result = 209
	unsupportedPTX      result = 222
	systemNotReady      result = 802
	systemMismatch      result = 803
	illegalAddress      result = 700
	outOfResources      result = 701
	launchTimeout       result = 702
	assertFailed        result = 710
	hardwareStack       result = 714
	illegalInstruction  result = 715
	misalignedAddress   result = 716
	invalidAddressSpace result = 717
	invalidPC           result = 718
	launchFailed        result = 719
)

// lost tells whether a result is a failure of a kernel after which the context
// is of no more use.
func (r result) lost() bool {
	switch r {
	case illegalAddress, launchTimeout, assertFailed, hardwareStack, illegalInstruction, misalignedAddress,
		invalidAddressSpace, invalidPC, launchFailed:
		return true
	}
	return false
}

// An Error is the failure of a call into a CUDA library.
type Error struct {
	Call   string // the function, e.g. "cuLaunchKernel"
	Detail string // what for, e.g. a kernel's name; may be empty
	Code   int
	Name   string // the library's name of the code, e.g. "CUDA_ERROR_OUT_OF_MEMORY"
	Text   string // the library's words
	Advice string // what to do about it; may be empty
}

// Error returns everything in a line.
func (e *Error) Error() string {
	text := e.Call
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	text += fmt.Sprintf(": %s (%d)", e.Name, e.Code)
	if e.Text != "" {
		text += ": " + e.Text
	}
	if e.Advice != "" {
		text += "; " + e.Advice
	}
	return text
}

// Lost tells whether the device's context is of no more use after this error:
// every later call fails, and only a new process gets a working one.
func (e *Error) Lost() bool { return result(e.Code).lost() }

// Is matches ErrNoDevice and ErrOutOfMemory.
func (e *Error) Is(target error) bool {
	return target == ErrNoDevice && e.Name == "CUDA_ERROR_NO_DEVICE" || target == ErrOutOfMemory && e.Name == "CUDA_ERROR_OUT_OF_MEMORY"
}

// SyncEnv names the environment variable that makes executors wait for every
// kernel, if it is 1.
const SyncEnv = "LATENT_CUDA_SYNC"

// advice says what usually helps.
func (r result) advice() string {
	switch r {
	case outOfMemory:
		return "the device's memory is used up: see which processes hold it (nvidia-smi), or lower what is asked for"
	case noDevice:
		return "there is a driver but no GPU that this process may use: check nvidia-smi and CUDA_VISIBLE_DEVICES"
	case invalidDevice:
		return "GPUs are counted from 0: nvidia-smi lists them, and CUDA_VISIBLE_DEVICES hides some"
	case stubLibrary:
		return "this is the toolkit's stub of libcuda, not the driver's: remove its folder from LD_LIBRARY_PATH"
	case invalidImage, noBinaryForGPU, unsupportedPTX:
		return "the kernels were compiled for another GPU, or by an NVRTC newer than the driver: update the driver or use an older NVRTC"
	case systemNotReady, systemMismatch:
		return "the driver's library, kernel module and services do not fit together: check nvidia-smi (and nvidia-fabricmanager)"
	case outOfResources:
		return "the kernel asks for more registers, threads or shared memory than the device has"
	}
	if r.lost() {
		return "this kernel or an earlier one failed: " + SyncEnv + "=1 waits for every kernel and names it; compute-sanitizer finds the access"
	}
	return ""
}
