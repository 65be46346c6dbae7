package kern

import (
	"fmt"
	"unsafe"
)

type panelFormat uint8

const (
	formatF32 panelFormat = iota
	formatBF16
	formatF8
	formatPairs
)

// panelArgs is a product of few rows with packed panels, for all formats.
// Pointers are to the first k of the range; strides are in bytes except ldy.
type panelArgs struct {
	format  panelFormat
	m, n, k int
	x       unsafe.Pointer
	ldx     int
	w       unsafe.Pointer
	ldw     int
	kBytes  int // of one k in a panel
	s       unsafe.Pointer
	lds     int
	y       *float32
	ldy     int
}

// panelRows is the most rows that a panel kernel takes.
func (t x86) panelRows() int {
	if t.avx512 {
		return 4
	}
	return 2
}

// panelWidth is the most panels that a kernel takes side by side.
func (t x86) panelWidth(f panelFormat, m int) int {
	switch {
	case t.avx512 && m == 1:
		return 4
	case t.avx512, m == 1 && f != formatF8:
		return 2
	}
	return 1
}

// panelDepth cuts k when panels are read for several blocks of rows, so that
// the second reading finds them in the cache. A multiple of ScaleBlock.
const panelDepth = 512

func (t x86) panel(a *panelArgs) {
	rows, width := t.panelRows(), t.panelWidth(a.format, a.m)
	depth := a.k
	if a.m > rows {
		depth = panelDepth
	}
	for k0 := 0; k0 < a.k; k0 += depth {
		k := min(depth, a.k-k0)
		for j := 0; j < a.n; {
			p := width
			for p > 1 && p*N > a.n-j {
				p /= 2
			}
			for i, left := 0, (a.m+rows-1)/rows; i < a.m; left-- {
				r := (a.m - i) / left // even blocks, as in gemm
				t.panelBlock(a, i, r, j, p, k0, k)
				i += r
			}
			j += p * N
		}
	}
}

// panelBlock computes rows [i, i+m), outputs [j, j+32p) over k from k0. Outputs
// past n go to a buffer.
func (t x86) panelBlock(a *panelArgs, i, m, j, p, k0, k int) {
	x := unsafe.Add(a.x, i*a.ldx+4*k0)
	w := unsafe.Add(a.w, j/N*a.ldw+k0*a.kBytes)
	var s *float32
	if a.format == formatF8 {
		s = (*float32)(unsafe.Add(a.s, j/N*a.lds+4*N*(k0/ScaleBlock)))
	}
	y, ldy := offset(a.y, i*a.ldy+j), a.ldy
	cols := a.n - j
	if cols >= N {
		t.panelCall(a, m, p, k, x, w, s, y, ldy)
		return
	}
	var buf [4 * N]float32
	for r := range m {
		copy(buf[r*N:], unsafe.Slice(offset(y, r*ldy), cols))
	}
	t.panelCall(a, m, p, k, x, w, s, &buf[0], N)
	for r := range m {
		copy(unsafe.Slice(offset(y, r*ldy), cols), buf[r*N:])
	}
}

func (t x86) panelCall(a *panelArgs, m, p, k int, x, w unsafe.Pointer, s, y *float32, ldy int) {
	shape := 8*m + p
	switch {
	case a.format == formatF32 && t.avx512:
		panelF32AVX512(shape, k, (*float32)(x), a.ldx, (*float32)(w), a.ldw, y, 4*ldy)
	case a.format == formatF32:
		panelF32AVX2(shape, k, (*float32)(x), a.ldx, (*float32)(w), a.ldw, y, 4*ldy)
	case a.format == formatBF16 && t.avx512:
		panelBF16AVX512(shape, k, (*float32)(x), a.ldx, (*uint16)(w), a.ldw, y, 4*ldy)
	case a.format == formatBF16:
		panelBF16AVX2(shape, k, (*float32)(x), a.ldx, (*uint16)(w), a.ldw, y, 4*ldy)
	case a.format == formatF8 && t.avx512:
		panelF8AVX512(shape, k, (*float32)(x), a.ldx, (*uint8)(w), a.ldw, s, a.lds, y, 4*ldy)
	case a.format == formatF8:
		panelF8AVX2(shape, k, (*float32)(x), a.ldx, (*uint8)(w), a.ldw, s, a.lds, y, 4*ldy)
	case a.format == formatPairs:
		panelPairsAVX512(shape, k, (*uint32)(x), a.ldx, (*uint16)(w), a.ldw, y, 4*ldy)
	}
}

