package driver

import (
	"fmt"
	"unsafe"
)

// BLAS is cuBLASLt, NVIDIA's library of matrix products. Its methods may be
// called from any goroutine; a handle belongs to one device.
type BLAS struct {
	library *library
	version int

	create, destroy                        uintptr
	descCreate, descSet, descDestroy       uintptr
	layoutCreate, layoutSet, layoutDestroy uintptr
	prefCreate, prefSet, prefDestroy       uintptr
	heuristic, matmul                      uintptr
}

// Values of cublasLt.h (CUDA 13.0) that are used here. The block scales came
// with CUDA 12.9.
const (
	blasCompute32F = 68 // CUBLAS_COMPUTE_32F

	descTransA     = 3
	descScaleA     = 17 // pointers
	descScaleB     = 18
	descScaleModeA = 31
	descScaleModeB = 32

	scaleVector128  = 4 // CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F
	scaleBlock128   = 5 // CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F
	blockScaleSince = 120900

	layoutBatch  = 5
	layoutStride = 6

	prefWorkspace = 1
	prefReduction = 3
	prefAlignA    = 5 // B, C and D follow

	reduceInFloat32 = 2 // CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
)

// OpenBLAS opens cuBLASLt.
func OpenBLAS(s Search) (*BLAS, error) {
	l, err := s.open(wanted{
		title: "cuBLASLt", names: []string{"libcublasLt.so.13", "libcublasLt.so.12"},
		advice: "install CUDA's toolkit or the Python wheel nvidia-cublas, and name its folder with --cuda-path",
		err:    ErrNoLibrary,
	})
	if err != nil {
		return nil, err
	}
	b := &BLAS{library: l}
	var version uintptr
	for _, f := range []struct {
		name string
		to   *uintptr
	}{
		{"cublasLtGetVersion", &version},
		{"cublasLtCreate", &b.create}, {"cublasLtDestroy", &b.destroy},
		{"cublasLtMatmulDescCreate", &b.descCreate}, {"cublasLtMatmulDescSetAttribute", &b.descSet}, {"cublasLtMatmulDescDestroy", &b.descDestroy},
		{"cublasLtMatrixLayoutCreate", &b.layoutCreate}, {"cublasLtMatrixLayoutSetAttribute", &b.layoutSet}, {"cublasLtMatrixLayoutDestroy", &b.layoutDestroy},
		{"cublasLtMatmulPreferenceCreate", &b.prefCreate}, {"cublasLtMatmulPreferenceSetAttribute", &b.prefSet}, {"cublasLtMatmulPreferenceDestroy", &b.prefDestroy},
		{"cublasLtMatmulAlgoGetHeuristic", &b.heuristic}, {"cublasLtMatmul", &b.matmul},
	} {
		if *f.to, err = l.symbol(f.name); err != nil {
			return nil, err
		}
	}
	b.version = int(call(version))
	return b, nil
}

// Version returns major·10000 + minor·100 + patch.
func (b *BLAS) Version() int { return b.version }

// Path returns the file the library came from.
func (b *BLAS) Path() string { return b.library.path }

// BlockScales tells whether the library is new enough for block scales.
func (b *BLAS) BlockScales() bool { return b.version >= blockScaleSince }

// blasError makes an error of a cublasStatus_t.
func blasError(function, detail string, status uintptr) error {
	code := int32(status)
	if code == 0 {
		return nil
	}
	names := map[int32]string{
		1: "CUBLAS_STATUS_NOT_INITIALIZED", 3: "CUBLAS_STATUS_ALLOC_FAILED", 7: "CUBLAS_STATUS_INVALID_VALUE",
		8: "CUBLAS_STATUS_ARCH_MISMATCH", 11: "CUBLAS_STATUS_MAPPING_ERROR", 13: "CUBLAS_STATUS_EXECUTION_FAILED",
		14: "CUBLAS_STATUS_INTERNAL_ERROR", 15: "CUBLAS_STATUS_NOT_SUPPORTED", 16: "CUBLAS_STATUS_LICENSE_ERROR",
	}
	name := names[code]
	if name == "" {
		name = "unknown cuBLAS status"
	}
	return &BLASError{Call: function, Detail: detail, Code: int(code), Name: name}
}

// A BLASError is the failure of a call into cuBLASLt.
type BLASError struct {
	Call   string // the function
	Detail string // the product
	Code   int    // cublasStatus_t
	Name   string
}

func (e *BLASError) Error() string {
	return fmt.Sprintf("%s (%s): %s (%d)", e.Call, e.Detail, e.Name, e.Code)
}

// BLASHandle is the library's state for one device. Use it on the executor's
// thread only.
type BLASHandle struct {
	blas   *BLAS
	handle uintptr
}

