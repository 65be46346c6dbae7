package devicetest

import (
	"bytes"
	"fmt"
	"math"

	"latent/device"
)

// checkMemory writes and reads back memory, whole and in part.
func checkMemory(e *env) error {
	for range 20 {
		rows, cols := e.between(1, 40), e.between(1, 40)
		t := pick(e, device.F32, device.BF16, device.F16, device.F8E4M3, device.I32, device.U32)
		b := e.alloc(t, rows, cols)
		if got := b.Mem.Bytes(); got != b.whole.Bytes() {
			return fmt.Errorf("memory of %d bytes says it has %d", b.whole.Bytes(), got)
		}
		want := make([]byte, b.Bytes())
		for i := range want {
			want[i] = byte(e.rng.Uint32())
		}
		e.dev.Upload(b.Tensor, want)
		from := e.between(0, rows)
		to := e.between(from, rows)
		part := b.Slice(from, to)
		row := cols * t.Size()
		for i := range want[from*row : to*row] {
			want[from*row+i] ^= 0x5a
		}
		host := bytes.Clone(want[from*row : to*row])
		e.dev.Upload(part, host)
		clear(host) // the host may reuse its slice at once
		if !bytes.Equal(b.raw(), want) {
			return fmt.Errorf("a %v tensor [%d, %d] with rows [%d, %d) replaced reads back different", t, rows, cols, from, to)
		}
		got := make([]byte, part.Bytes())
		if err := e.dev.Download(got, part); err != nil {
			return err
		}
		if !bytes.Equal(got, want[from*row:to*row]) {
			return fmt.Errorf("rows [%d, %d) of a %v tensor [%d, %d] read back different", from, to, t, rows, cols)
		}
	}
	return nil
}

// checkActivation: activations are never narrower than the arithmetic.
func checkActivation(e *env) error {
	if e.act == device.F32 || e.act == device.BF16 && e.arithmetic == device.BF16 {
		return nil
	}
	return fmt.Errorf("activations of %v arithmetic are %v", e.arithmetic, e.act)
}

func checkEmbed(e *env) error {
	for _, t := range []device.DType{device.F32, device.BF16, device.F16} {
		vocabulary, d := e.between(1, 50), e.between(1, 80)
		s := e.newScene(shape{3, e.between(1, 40)}, shape{0, 7})
		table := e.normal(t, vocabulary*d, 1)
		var want []float64
		for r := range s.step.Tokens {
			id := e.between(0, vocabulary-1)
			s.step.Tokens[r] = int32(id)
			for _, x := range table[id*d : (id+1)*d] {
				want = append(want, roundType(e.act, x))
			}
		}
		e.dev.Begin(&s.step)
		dst := e.alloc(e.act, s.rows(), d)
		e.dev.Embed(dst.Tensor, e.tensor(t, d, table).Tensor)
		if err := same(fmt.Sprintf("%v table [%d, %d]", t, vocabulary, d), dst.read(), want, d); err != nil {
			return err
		}
	}
	return nil
}

func checkGather(e *env) error {
	for range 5 {
		n, cols := e.between(1, 30), e.between(1, 80)
		t := pick(e, device.F32, e.act)
		src := e.normal(t, n*cols, 1)
		rows := make([]int32, e.between(1, 40))
		var want []float64
		for i := range rows {
			rows[i] = int32(e.between(0, n-1))
			want = append(want, src[int(rows[i])*cols:(int(rows[i])+1)*cols]...)
		}
		dst := e.alloc(t, len(rows), cols)
		e.dev.Gather(dst.Tensor, e.tensor(t, cols, src).Tensor, rows)
		if err := same(fmt.Sprintf("rows %v", rows), dst.read(), want, cols); err != nil {
			return err
		}
	}
	return nil
}

func checkRMSNorm(e *env) error {
	for _, cols := range []int{1, 7, 48, 72, 512, e.between(2, 700)} {
		rows := e.between(1, 70)
		w := e.normal(device.F32, cols, 1)
		var src, want []float64
		eps := float32(pick(e, 1e-6, 1e-5))
		for range rows {
			row := e.normal(e.act, cols, pick(e, 1e-3, 1, 100))
			src = append(src, row...)
			want = append(want, specRMSNorm(row, w, float64(eps))...)
		}
		dst := e.alloc(e.act, rows, cols)
		e.dev.RMSNorm(dst.Tensor, e.tensor(e.act, cols, src).Tensor, e.tensor(device.F32, cols, w).Tensor, eps)
		if err := e.compare(fmt.Sprintf("eps %g", eps), dst.read(), want, make([]float64, len(want)), cols); err != nil {
			return err
		}
		inPlace := e.tensor(e.act, cols, src)
		e.dev.RMSNorm(inPlace.Tensor, inPlace.Tensor, e.tensor(device.F32, cols, w).Tensor, eps)
		if err := same("in place", inPlace.read(), dst.read(), cols); err != nil {
			return err
		}
	}
	return checkNormVector(e)
}

// checkNormVector: the row (1e-3, …) has a mean square of just 1e-6.
func checkNormVector(e *env) error {
	const cols = 64
	src, one := make([]float64, cols), make([]float64, cols)
	for i := range src {
		src[i], one[i] = roundType(e.act, 1e-3), 1
	}
	for _, v := range []struct{ eps, want float64 }{{1e-6, 0.70710678}, {1e-5, 0.30151134}} {
		dst := e.alloc(e.act, 1, cols)
		e.dev.RMSNorm(dst.Tensor, e.tensor(e.act, cols, src).Tensor, e.tensor(device.F32, cols, one).Tensor, float32(v.eps))
		want := make([]float64, cols)
		for i := range want {
			want[i] = v.want
		}
		if err := e.compare(fmt.Sprintf("row of 1e-3, eps %g", v.eps), dst.read(), want, make([]float64, cols), cols); err != nil {
			return err
		}
	}
	return nil
}

func checkSwiGLU(e *env) error {
	for _, inner := range []int{1, 13, 40, 96, e.between(2, 300)} {
		rows := e.between(1, 70)
		src := e.normal(e.act, rows*2*inner, 3)
		for range inner { // where a careless exponential overflows
			src[e.rng.IntN(len(src))] = roundType(e.act, pick(e, -1000.0, -90, 0, 90, 1000))
		}
		var want, mag []float64
		for r := range rows {
			g, u := src[2*r*inner:(2*r+1)*inner], src[(2*r+1)*inner:(2*r+2)*inner]
			for i := range g {
				want = append(want, silu(g[i])*u[i])
				// Far below zero silu(g) is g·exp(g): an error of the exponent grows
				// with |g|, and float32 may underflow.
				mag = append(mag, math.Abs(silu(g[i])*u[i]*g[i])+1e-20)
			}
		}
		dst := e.alloc(e.act, rows, inner)
		e.dev.SwiGLU(dst.Tensor, e.tensor(e.act, 2*inner, src).Tensor)
		if err := e.compare("silu(g)·u", dst.read(), want, mag, inner); err != nil {
			return err
		}
	}
	return nil
}
