package kern

import (
	"math"

	"latent/device"
)

// goDot sums four strided chains, then the rest.
func goDot(x, y []float32) float32 {
	y = y[:len(x)]
	var s0, s1, s2, s3 float32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		p, q := (*[4]float32)(x[i:]), (*[4]float32)(y[i:])
		s0 += float32(p[0] * q[0])
		s1 += float32(p[1] * q[1])
		s2 += float32(p[2] * q[2])
		s3 += float32(p[3] * q[3])
	}
	for ; i < len(x); i++ {
		s0 += float32(x[i] * y[i])
	}
	return (s0 + s1) + (s2 + s3)
}

func goSumSquares(x []float32) float32 { return goDot(x, x) }

func goMax(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

func goAbsMax(x []float32) float32 {
	var m uint32 // magnitudes compare like their bits
	for _, v := range x {
		m = max(m, math.Float32bits(v)&0x7fffffff)
	}
	return math.Float32frombits(m)
}

func goAxpy(y []float32, a float32, x []float32) {
	y = y[:len(x)]
	for i, v := range x {
		y[i] += float32(a * v)
	}
}

func goAdd(y, x []float32) {
	y = y[:len(x)]
	for i, v := range x {
		y[i] += v
	}
}

func goScale(x []float32, a float32) {
	for i := range x {
		x[i] *= a
	}
}

func goScaleMul(dst []float32, a float32, x, w []float32) {
	dst, w = dst[:len(x)], w[:len(x)]
	for i, v := range x {
		dst[i] = float32(a*v) * w[i]
	}
}

func goSiluMul(dst, g, u []float32) {
	dst, u = dst[:len(g)], u[:len(g)]
	for i, v := range g {
		e := float32(math.Exp(-float64(v)))
		dst[i] = v / (1 + e) * u[i]
	}
}

func goMask(x []float32, bits []uint64, from int) {
	for i := range x {
		if j := from + i; bits[j/64]>>(j%64)&1 == 0 {
			x[i] = float32(math.Inf(-1))
		}
	}
}

func goReluWeighted(dst, s []float32, w float32) {
	dst = dst[:len(s)]
	for i, v := range s {
		dst[i] += float32(w * max(v, 0))
	}
}

func goExp(x []float32, scale, shift float32) float32 {
	var sum float32
	for i, v := range x {
		t := float32(float64(scale)*float64(v) - float64(shift))
		e := float32(math.Exp(float64(t)))
		if e < 0x1p-126 {
			e = 0
		}
		x[i] = e
		sum += e
	}
	return sum
}

func goSoftmaxColumns(x []float32, ld, rows, n int, scale float32, top, sum []float32) {
	top, sum = top[:n], sum[:n]
	for j := range top {
		top[j], sum[j] = float32(math.Inf(-1)), 0
	}
	for i := range rows {
		for j, v := range x[i*ld:][:n] {
			top[j] = max(top[j], v)
		}
	}
	for i := range rows {
		row := x[i*ld:][:n]
		for j := range row {
			sum[j] += goExp(row[j:j+1], scale, max(scale*top[j], -math.MaxFloat32))
		}
	}
}

func goSpreadF32(dst []float32, ldd int, src []float32) {
	for i := 0; i < len(src); i += N {
		copy(dst[i/N*ldd:][:min(N, len(src)-i)], src[i:])
	}
}

func goSpreadBF16(dst []float32, ldd int, src []uint16) {
	for i := 0; i < len(src); i += N {
		goF32FromBF16(dst[i/N*ldd:], src[i:min(i+N, len(src))])
	}
}

func goSpreadF8(dst []float32, ldd int, src []uint8, scale float32) {
	for i := 0; i < len(src); i += N {
		goF32FromF8(dst[i/N*ldd:], src[i:min(i+N, len(src))], scale)
	}
}

func goF32FromBF16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = device.F32FromBF16(v)
	}
}

func goF32FromF16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = device.F32FromF16(v)
	}
}

func goF32FromF8(dst []float32, src []uint8, scale float32) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = device.F32FromF8(v) * scale
	}
}

func goBF16FromF32(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = device.BF16FromF32(v)
	}
}

func goF8FromF32(dst []uint8, src []float32, scale float32) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = device.F8FromF32(v * scale)
	}
}

// goTranspose moves blocks of 8x8, which touch few cache lines at a time.
func goTranspose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	for i0 := 0; i0 < rows; i0 += 8 {
		for j0 := 0; j0 < cols; j0 += 8 {
			for i := i0; i < min(i0+8, rows); i++ {
				for j := j0; j < min(j0+8, cols); j++ {
					dst[j*ldd+i] = src[i*lds+j]
				}
			}
		}
	}
}

func goCountGreater(x []float32, t float32) int {
	n := 0
	for _, v := range x {
		if v > t {
			n++
		}
	}
	return n
}

func goIndexGreater(dst []int32, x []float32, t float32, base int32) int {
	n := 0
	for i, v := range x {
		if v > t {
			dst[n] = base + int32(i)
			n++
		}
	}
	return n
}
