//go:build !(linux && (amd64 || arm64))

package driver

// supported says whether this platform can have CUDA.
const supported = false

func dlopen(string, bool) (uintptr, error) { return 0, ErrUnsupported }

func dlsym(uintptr, string) (uintptr, error) { return 0, ErrUnsupported }

// call is never reached: no library can be opened.
func call(uintptr, ...uintptr) uintptr { panic("driver: no foreign functions on this platform") }
