//go:build linux

package kern

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"unsafe"
)

// edge returns n elements that end where a page without access begins: a kernel
// that reads or writes past the end faults.
func edge[T any](t *testing.T, n int) []T {
	var zero T
	page, bytes := syscall.Getpagesize(), n*int(unsafe.Sizeof(zero))
	size := (bytes + page - 1) / page * page
	mem, err := syscall.Mmap(-1, 0, size+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Mprotect(mem[size:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[size-bytes])), n)
}

// Every argument of every function ends at a page without access.
func TestNothingReachesPastTheEnd(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for range 10 {
			n := 1 + r.IntN(100)
			x, y, z := edge[float32](t, n), edge[float32](t, n), edge[float32](t, n)
			h, p, q, idx := edge[uint16](t, n), edge[uint32](t, (n+1)/2), edge[uint8](t, n), edge[int32](t, n)
			for i := range x {
				x[i] = float32(r.NormFloat64())
			}
			kn.Dot(x, y)
			kn.SumSquares(x)
			kn.Max(x)
			kn.AbsMax(x)
			kn.Axpy(y, 2, x)
			kn.Add(y, x)
			kn.Scale(y, 2)
			kn.ScaleMul(z, 2, x, y)
			kn.SiluMul(z, x, y)
			kn.ReluWeighted(z, x, 2)
			from := r.IntN(100)
			kn.Mask(z, edge[uint64](t, (from+n+63)/64), from)
			kn.Exp(z, 1, 0)
			high, width := 1+r.IntN(20), 1+r.IntN(N)
			kn.SoftmaxColumns(edge[float32](t, high*width), width, high, width, 1, edge[float32](t, width), edge[float32](t, width))
			spread := func() []float32 { return edge[float32](t, (n-1)/N*N+(n-1)%N+1) }
			kn.SpreadF32(spread(), N, x)
			kn.SpreadBF16(spread(), N, h)
			kn.SpreadF8(spread(), N, q, 1)
			kn.BF16FromF32(h, x)
			kn.PairsBF16(p, x)
			kn.F8FromF32(q, x, 1)
			kn.F32FromBF16(z, h)
			kn.F32FromF16(z, h)
			kn.F32FromF8(z, q, 1)
			kn.CountGreater(x, 0)
			kn.IndexGreater(idx[n-kn.CountGreater(x, 0):], x, 0, 0)

			rows, cols := 1+r.IntN(20), 1+r.IntN(20)
			kn.Transpose(edge[float32](t, rows*cols), rows, edge[float32](t, rows*cols), cols, rows, cols)

			m, k := 1+r.IntN(20), 1+r.IntN(50)
			width = 1 + r.IntN(N)
			kn.Gemm(m, k, edge[float32](t, m*k), k, 1, edge[float32](t, k*N), N, edge[float32](t, m*N), N)
			kn.GemmN(m, width, k, edge[float32](t, m*k), 1, m, edge[float32](t, k*width), width, edge[float32](t, m*width), width)

			size := (k-1)/N*m*N + (m-1)*N + (k-1)%N + 1
			kn.GemmPanels(m, width, k, edge[float32](t, size), m*N, edge[float32](t, k*width), width, edge[float32](t, m*width), width)

			outs, deep := 1+r.IntN(150), 1+r.IntN(200)
			panels := (outs + N - 1) / N
			in, out := edge[float32](t, m*deep), edge[float32](t, m*outs)
			kn.PanelF32(m, outs, 0, deep, in, deep, edge[float32](t, panels*LenF32(deep)), LenF32(deep), out, outs)
			kn.PanelBF16(m, outs, 0, deep, in, deep, edge[uint16](t, panels*LenBF16(deep)), LenBF16(deep), out, outs)
			kn.PanelF8(m, outs, 0, deep, in, deep, edge[uint8](t, panels*LenF8(deep)), LenF8(deep),
				edge[float32](t, panels*LenScales(deep)), LenScales(deep), out, outs)
			kn.UnpackBF16(edge[float32](t, deep*N), edge[uint16](t, LenBF16(deep)), 0, deep)
			kn.UnpackF8(edge[float32](t, deep*N), edge[uint8](t, LenF8(deep)), edge[float32](t, LenScales(deep)), 0, deep)
			if kn.GemmBF16 != nil {
				pairs := (deep + 1) / 2
				kn.GemmBF16(m, outs, pairs, edge[uint32](t, m*pairs), pairs, 1, edge[uint16](t, panels*LenBF16(deep)), LenBF16(deep), out, outs)
			}
		}
	})
}
