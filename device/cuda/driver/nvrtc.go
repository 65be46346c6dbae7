package driver

import (
	"fmt"
	"strings"
	"unsafe"
)

// NVRTC is the run-time compiler of CUDA C++. It needs neither a GPU nor a
// driver. It may be used by several goroutines.
type NVRTC struct {
	library      *library
	major, minor int
	f            nvrtcFunctions
}

type nvrtcFunctions struct {
	create, destroy, compile, logSize, log, cubinSize, cubin, errorString uintptr
}

// OpenNVRTC finds the compiler.
func OpenNVRTC(s Search) (*NVRTC, error) {
	l, err := s.open(wanted{
		title: "NVRTC", names: []string{"libnvrtc.so.13", "libnvrtc.so.12"}, companions: []string{"libnvrtc-builtins.so.1[23].*"}, err: ErrNoLibrary,
		advice: "install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, and name its folder with --cuda-path or LATENT_CUDA_PATH if it is an unusual one",
	})
	if err != nil {
		return nil, err
	}
	b := &binder{library: l}
	n := &NVRTC{library: l, f: nvrtcFunctions{
		create: b.symbol("nvrtcCreateProgram"), destroy: b.symbol("nvrtcDestroyProgram"), compile: b.symbol("nvrtcCompileProgram"),
		logSize: b.symbol("nvrtcGetProgramLogSize"), log: b.symbol("nvrtcGetProgramLog"),
		cubinSize: b.symbol("nvrtcGetCUBINSize"), cubin: b.symbol("nvrtcGetCUBIN"), errorString: b.symbol("nvrtcGetErrorString"),
	}}
	version := b.symbol("nvrtcVersion")
	if b.err != nil {
		return nil, b.err
	}
	var major, minor int32
	if r := call(version, uintptr(unsafe.Pointer(&major)), uintptr(unsafe.Pointer(&minor))); r != 0 {
		return nil, n.failure("nvrtcVersion", "", r)
	}
	n.major, n.minor = int(major), int(minor)
	return n, nil
}

// Version returns e.g. 13, 0.
func (n *NVRTC) Version() (major, minor int) { return n.major, n.minor }

// Path is where the library was found.
func (n *NVRTC) Path() string { return n.library.path }

// A CompileError says why a kernel did not compile.
type CompileError struct {
	Name string // of the program
	Text string // NVRTC's name of the error
	Log  string // all that the compiler said
}

// Error returns the log's first error, in a line; %+v has the whole log.
func (e *CompileError) Error() string {
	for line := range strings.Lines(e.Log) {
		if strings.Contains(line, "error") {
			return fmt.Sprintf("compile %s: %s", e.Name, strings.TrimSpace(line))
		}
	}
	return fmt.Sprintf("compile %s: %s", e.Name, e.Text)
}

// Format adds the log for %+v.
func (e *CompileError) Format(f fmt.State, verb rune) {
	fmt.Fprint(f, e.Error())
	if verb == 'v' && f.Flag('+') {
		fmt.Fprintf(f, "\n%s", e.Log)
	}
}

// Compile compiles source for a real architecture, which the options name
// (--gpu-architecture=sm_90a). Name stands for the file in messages. The log
// has the compiler's warnings and, with --ptxas-options=-v, what the kernels
// use. A source that does not compile gives a *CompileError.
func (n *NVRTC) Compile(name, source string, options []string) (cubin []byte, log string, err error) {
	var program uintptr
	text, file := cString(source), cString(name)
	if r := call(n.f.create, uintptr(unsafe.Pointer(&program)), uintptr(unsafe.Pointer(&text[0])), uintptr(unsafe.Pointer(&file[0])), 0, 0, 0); r != 0 {
		return nil, "", n.failure("nvrtcCreateProgram", name, r)
	}
	defer call(n.f.destroy, uintptr(unsafe.Pointer(&program)))
	arguments := make([]*byte, len(options)+1) // one more, so that there is a first
	for i, o := range options {
		arguments[i] = &cString(o)[0]
	}
	compiled := call(n.f.compile, program, uintptr(len(options)), uintptr(unsafe.Pointer(&arguments[0])))
	var size uint64
	if r := call(n.f.logSize, program, uintptr(unsafe.Pointer(&size))); r != 0 {
		return nil, "", n.failure("nvrtcGetProgramLogSize", name, r)
	}
	if size > 1 {
		buffer := make([]byte, size)
		if r := call(n.f.log, program, uintptr(unsafe.Pointer(&buffer[0]))); r != 0 {
			return nil, "", n.failure("nvrtcGetProgramLog", name, r)
		}
		log = goString(&buffer[0])
	}
	const compilation = 6 // NVRTC_ERROR_COMPILATION
	if compiled == compilation {
		return nil, log, &CompileError{Name: name, Text: n.text(compiled), Log: log}
	}
	if compiled != 0 {
		return nil, log, n.failure("nvrtcCompileProgram", strings.TrimSpace(name+" "+log), compiled)
	}
	if r := call(n.f.cubinSize, program, uintptr(unsafe.Pointer(&size))); r != 0 || size == 0 {
		return nil, log, n.failure("nvrtcGetCUBINSize", name, r)
	}
	cubin = make([]byte, size)
	if r := call(n.f.cubin, program, uintptr(unsafe.Pointer(&cubin[0]))); r != 0 {
		return nil, log, n.failure("nvrtcGetCUBIN", name, r)
	}
	return cubin, log, nil
}

// text returns NVRTC's name of a result.
func (n *NVRTC) text(r uintptr) string {
	// The string is the library's own: read it through a pointer that it is
	// stored in, as a number cannot be made a pointer.
	p := call(n.f.errorString, r)
	return goString(*(**byte)(unsafe.Pointer(&p)))
}

func (n *NVRTC) failure(function, detail string, r uintptr) error {
	e := &Error{Call: function, Detail: detail, Code: int(r), Name: n.text(r)}
	switch r {
	case 0: // no code for the GPU came out
		e.Name, e.Advice = "no cubin", "the options must name a real architecture, such as --gpu-architecture=sm_90a"
	case 5: // NVRTC_ERROR_INVALID_OPTION
		e.Advice = "this NVRTC may be too old for the GPU"
	case 7: // NVRTC_ERROR_BUILTIN_OPERATION_FAILURE
		e.Advice = fmt.Sprintf("libnvrtc-builtins.so.%d.%d must lie beside %s", n.major, n.minor, n.Path())
	}
	return e
}