// NewHandle makes a handle for the device of the current context.
func (b *BLAS) NewHandle() (*BLASHandle, error) {
	h := &BLASHandle{blas: b}
	if err := blasError("cublasLtCreate", b.library.path, call(b.create, uintptr(unsafe.Pointer(&h.handle)))); err != nil {
		return nil, err
	}
	return h, nil
}

// Close frees the handle.
func (h *BLASHandle) Close() error {
	return blasError("cublasLtDestroy", h.blas.library.path, call(h.blas.destroy, h.handle))
}

// MatmulType is the type of a matrix's elements, a cudaDataType.
type MatmulType int32

// The types of matrices.
const (
	MatmulF32  MatmulType = 0
	MatmulBF16 MatmulType = 14
	MatmulF8   MatmulType = 28 // e4m3
)

// MatmulOperand is a column-major matrix: columns are Lead elements apart,
// matrices of a batch Stride elements. Align is what its address is a multiple
// of, in bytes, as far as is known.
type MatmulOperand struct {
	Type       MatmulType
	Rows, Cols int
	Lead       int
	Stride     int64
	Align      uint32
}

// MatmulSpec describes products D = op(A)·B + beta·D, accumulated in float32;
// op transposes with TransposeA.
//
// BlockScales makes e4m3 operands, A transposed, products of scaled blocks:
// A [K, M] has one float32 scale for each 128x128 block, those of a block of
// columns stored after one another and their number padded to a multiple of 4:
// [⌈M/128⌉][⌈K/128⌉ up to 4]. B [K, N] has one for each 128 elements of a
// column, stored [K/128][N].
type MatmulSpec struct {
	TransposeA  bool
	A, B, D     MatmulOperand
	Batch       int
	BlockScales bool
	Workspace   int64 // bytes that may be used
}

func (s *MatmulSpec) String() string {
	names := map[MatmulType]string{MatmulF32: "f32", MatmulBF16: "bf16", MatmulF8: "e4m3"}
	k := s.B.Rows
	text := fmt.Sprintf("[%d, %d] %s · [%d, %d] %s to %s", s.D.Rows, k, names[s.A.Type], k, s.D.Cols, names[s.B.Type], names[s.D.Type])
	if s.Batch > 1 {
		text += fmt.Sprintf(", %d of them", s.Batch)
	}
	if s.BlockScales {
		text += ", block scales"
	}
	return text
}

// Matmul is a product ready to run.
type Matmul struct {
	handle         *BLASHandle
	spec           MatmulSpec
	desc, a, b, d  uintptr
	algorithm      [8]uint64 // cublasLtMatmulAlgo_t
	scaleA, scaleB Ptr       // set in desc
}

// heuristicResult is cublasLtMatmulHeuristicResult_t.
type heuristicResult struct {
	algorithm [8]uint64
	workspace uint64
	state     int32
	waves     float32
	reserved  [4]int32
}

// Plan chooses an algorithm, which takes the host some 50 µs and touches no
// stream. The error is a [*BLASError] if the library has none.
func (h *BLASHandle) Plan(spec MatmulSpec) (*Matmul, error) {
	m := &Matmul{handle: h, spec: spec}
	if err := m.plan(); err != nil {
		m.Free()
		return nil, err
	}
	return m, nil
}

// planner carries the first error through a series of calls.
type planner struct {
	err    error
	detail string
}

func (p *planner) check(function string, status uintptr) {
	if p.err == nil {
		p.err = blasError(function, p.detail, status)
	}
}

// set sets an attribute of 4 or 8 bytes.
func set[T int32 | uint32 | int64 | uint64 | Ptr](p *planner, name string, function, object uintptr, attribute int, value T) {
	if p.err != nil {
		return
	}
	p.check(name, call(function, object, uintptr(attribute), uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value)))
}

