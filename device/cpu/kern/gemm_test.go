package kern

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// layouts are the ways in which a matrix [m, k] may lie in memory.
func layouts(m, k int, r *rand.Rand) (ars, aks, size int, name string) {
	pad := r.IntN(3)
	switch r.IntN(3) {
	case 0:
		ars, aks, name = k+pad, 1, "row-major"
	case 1:
		ars, aks, name = 1, m+pad, "packed"
	default:
		ars, aks, name = 2*k+pad, 2, "strided"
	}
	return ars, aks, max(0, (m-1)*ars+(k-1)*aks+1), name
}

func TestGemmIsOneChain(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for trial := range 120 {
			m, k, n := 1+r.IntN(40), r.IntN(70), N
			if trial < 2*kn.Rows {
				m = 1 + trial
			}
			if trial%2 == 1 {
				n = 1 + r.IntN(N)
			}
			ars, aks, size, layout := layouts(m, k, r)
			if k == 0 {
				size = 0
			}
			ldb, ldc := n+r.IntN(4), n+r.IntN(4)
			what := fmt.Sprintf("m %d n %d k %d %s ldb %d ldc %d", m, n, k, layout, ldb, ldc)
			a, _ := normal(t, r, "a", size)
			b, _ := normal(t, r, "b", max(0, (k-1)*ldb+n))
			c, check := normal(t, r, "c", (m-1)*ldc+n)
			want := append([]float32(nil), c...)
			for i := range m {
				for j := range n {
					for p := range k {
						want[i*ldc+j] = chain(kn, a[i*ars+p*aks], b[p*ldb+j], want[i*ldc+j])
					}
				}
			}
			if n == N && trial%4 == 0 {
				kn.Gemm(m, k, a, ars, aks, b, ldb, c, ldc)
			} else {
				kn.GemmN(m, n, k, a, ars, aks, b, ldb, c, ldc)
			}
			check()
			equalBits(t, what, c, want)
		}
	})
}

// GemmPanels is GemmN on another layout of A.
func TestGemmPanels(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		for trial := range 120 {
			m, n, k := 1+r.IntN(60), 1+r.IntN(N), r.IntN(100)
			switch {
			case trial < 30:
				m, n = 1+trial, 1+r.IntN(16)
			case trial%4 == 0:
				n = []int{16, N}[r.IntN(2)]
			}
			ldb, ldc, lda := n+r.IntN(4), n+r.IntN(4), (m+r.IntN(2))*N
			size := 0
			if k > 0 {
				size = (k-1)/N*lda + (m-1)*N + (k-1)%N + 1
			}
			a, _ := normal(t, r, "a", size)
			b, _ := normal(t, r, "b", max(0, (k-1)*ldb+n))
			c, check := normal(t, r, "c", (m-1)*ldc+n)
			rows := make([]float32, m*k)
			for i := range m {
				for p := range k {
					rows[i*k+p] = a[p/N*lda+i*N+p%N]
				}
			}
			want := append([]float32(nil), c...)
			kn.GemmN(m, n, k, rows, k, 1, b, ldb, want, ldc)
			kn.GemmPanels(m, n, k, a, lda, b, ldb, c, ldc)
			check()
			equalBits(t, fmt.Sprintf("m %d n %d k %d lda %d ldb %d ldc %d", m, n, k, lda, ldb, ldc), c, want)
		}
	})
}

// A row alone, a row among others, and k in two calls have the same bits.
func TestGemmIsBatchInvariant(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		const m, k = 37, 301
		a, _ := normal(t, r, "a", m*k)
		b, _ := normal(t, r, "b", k*N)
		start, _ := normal(t, r, "c", m*N)
		run := func(f func(c []float32)) []float32 {
			c := append([]float32(nil), start...)
			f(c)
			return c
		}
		whole := run(func(c []float32) { kn.Gemm(m, k, a, k, 1, b, N, c, N) })
		equalBits(t, "rows one by one", run(func(c []float32) {
			for i := range m {
				kn.Gemm(1, k, a[i*k:], k, 1, b, N, c[i*N:], N)
			}
		}), whole)
		for range 5 {
			s := r.IntN(k + 1)
			equalBits(t, fmt.Sprintf("k cut at %d", s), run(func(c []float32) {
				kn.Gemm(m, s, a, k, 1, b, N, c, N)
				kn.Gemm(m, k-s, a[s:], k, 1, b[s*N:], N, c, N)
			}), whole)
		}
		columns := run(func(c []float32) {
			kn.GemmN(m, 11, k, a, k, 1, b, N, c, N)
			kn.GemmN(m, N-11, k, a, k, 1, b[11:], N, c[11:], N)
		})
		equalBits(t, "columns cut at 11", columns, whole)
	})
}

func TestGemmChecksLengths(t *testing.T) {
	eachTier(t, func(t *testing.T, kn *Kernels, r *rand.Rand) {
		const m, k = 3, 5
		full := [3]int{m * k, k * N, m * N}
		for short := range full {
			size := full
			size[short]--
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("argument %d is short and Gemm did not panic", short)
					}
				}()
				a, b, c := make([]float32, size[0]), make([]float32, size[1]), make([]float32, size[2])
				kn.Gemm(m, k, a[:size[0]:size[0]], k, 1, b, N, c, N)
			}()
		}
	})
}

func BenchmarkGemm(b *testing.B) {
	const k = 512
	for _, m := range []int{1, 4, 14, 112} {
		base := 0.0
		names := Available()
		for i := range names { // generic first: the baseline of the ratio
			kn, err := Select(names[len(names)-1-i])
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("m=%d/%s", m, kn.Tier), func(b *testing.B) {
				a, w, c := make([]float32, m*k), make([]float32, k*N), make([]float32, m*N)
				for b.Loop() {
					for i := 0; i < m; i += kn.Rows {
						kn.Gemm(min(kn.Rows, m-i), k, a[i*k:], 1, min(kn.Rows, m-i), w, N, c[i*N:], N)
					}
				}
				report(b, "GFLOP/s", float64(2*m*k*N), &base)
			})
		}
	}
}

// report prints units per nanosecond, and the ratio to the first tier measured.
func report(b *testing.B, unit string, perOp float64, base *float64) {
	rate := perOp * float64(b.N) / float64(b.Elapsed().Nanoseconds())
	if *base == 0 {
		*base = rate
	}
	b.ReportMetric(rate, unit)
	b.ReportMetric(rate / *base, "x-generic")
}
