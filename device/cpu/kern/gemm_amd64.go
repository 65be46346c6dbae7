package kern

import "unsafe"

// rows is the height of the register tile.
func (t x86) rows() int {
	if t.avx512 {
		return 14
	}
	return 6
}

// blocks returns the number of row blocks for m rows. They are cut as evenly as
// possible: two blocks of 8 and 7 rows beat one of 14 and one of 1, whose two
// chains cannot hide the latency of an fma.
func (t x86) blocks(m int) int { return (m + t.rows() - 1) / t.rows() }

func (t x86) gemm(m, k int, a []float32, ars, aks int, b []float32, ldb int, c []float32, ldc int) {
	if m <= 0 || k <= 0 {
		return
	}
	checkGemm(m, N, k, len(a), ars, aks, len(b), ldb, len(c), ldc)
	ap, bp, cp := unsafe.SliceData(a), unsafe.SliceData(b), unsafe.SliceData(c)
	for i, left := 0, t.blocks(m); i < m; left-- {
		n := (m - i) / left
		ai, ci := offset(ap, i*ars), offset(cp, i*ldc)
		if t.avx512 {
			gemmAVX512(n, k, ai, 4*ars, 4*aks, bp, 4*ldb, ci, 4*ldc)
		} else {
			gemmAVX2(n, k, ai, 4*ars, 4*aks, bp, 4*ldb, ci, 4*ldc)
			gemmAVX2(n, k, ai, 4*ars, 4*aks, offset(bp, 16), 4*ldb, offset(ci, 16), 4*ldc)
		}
		i += n
	}
}

func (t x86) gemmN(m, n, k int, a []float32, ars, aks int, b []float32, ldb int, c []float32, ldc int) {
	if n >= N {
		t.gemm(m, k, a, ars, aks, b, ldb, c, ldc)
		return
	}
	if m <= 0 || k <= 0 || n <= 0 {
		return
	}
	checkGemm(m, n, k, len(a), ars, aks, len(b), ldb, len(c), ldc)
	ap, bp, cp := unsafe.SliceData(a), unsafe.SliceData(b), unsafe.SliceData(c)
	for i, left := 0, t.blocks(m); i < m; left-- {
		r := (m - i) / left
		ai, ci := offset(ap, i*ars), offset(cp, i*ldc)
		if t.avx512 {
			gemmNAVX512(r, n, k, ai, 4*ars, 4*aks, bp, 4*ldb, ci, 4*ldc)
		} else {
			j := 0
			if n >= 16 {
				gemmAVX2(r, k, ai, 4*ars, 4*aks, bp, 4*ldb, ci, 4*ldc)
				j = 16
			}
			for ; j < n; j += 8 {
				gemmNAVX2(r, min(8, n-j), k, ai, 4*ars, 4*aks, offset(bp, j), 4*ldb, offset(ci, j), 4*ldc)
			}
		}
		i += r
	}
}

// gemmPanels has kernels of its own in AVX-512: addresses without strides leave
// room for a broadcast in every fma, so that a tile of 28 rows by one register is
// as fast as one of 14 by two.
func (t x86) gemmPanels(m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int) {
	if m <= 0 || n <= 0 || k <= 0 {
		return
	}
	if !t.avx512 {
		for p := 0; p < k; p += N {
			t.gemmN(m, n, min(N, k-p), a[p/N*lda:], N, 1, b[p*ldb:], ldb, c, ldc)
		}
		return
	}
	checkLen("a", len(a), (k-1)/N*lda+(m-1)*N+(k-1)%N+1)
	checkLen("b", len(b), (k-1)*ldb+n)
	checkLen("c", len(c), (m-1)*ldc+n)
	ap, bp, cp := unsafe.SliceData(a), unsafe.SliceData(b), unsafe.SliceData(c)
	rows := 14
	if n <= 16 {
		rows = 28
	}
	for i, left := 0, (m+rows-1)/rows; i < m; left-- {
		r := (m - i) / left
		ai, ci := offset(ap, i*N), offset(cp, i*ldc)
		if n <= 16 {
			gemmPanels16AVX512(r, n, k, ai, 4*lda, bp, 4*ldb, ci, 4*ldc)
		} else {
			gemmPanels32AVX512(r, n, k, ai, 4*lda, bp, 4*ldb, ci, 4*ldc)
		}
		i += r
	}
}

// gemmBF16 takes the kernels for few rows where they apply. Both kinds compute
// the same chains.
func gemmBF16(m, n, pairs int, a []uint32, ars, aks int, w []uint16, ldw int, c []float32, ldc int) {
	if m <= 0 || n <= 0 || pairs <= 0 {
		return
	}
	panels := (n + N - 1) / N
	checkLen("a", len(a), (m-1)*ars+(pairs-1)*aks+1)
	checkLen("w", len(w), (panels-1)*ldw+pairs*2*N)
	checkLen("c", len(c), (m-1)*ldc+n)
	t := x86{avx512: true}
	if aks == 1 && m <= t.panelRows() {
		p := panelArgs{format: formatPairs, m: m, n: n, k: pairs,
			x: unsafe.Pointer(unsafe.SliceData(a)), ldx: 4 * ars,
			w: unsafe.Pointer(unsafe.SliceData(w)), ldw: 2 * ldw, kBytes: 4 * N,
			y: unsafe.SliceData(c), ldy: ldc}
		t.panel(&p)
		return
	}
	ap, wp, cp := unsafe.SliceData(a), unsafe.SliceData(w), unsafe.SliceData(c)
	var buf [14 * N]float32
	for j := 0; j < n; j += N {
		b := (*uint32)(unsafe.Pointer(offset(wp, j/N*ldw)))
		for i, left := 0, t.blocks(m); i < m; left-- {
			r := (m - i) / left
			ai, ci, ld := offset(ap, i*ars), offset(cp, i*ldc+j), ldc
			if n-j < N {
				copyRows(buf[:], N, c[i*ldc+j:], ldc, r, n-j)
				ci, ld = &buf[0], N
			}
			gemmPairsAVX512(r, pairs, ai, 4*ars, 4*aks, b, 4*N, ci, 4*ld)
			if n-j < N {
				copyRows(c[i*ldc+j:], ldc, buf[:], N, r, n-j)
			}
			i += r
		}
	}
}

func copyRows(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	for i := range rows {
		copy(dst[i*ldd:][:cols], src[i*lds:][:cols])
	}
}

func checkGemm(m, n, k, lenA, ars, aks, lenB, ldb, lenC, ldc int) {
	checkLen("a", lenA, (m-1)*ars+(k-1)*aks+1)
	checkLen("b", lenB, (k-1)*ldb+n)
	checkLen("c", lenC, (m-1)*ldc+n)
}
