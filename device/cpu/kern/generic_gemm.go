package kern

import (
	"math"

	"latent/device"
)

// generic returns the tier in plain Go. Products are rounded explicitly before
// they are added, so that no compiler fuses them in one loop and not in another.
func generic() *Kernels {
	return &Kernels{
		Tier: "generic", Rows: 2,
		Gemm: goGemm, GemmN: goGemmN, GemmPanels: goGemmPanels,
		PanelF32: goPanelF32, PanelBF16: goPanelBF16, PanelF8: goPanelF8,
		UnpackBF16: goUnpackBF16, UnpackF8: goUnpackF8,
		PairsBF16: goPairsBF16,
		Dot:       goDot, SumSquares: goSumSquares, Max: goMax, AbsMax: goAbsMax,
		Axpy: goAxpy, Add: goAdd, Scale: goScale, ScaleMul: goScaleMul,
		Mask: goMask, SiluMul: goSiluMul, ReluWeighted: goReluWeighted, Exp: goExp, SoftmaxColumns: goSoftmaxColumns,
		F32FromBF16: goF32FromBF16, F32FromF16: goF32FromF16, F32FromF8: goF32FromF8,
		SpreadF32: goSpreadF32, SpreadBF16: goSpreadBF16, SpreadF8: goSpreadF8,
		BF16FromF32: goBF16FromF32, F8FromF32: goF8FromF32,
		Transpose:    goTranspose,
		CountGreater: goCountGreater, IndexGreater: goIndexGreater,
	}
}

func goGemm(m, k int, a []float32, ars, aks int, b []float32, ldb int, c []float32, ldc int) {
	goGemmN(m, N, k, a, ars, aks, b, ldb, c, ldc)
}

// goGemmN works on tiles of two rows and four columns, whose sums stay in
// registers.
func goGemmN(m, n, k int, a []float32, ars, aks int, b []float32, ldb int, c []float32, ldc int) {
	if k <= 0 {
		return
	}
	i := 0
	for ; i+2 <= m; i += 2 {
		c0, c1 := c[i*ldc:][:n], c[(i+1)*ldc:][:n]
		j := 0
		for ; j+4 <= n; j += 4 {
			c00, c01, c02, c03 := c0[j], c0[j+1], c0[j+2], c0[j+3]
			c10, c11, c12, c13 := c1[j], c1[j+1], c1[j+2], c1[j+3]
			ai, bi := i*ars, j
			for range k {
				bp := (*[4]float32)(b[bi:])
				a0, a1 := a[ai], a[ai+ars]
				c00 += float32(a0 * bp[0])
				c01 += float32(a0 * bp[1])
				c02 += float32(a0 * bp[2])
				c03 += float32(a0 * bp[3])
				c10 += float32(a1 * bp[0])
				c11 += float32(a1 * bp[1])
				c12 += float32(a1 * bp[2])
				c13 += float32(a1 * bp[3])
				ai, bi = ai+aks, bi+ldb
			}
			c0[j], c0[j+1], c0[j+2], c0[j+3] = c00, c01, c02, c03
			c1[j], c1[j+1], c1[j+2], c1[j+3] = c10, c11, c12, c13
		}
		for ; j < n; j++ {
			c0[j] = goChain(c0[j], k, a[i*ars:], aks, b[j:], ldb)
			c1[j] = goChain(c1[j], k, a[(i+1)*ars:], aks, b[j:], ldb)
		}
	}
	for ; i < m; i++ {
		ci := c[i*ldc:][:n]
		j := 0
		for ; j+4 <= n; j += 4 {
			c0, c1, c2, c3 := ci[j], ci[j+1], ci[j+2], ci[j+3]
			ai, bi := i*ars, j
			for range k {
				bp := (*[4]float32)(b[bi:])
				a0 := a[ai]
				c0 += float32(a0 * bp[0])
				c1 += float32(a0 * bp[1])
				c2 += float32(a0 * bp[2])
				c3 += float32(a0 * bp[3])
				ai, bi = ai+aks, bi+ldb
			}
			ci[j], ci[j+1], ci[j+2], ci[j+3] = c0, c1, c2, c3
		}
		for ; j < n; j++ {
			ci[j] = goChain(ci[j], k, a[i*ars:], aks, b[j:], ldb)
		}
	}
}

func goGemmPanels(m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int) {
	for p := 0; p < k; p += N {
		goGemmN(m, n, min(N, k-p), a[p/N*lda:], N, 1, b[p*ldb:], ldb, c, ldc)
	}
}

func goChain(c float32, k int, a []float32, aks int, b []float32, ldb int) float32 {
	for p := range k {
		c += float32(a[p*aks] * b[p*ldb])
	}
	return c
}

// goPanelF32 multiplies panel by panel.
func goPanelF32(m, n, k0, k1 int, x []float32, ldx int, w []float32, ldw int, y []float32, ldy int) {
	for j := 0; j < n; j += N {
		goGemmN(m, min(N, n-j), k1-k0, x[k0:], ldx, 1, w[j/N*ldw+k0*N:], N, y[j:], ldy)
	}
}

// goPanelBF16 unpacks a few k at a time and multiplies them.
func goPanelBF16(m, n, k0, k1 int, x []float32, ldx int, w []uint16, ldw int, y []float32, ldy int) {
	var buf [ScaleBlock * N]float32
	for j := 0; j < n; j += N {
		for p := k0; p < k1; p += ScaleBlock {
			q := min(k1, p+ScaleBlock)
			goUnpackBF16(buf[:], w[j/N*ldw:], p, q)
			goGemmN(m, min(N, n-j), q-p, x[p:], ldx, 1, buf[:], N, y[j:], ldy)
		}
	}
}

func goPanelF8(m, n, k0, k1 int, x []float32, ldx int, w []uint8, ldw int, s []float32, lds int, y []float32, ldy int) {
	var buf [ScaleBlock * N]float32
	for j := 0; j < n; j += N {
		for p := k0; p < k1; p += ScaleBlock {
			q := min(k1, p+ScaleBlock)
			goUnpackF8(buf[:], w[j/N*ldw:], s[j/N*lds:], p, q)
			goGemmN(m, min(N, n-j), q-p, x[p:], ldx, 1, buf[:], N, y[j:], ldy)
		}
	}
}

func goUnpackBF16(dst []float32, w []uint16, k0, k1 int) {
	for p := k0; p < k1; p++ {
		d, v := dst[(p-k0)*N:][:N], w[p/2*2*N+p%2:]
		for j := range d {
			d[j] = math.Float32frombits(uint32(v[2*j]) << 16)
		}
	}
}

func goUnpackF8(dst []float32, w []uint8, s []float32, k0, k1 int) {
	for p := k0; p < k1; p++ {
		d, v, sc := dst[(p-k0)*N:][:N], w[p*N:][:N], s[p/ScaleBlock*N:][:N]
		for j := range d {
			d[j] = device.F32FromF8(v[j]) * sc[j]
		}
	}
}

func goPairsBF16(dst []uint32, x []float32) {
	for i := 0; i+1 < len(x); i += 2 {
		dst[i/2] = uint32(device.BF16FromF32(x[i])) | uint32(device.BF16FromF32(x[i+1]))<<16
	}
	if n := len(x); n%2 == 1 {
		dst[n/2] = uint32(device.BF16FromF32(x[n-1]))
	}
}
