package kern

// N is the width of a panel: the columns a product works on at once.
const N = 32

// ScaleBlock is the number of consecutive k that share a scale in an f8 panel.
const ScaleBlock = 128

// Kernels are the functions of one tier. Matrices are row-major; strides and
// leading dimensions count elements. A slice may be longer than what a function
// reads or writes; a shorter one panics. Arguments that are written must not
// overlap others unless a function says so. All functions may be called
// concurrently.
type Kernels struct {
	// Tier is the name of the tier.
	Tier string
	// Rows is the number of rows that Gemm works on at once. Gemm is fastest
	// when m is a multiple of it and a is packed with ars = 1, aks = Rows.
	Rows int

	// Gemm adds A·B to C [m, 32]. Element (i, p) of A [m, k] is a[i*ars+p*aks],
	// row p of B [k, 32] starts at b[p*ldb].
	Gemm func(m, k int, a []float32, ars, aks int, b []float32, ldb int, c []float32, ldc int)
	// GemmN is Gemm for n <= 32 columns. It reads and writes n columns only.
	GemmN func(m, n, k int, a []float32, ars, aks int, b []float32, ldb int, c []float32, ldc int)

	// GemmPanels is GemmN for A in panels of N columns: element (i, p) of
	// A [m, k] is a[p/N*lda+i*N+p%N]. It is fast for n <= 16 too.
	GemmPanels func(m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int)

	// PanelF32 adds X·Wᵀ over k in [k0, k1) to Y [m, n], for few rows m. Row i
	// of X starts at x[i*ldx] (k = 0). W has n outputs in ⌈n/32⌉ panels; panel j
	// starts at w[j*ldw]. It reads only k in [k0, k1). Any m works.
	PanelF32 func(m, n, k0, k1 int, x []float32, ldx int, w []float32, ldw int, y []float32, ldy int)
	// PanelBF16 is PanelF32 for bf16 panels; k0 must be even. From about 20 rows
	// on (12 in avx2), UnpackBF16 of pieces that stay in the L1 cache, each
	// followed by Gemm, is faster; it computes the same bits.
	PanelBF16 func(m, n, k0, k1 int, x []float32, ldx int, w []uint16, ldw int, y []float32, ldy int)
	// PanelF8 is PanelF32 for f8 panels; k0 must be a multiple of ScaleBlock.
	// The scales of panel j start at s[j*lds] (k = 0). From 4 or 5 rows on,
	// UnpackF8 and Gemm are faster.
	PanelF8 func(m, n, k0, k1 int, x []float32, ldx int, w []uint8, ldw int, s []float32, lds int, y []float32, ldy int)

	// UnpackBF16 writes k in [k0, k1) of a bf16 panel to dst [k1-k0, 32]; k0
	// must be even.
	UnpackBF16 func(dst []float32, w []uint16, k0, k1 int)
	// UnpackF8 writes k in [k0, k1) of an f8 panel, times its scales, to
	// dst [k1-k0, 32]; k0 must be a multiple of ScaleBlock.
	UnpackF8 func(dst []float32, w []uint8, s []float32, k0, k1 int)

	// GemmBF16 adds A·Wᵀ to C [m, n] over pairs of k, by VDPBF16PS (products
	// of bf16 pairs, float32 sums, denormals are zeros). Element (i, p) of A
	// [m, pairs] is the pair a[i*ars+p*aks], k = 2p in the low half; panel j of
	// W starts at w[j*ldw]. It is fast for one row and for many. It is nil in
	// tiers without the instruction.
	GemmBF16 func(m, n, pairs int, a []uint32, ars, aks int, w []uint16, ldw int, c []float32, ldc int)
	// PairsBF16 rounds x to bf16 pairs, as GemmBF16 takes them, in
	// dst [⌈len(x)/2⌉].
	PairsBF16 func(dst []uint32, x []float32)

	// Dot returns Σ x·y. len(y) >= len(x).
	Dot func(x, y []float32) float32
	// SumSquares returns Σ x².
	SumSquares func(x []float32) float32
	// Max returns the largest element, −Inf if there is none. Not for NaN.
	Max func(x []float32) float32
	// AbsMax returns the largest magnitude, 0 if there is none. Not for NaN.
	AbsMax func(x []float32) float32

	// Axpy adds a·x to y, one fma per element. len(y) >= len(x).
	Axpy func(y []float32, a float32, x []float32)
	// Add adds x to y. len(y) >= len(x).
	Add func(y, x []float32)
	// Scale multiplies x by a.
	Scale func(x []float32, a float32)
	// ScaleMul writes (a·x)·w to dst for the elements of x, as RMSNorm needs
	// it; dst may be x.
	ScaleMul func(dst []float32, a float32, x, w []float32)
	// SiluMul writes g/(1+exp(−g))·u to dst for the elements of g; dst may be g
	// or u.
	SiluMul func(dst, g, u []float32)
	// Mask sets x[i] to −Inf where bit from+i of bits is clear; bit j is
	// bits[j/64]>>(j%64)&1.
	Mask func(x []float32, bits []uint64, from int)
	// ReluWeighted adds w·max(0, s) to dst for the elements of s.
	ReluWeighted func(dst, s []float32, w float32)
	// Exp replaces x by exp(scale·x − shift) and returns the sum. Values below
	// 2^-126 become zero.
	Exp func(x []float32, scale, shift float32) float32

	// SoftmaxColumns replaces the columns of x [rows, n], n <= N and leading
	// dimension ld, by exp(scale·(x − top)) and writes their largest elements to
	// top [n] and the sums of the results, added in order of rows, to sum [n].
	// −Inf becomes zero, also in a column without other elements, whose sum is
	// zero. Not for NaN; scale is positive.
	SoftmaxColumns func(x []float32, ld, rows, n int, scale float32, top, sum []float32)

	// F32FromBF16 and F32FromF16 convert the elements of src, exactly.
	F32FromBF16 func(dst []float32, src []uint16)
	F32FromF16  func(dst []float32, src []uint16)
	// F32FromF8 writes e4m3 src times scale to dst.
	F32FromF8 func(dst []float32, src []uint8, scale float32)
	// SpreadF32, SpreadBF16 and SpreadF8 write src (e4m3: times scale) in pieces
	// of N elements, ldd apart in dst: as a row of a matrix in panels.
	SpreadF32  func(dst []float32, ldd int, src []float32)
	SpreadBF16 func(dst []float32, ldd int, src []uint16)
	SpreadF8   func(dst []float32, ldd int, src []uint8, scale float32)
	// BF16FromF32 rounds src to the nearest bf16, ties to even.
	BF16FromF32 func(dst []uint16, src []float32)
	// F8FromF32 rounds src times scale to the nearest e4m3, as device.F8FromF32.
	F8FromF32 func(dst []uint8, src []float32, scale float32)

	// Transpose writes src [rows, cols] to dst [cols, rows]; leading dimensions
	// lds and ldd.
	Transpose func(dst []float32, ldd int, src []float32, lds, rows, cols int)

	// CountGreater returns how many elements of x are greater than t.
	CountGreater func(x []float32, t float32) int
	// IndexGreater writes base+i for every x[i] > t to dst, in order, and
	// returns how many. dst needs room for that count only.
	IndexGreater func(dst []int32, x []float32, t float32, base int32) int
}
