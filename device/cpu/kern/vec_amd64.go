package kern

import "unsafe"

// The vector helpers check lengths by slicing and call the assembly. Where AVX2
// cannot mask a rest of narrow elements, the Go twin computes it: conversions
// are exact or defined to the bit, so that the results are the same.

func (t x86) vectors(k *Kernels) {
	k.Dot, k.SumSquares, k.Max, k.AbsMax = t.dot, t.sumSquares, t.max, t.absMax
	k.Axpy, k.Add, k.Scale, k.ScaleMul = t.axpy, t.add, t.scale, t.scaleMul
	k.Mask, k.SoftmaxColumns = t.mask, t.softmaxColumns
	k.SpreadF32, k.SpreadBF16, k.SpreadF8 = t.spreadF32, t.spreadBF16, t.spreadF8
	k.SiluMul, k.ReluWeighted, k.Exp = t.siluMul, t.reluWeighted, t.exp
	k.F32FromBF16, k.F32FromF16, k.F32FromF8 = t.f32FromBF16, t.f32FromF16, t.f32FromF8
	k.BF16FromF32, k.F8FromF32, k.PairsBF16 = t.bf16FromF32, t.f8FromF32, t.pairsBF16
	k.Transpose = t.transpose
	k.CountGreater, k.IndexGreater = t.countGreater, t.indexGreater
}

func (t x86) dot(x, y []float32) float32 {
	y = y[:len(x)]
	if t.avx512 {
		return dotAVX512(len(x), unsafe.SliceData(x), unsafe.SliceData(y))
	}
	return dotAVX2(len(x), unsafe.SliceData(x), unsafe.SliceData(y))
}

func (t x86) sumSquares(x []float32) float32 {
	if t.avx512 {
		return sumSquaresAVX512(len(x), unsafe.SliceData(x))
	}
	return sumSquaresAVX2(len(x), unsafe.SliceData(x))
}

func (t x86) max(x []float32) float32 {
	if t.avx512 {
		return maximumAVX512(len(x), unsafe.SliceData(x))
	}
	return maximumAVX2(len(x), unsafe.SliceData(x))
}

func (t x86) absMax(x []float32) float32 {
	if t.avx512 {
		return absMaxAVX512(len(x), unsafe.SliceData(x))
	}
	return absMaxAVX2(len(x), unsafe.SliceData(x))
}

func (t x86) axpy(y []float32, a float32, x []float32) {
	y = y[:len(x)]
	if t.avx512 {
		axpyAVX512(len(x), unsafe.SliceData(y), a, unsafe.SliceData(x))
	} else {
		axpyAVX2(len(x), unsafe.SliceData(y), a, unsafe.SliceData(x))
	}
}

func (t x86) add(y, x []float32) {
	y = y[:len(x)]
	if t.avx512 {
		addAVX512(len(x), unsafe.SliceData(y), unsafe.SliceData(x))
	} else {
		addAVX2(len(x), unsafe.SliceData(y), unsafe.SliceData(x))
	}
}

func (t x86) scale(x []float32, a float32) {
	if t.avx512 {
		scaleAVX512(len(x), unsafe.SliceData(x), a)
	} else {
		scaleAVX2(len(x), unsafe.SliceData(x), a)
	}
}

func (t x86) scaleMul(dst []float32, a float32, x, w []float32) {
	dst, w = dst[:len(x)], w[:len(x)]
	if t.avx512 {
		scaleMulAVX512(len(x), unsafe.SliceData(dst), a, unsafe.SliceData(x), unsafe.SliceData(w))
	} else {
		scaleMulAVX2(len(x), unsafe.SliceData(dst), a, unsafe.SliceData(x), unsafe.SliceData(w))
	}
}

func (t x86) siluMul(dst, g, u []float32) {
	dst, u = dst[:len(g)], u[:len(g)]
	if t.avx512 {
		siluMulAVX512(len(g), unsafe.SliceData(dst), unsafe.SliceData(g), unsafe.SliceData(u))
	} else {
		siluMulAVX2(len(g), unsafe.SliceData(dst), unsafe.SliceData(g), unsafe.SliceData(u))
	}
}