func (m *Matmul) plan() error {
	b, s := m.handle.blas, &m.spec
	p := &planner{detail: s.String()}
	p.check("cublasLtMatmulDescCreate", call(b.descCreate, uintptr(unsafe.Pointer(&m.desc)), blasCompute32F, uintptr(MatmulF32)))
	if s.TransposeA {
		set(p, "cublasLtMatmulDescSetAttribute", b.descSet, m.desc, descTransA, int32(1))
	}
	if s.BlockScales {
		set(p, "cublasLtMatmulDescSetAttribute", b.descSet, m.desc, descScaleModeA, int32(scaleBlock128))
		set(p, "cublasLtMatmulDescSetAttribute", b.descSet, m.desc, descScaleModeB, int32(scaleVector128))
		// The choice of an algorithm asks for addresses, any will do.
		m.scaleA, m.scaleB = 256, 256
		set(p, "cublasLtMatmulDescSetAttribute", b.descSet, m.desc, descScaleA, m.scaleA)
		set(p, "cublasLtMatmulDescSetAttribute", b.descSet, m.desc, descScaleB, m.scaleB)
	}
	m.layout(p, &m.a, s.A)
	m.layout(p, &m.b, s.B)
	m.layout(p, &m.d, s.D)

	var preference uintptr
	p.check("cublasLtMatmulPreferenceCreate", call(b.prefCreate, uintptr(unsafe.Pointer(&preference))))
	if preference != 0 {
		defer call(b.prefDestroy, preference)
	}
	set(p, "cublasLtMatmulPreferenceSetAttribute", b.prefSet, preference, prefWorkspace, uint64(s.Workspace))
	set(p, "cublasLtMatmulPreferenceSetAttribute", b.prefSet, preference, prefReduction, uint32(reduceInFloat32))
	for i, o := range []MatmulOperand{s.A, s.B, s.D, s.D} { // A, B, C, D; C is D
		set(p, "cublasLtMatmulPreferenceSetAttribute", b.prefSet, preference, prefAlignA+i, o.Align)
	}
	if p.err != nil {
		return p.err
	}
	var result heuristicResult
	var found int32
	p.check("cublasLtMatmulAlgoGetHeuristic", call(b.heuristic, m.handle.handle, m.desc, m.a, m.b, m.d, m.d, preference,
		1, uintptr(unsafe.Pointer(&result)), uintptr(unsafe.Pointer(&found))))
	if found > 0 {
		p.check("cublasLtMatmulAlgoGetHeuristic", uintptr(result.state))
	} else {
		p.check("cublasLtMatmulAlgoGetHeuristic", 15) // it found none: not supported
	}
	m.algorithm = result.algorithm
	return p.err
}

func (m *Matmul) layout(p *planner, to *uintptr, o MatmulOperand) {
	b := m.handle.blas
	if p.err != nil {
		return
	}
	p.check("cublasLtMatrixLayoutCreate", call(b.layoutCreate, uintptr(unsafe.Pointer(to)), uintptr(o.Type), uintptr(o.Rows), uintptr(o.Cols), uintptr(o.Lead)))
	if m.spec.Batch > 1 {
		set(p, "cublasLtMatrixLayoutSetAttribute", b.layoutSet, *to, layoutBatch, int32(m.spec.Batch))
		set(p, "cublasLtMatrixLayoutSetAttribute", b.layoutSet, *to, layoutStride, o.Stride)
	}
}

// Free frees the plan; what was queued with it still runs.
func (m *Matmul) Free() {
	b := m.handle.blas
	for _, object := range []struct {
		destroy uintptr
		object  *uintptr
	}{{b.layoutDestroy, &m.a}, {b.layoutDestroy, &m.b}, {b.layoutDestroy, &m.d}, {b.descDestroy, &m.desc}} {
		if *object.object != 0 {
			call(object.destroy, *object.object)
			*object.object = 0
		}
	}
}

// MatmulCall holds the arguments of a product. It is passed by address to the
// library and stays unchanged until Run returns.
type MatmulCall struct {
	A, B, D        Ptr
	ScaleA, ScaleB Ptr // with BlockScales
	Workspace      Ptr // of the spec's size
	Beta           float32
	one            float32
}

// Run queues the product on a stream; it allocates nothing.
func (m *Matmul) Run(stream uintptr, c *MatmulCall) error {
	b := m.handle.blas
	if m.spec.BlockScales {
		if err := m.setScale(descScaleA, &m.scaleA, c.ScaleA); err != nil {
			return err
		}
		if err := m.setScale(descScaleB, &m.scaleB, c.ScaleB); err != nil {
			return err
		}
	}
	c.one = 1
	status := call(b.matmul, m.handle.handle, m.desc, uintptr(unsafe.Pointer(&c.one)), uintptr(c.A), m.a, uintptr(c.B), m.b,
		uintptr(unsafe.Pointer(&c.Beta)), uintptr(c.D), m.d, uintptr(c.D), m.d, uintptr(unsafe.Pointer(&m.algorithm)),
		uintptr(c.Workspace), uintptr(m.spec.Workspace), stream)
	if status != 0 {
		return blasError("cublasLtMatmul", m.spec.String(), status)
	}
	return nil
}

// setScale changes a scale pointer of the descriptor if it is another one.
func (m *Matmul) setScale(attribute int, have *Ptr, want Ptr) error {
	if *have == want {
		return nil
	}
	*have = want
	status := call(m.handle.blas.descSet, m.desc, uintptr(attribute), uintptr(unsafe.Pointer(have)), unsafe.Sizeof(*have))
	if status != 0 {
		return blasError("cublasLtMatmulDescSetAttribute", m.spec.String(), status)
	}
	return nil
}