func (t x86) panelF32(m, n, k0, k1 int, x []float32, ldx int, w []float32, ldw int, y []float32, ldy int) {
	if m <= 0 || n <= 0 || k0 >= k1 {
		return
	}
	checkPanel(m, n, k1, len(x), ldx, len(w), ldw, LenF32(k1), len(y), ldy)
	a := panelArgs{format: formatF32, m: m, n: n, k: k1 - k0,
		x: unsafe.Pointer(&x[k0]), ldx: 4 * ldx,
		w: unsafe.Pointer(&w[k0*N]), ldw: 4 * ldw, kBytes: 4 * N,
		y: &y[0], ldy: ldy}
	t.panel(&a)
}

func (t x86) panelBF16(m, n, k0, k1 int, x []float32, ldx int, w []uint16, ldw int, y []float32, ldy int) {
	if m <= 0 || n <= 0 || k0 >= k1 {
		return
	}
	checkStart(k0, 2)
	checkPanel(m, n, k1, len(x), ldx, len(w), ldw, LenBF16(k1), len(y), ldy)
	a := panelArgs{format: formatBF16, m: m, n: n, k: k1 - k0,
		x: unsafe.Pointer(&x[k0]), ldx: 4 * ldx,
		w: unsafe.Pointer(&w[k0*N]), ldw: 2 * ldw, kBytes: 2 * N,
		y: &y[0], ldy: ldy}
	t.panel(&a)
}

func (t x86) panelF8(m, n, k0, k1 int, x []float32, ldx int, w []uint8, ldw int, s []float32, lds int, y []float32, ldy int) {
	if m <= 0 || n <= 0 || k0 >= k1 {
		return
	}
	checkStart(k0, ScaleBlock)
	checkPanel(m, n, k1, len(x), ldx, len(w), ldw, LenF8(k1), len(y), ldy)
	checkLen("s", len(s), (n-1)/N*lds+LenScales(k1))
	a := panelArgs{format: formatF8, m: m, n: n, k: k1 - k0,
		x: unsafe.Pointer(&x[k0]), ldx: 4 * ldx,
		w: unsafe.Pointer(&w[k0*N]), ldw: ldw, kBytes: N,
		s: unsafe.Pointer(&s[k0/ScaleBlock*N]), lds: 4 * lds,
		y: &y[0], ldy: ldy}
	t.panel(&a)
}

func (t x86) unpackBF16(dst []float32, w []uint16, k0, k1 int) {
	checkStart(k0, 2)
	pairs := (k1 - k0) / 2
	if pairs > 0 {
		checkLen("dst", len(dst), 2*pairs*N)
		checkLen("w", len(w), (k0+2*pairs)*N)
		if t.avx512 {
			unpackBF16AVX512(pairs, &dst[0], &w[k0*N])
		} else {
			unpackBF16AVX2(pairs, &dst[0], &w[k0*N])
		}
	}
	if last := k0 + 2*pairs; last < k1 {
		goUnpackBF16(dst[2*pairs*N:], w, last, k1)
	}
}

func (t x86) unpackF8(dst []float32, w []uint8, s []float32, k0, k1 int) {
	checkStart(k0, ScaleBlock)
	if k0 >= k1 {
		return
	}
	checkLen("dst", len(dst), (k1-k0)*N)
	checkLen("w", len(w), LenF8(k1))
	checkLen("s", len(s), LenScales(k1))
	for k := k0; k < k1; k += ScaleBlock {
		n := min(ScaleBlock, k1-k)
		if t.avx512 {
			unpackF8AVX512(n, &dst[(k-k0)*N], &w[k*N], &s[k/ScaleBlock*N])
		} else {
			unpackF8AVX2(n, &dst[(k-k0)*N], &w[k*N], &s[k/ScaleBlock*N])
		}
	}
}

func checkPanel(m, n, k1, lenX, ldx, lenW, ldw, need, lenY, ldy int) {
	checkLen("x", lenX, (m-1)*ldx+k1)
	checkLen("w", lenW, (n-1)/N*ldw+need)
	checkLen("y", lenY, (m-1)*ldy+n)
}

func checkStart(k0, unit int) {
	if k0%unit != 0 {
		panic(fmt.Sprintf("kern: k starts at %d, not at a multiple of %d", k0, unit))
	}
}