// mask gathers 64 bits at a time for the assembly.
func (t x86) mask(x []float32, bits []uint64, from int) {
	for len(x) > 0 {
		n, shift := min(64, len(x)), from%64
		word := bits[from/64] >> shift
		if shift+n > 64 {
			word |= bits[from/64+1] << (64 - shift)
		}
		if t.avx512 {
			maskAVX512(n, unsafe.SliceData(x), word)
		} else {
			maskAVX2(n, unsafe.SliceData(x), word)
		}
		x, from = x[n:], from+n
	}
}

func (t x86) reluWeighted(dst, s []float32, w float32) {
	dst = dst[:len(s)]
	if t.avx512 {
		reluWeightedAVX512(len(s), unsafe.SliceData(dst), unsafe.SliceData(s), w)
	} else {
		reluWeightedAVX2(len(s), unsafe.SliceData(dst), unsafe.SliceData(s), w)
	}
}

func (t x86) exp(x []float32, scale, shift float32) float32 {
	if t.avx512 {
		return expAVX512(len(x), unsafe.SliceData(x), scale, shift)
	}
	return expAVX2(len(x), unsafe.SliceData(x), scale, shift)
}

func (t x86) softmaxColumns(x []float32, ld, rows, n int, scale float32, top, sum []float32) {
	top, sum = top[:n], sum[:n]
	if rows > 0 {
		checkLen("x", len(x), (rows-1)*ld+n)
	}
	for j := 0; j < n; {
		xj, tj, sj := offset(unsafe.SliceData(x), j), &top[j], &sum[j]
		if t.avx512 {
			softmaxColumnsAVX512(min(16, n-j), rows, xj, 4*ld, scale, tj, sj)
			j += 16
		} else {
			softmaxColumnsAVX2(min(8, n-j), rows, xj, 4*ld, scale, tj, sj)
			j += 8
		}
	}
}

// spread returns how many of n elements the assembly takes, and checks dst: AVX2
// cannot mask a rest of narrow elements.
func (t x86) spread(dst []float32, ldd, n int) int {
	if n > 0 {
		checkLen("dst", len(dst), (n-1)/N*ldd+(n-1)%N+1)
	}
	if t.avx512 {
		return n
	}
	return n &^ (N - 1)
}

func (t x86) spreadF32(dst []float32, ldd int, src []float32) {
	n := t.spread(dst, ldd, len(src))
	if t.avx512 {
		spreadF32AVX512(n, unsafe.SliceData(dst), 4*ldd, unsafe.SliceData(src))
		return
	}
	spreadF32AVX2(n, unsafe.SliceData(dst), 4*ldd, unsafe.SliceData(src))
	if n < len(src) {
		goSpreadF32(dst[n/N*ldd:], ldd, src[n:])
	}
}

func (t x86) spreadBF16(dst []float32, ldd int, src []uint16) {
	n := t.spread(dst, ldd, len(src))
	if t.avx512 {
		spreadBF16AVX512(n, unsafe.SliceData(dst), 4*ldd, unsafe.SliceData(src))
		return
	}
	spreadBF16AVX2(n, unsafe.SliceData(dst), 4*ldd, unsafe.SliceData(src))
	if n < len(src) {
		goSpreadBF16(dst[n/N*ldd:], ldd, src[n:])
	}
}

func (t x86) spreadF8(dst []float32, ldd int, src []uint8, scale float32) {
	n := t.spread(dst, ldd, len(src))
	if t.avx512 {
		spreadF8AVX512(n, unsafe.SliceData(dst), 4*ldd, unsafe.SliceData(src), scale)
		return
	}
	spreadF8AVX2(n, unsafe.SliceData(dst), 4*ldd, unsafe.SliceData(src), scale)
	if n < len(src) {
		goSpreadF8(dst[n/N*ldd:], ldd, src[n:], scale)
	}
}

func (t x86) f32FromBF16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	if t.avx512 {
		f32FromBF16AVX512(len(src), unsafe.SliceData(dst), unsafe.SliceData(src))
		return
	}
	whole := len(src) &^ 7
	f32FromBF16AVX2(whole, unsafe.SliceData(dst), unsafe.SliceData(src))
	goF32FromBF16(dst[whole:], src[whole:])
}

func (t x86) f32FromF16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	if t.avx512 {
		f32FromF16AVX512(len(src), unsafe.SliceData(dst), unsafe.SliceData(src))
		return
	}
	whole := len(src) &^ 7
	f32FromF16AVX2(whole, unsafe.SliceData(dst), unsafe.SliceData(src))
	goF32FromF16(dst[whole:], src[whole:])
}

func (t x86) f32FromF8(dst []float32, src []uint8, scale float32) {
	dst = dst[:len(src)]
	if t.avx512 {
		f32FromF8AVX512(len(src), unsafe.SliceData(dst), unsafe.SliceData(src), scale)
		return
	}
	whole := len(src) &^ 7
	f32FromF8AVX2(whole, unsafe.SliceData(dst), unsafe.SliceData(src), scale)
	goF32FromF8(dst[whole:], src[whole:], scale)
}

func (t x86) bf16FromF32(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	if t.avx512 {
		bf16FromF32AVX512(len(src), unsafe.SliceData(dst), unsafe.SliceData(src))
		return
	}
	whole := len(src) &^ 7
	bf16FromF32AVX2(whole, unsafe.SliceData(dst), unsafe.SliceData(src))
	goBF16FromF32(dst[whole:], src[whole:])
}

func (t x86) f8FromF32(dst []uint8, src []float32, scale float32) {
	dst = dst[:len(src)]
	if t.avx512 {
		f8FromF32AVX512(len(src), unsafe.SliceData(dst), unsafe.SliceData(src), scale)
		return
	}
	whole := len(src) &^ 7
	f8FromF32AVX2(whole, unsafe.SliceData(dst), unsafe.SliceData(src), scale)
	goF8FromF32(dst[whole:], src[whole:], scale)
}

func (t x86) pairsBF16(dst []uint32, x []float32) {
	pairs := (len(x) + 1) / 2
	dst = dst[:pairs]
	if len(x)%2 == 1 {
		dst[pairs-1] = 0
	}
	t.bf16FromF32(unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(dst))), 2*pairs), x)
}

// transpose leaves the edges past a multiple of 8 to Go.
func (t x86) transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	if rows <= 0 || cols <= 0 {
		return
	}
	checkLen("dst", len(dst), (cols-1)*ldd+rows)
	checkLen("src", len(src), (rows-1)*lds+cols)
	r, c := rows&^7, cols&^7
	if r > 0 && c > 0 {
		transposeAVX2(r, c, unsafe.SliceData(dst), 4*ldd, unsafe.SliceData(src), 4*lds)
	}
	if c < cols {
		goTranspose(dst[c*ldd:], ldd, src[c:], lds, r, cols-c)
	}
	if r < rows {
		goTranspose(dst[r:], ldd, src[r*lds:], lds, rows-r, cols)
	}
}

func (t x86) countGreater(x []float32, v float32) int {
	if t.avx512 {
		return countGreaterAVX512(len(x), unsafe.SliceData(x), v)
	}
	return countGreaterAVX2(len(x), unsafe.SliceData(x), v)
}

func (t x86) indexGreater(dst []int32, x []float32, v float32, base int32) int {
	// The assembly does not know how long dst is.
	if len(dst) < len(x) {
		checkLen("dst", len(dst), t.countGreater(x, v))
	}
	if t.avx512 {
		return indexGreaterAVX512(len(x), unsafe.SliceData(dst), unsafe.SliceData(x), v, base)
	}
	return indexGreaterAVX2(len(x), unsafe.SliceData(dst), unsafe.SliceData(x), v, base)
}
