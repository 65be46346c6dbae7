package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// exp replaces register x by its exponential, with registers a, b and c to work
// in (AVX-512: and K2). Range reduction and polynomial are those of Cephes expf
// (Moshier): e^x = 2^n·e^r, |r| <= ln2/2. Results below 2^-126 become zero, NaN
// stays.
func (t *isa) exp(x, a, b, c reg.VecPhysical) {
	f := func(v float64) Mem { return t.c(math.Float32bits(float32(v))) }
	// MIN and MAX return their second source, here x, if one is NaN.
	VMOVUPS(f(89), a)
	VMINPS(x, a, x)
	VMOVUPS(f(-88), a)
	VMAXPS(x, a, a) // a = x, bounded; x keeps what was below
	VMULPS(f(math.Log2E), a, b)
	if t.wide() {
		VRNDSCALEPS(U8(8), b, b)
	} else {
		VROUNDPS(U8(8), b, b)
	}
	VFNMADD231PS(f(0.693359375), b, a)
	VFNMADD231PS(f(-2.12194440e-4), b, a)
	VMOVUPS(f(1.9875691500e-4), c)
	for _, v := range []float64{1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1, 1} {
		VFMADD213PS(f(v), a, c)
	}
	// ln 2^-126 = -87.33654...
	low := t.c(0xc2aeac4f)
	if t.wide() {
		VCMPPS(U8(0x15), low, x, reg.K2) // not less than, or NaN
		VSCALEFPS_Z(b, c, reg.K2, x)
		return
	}
	// 2^128 is no float32: multiply by two halves of the power.
	VCMPPS(U8(0x15), low, x, x)
	VCVTPS2DQ(b, b)
	VPSRAD(U8(1), b, a)
	VPSUBD(a, b, b)
	for _, n := range []reg.VecPhysical{a, b} {
		VPADDD(t.c(127), n, n)
		VPSLLD(U8(23), n, n)
		VMULPS(n, c, c)
	}
	VANDPS(c, x, x)
}

func (t *isa) exponentials() {
	n, p := t.function("exp", "func(n int, x *float32, scale, shift float32) float32", "replaces x by exp(scale·x − shift) and returns the sum.", "x")
	const unroll = 2
	scale, shift := t.broadcast("scale", 0), t.broadcast("shift", 1)
	for u := range unroll {
		t.zero(t.regs[2+u])
	}
	t.each(n, unroll, false, t.step(4, p...), func(u int, rest bool) {
		x := t.regs[4+u]
		t.load(t.at(p[0], u), x, rest)
		VFMSUB213PS(shift, scale, x)
		t.exp(x, t.regs[6+u], t.regs[8+u], t.regs[10+u])
		t.store(x, t.at(p[0], u), rest)
		switch { // lanes past the end do not count
		case rest && t.wide():
			VMOVUPS_Z(x, reg.K1, x)
		case rest:
			VANDPS(reg.Y15, x, x)
		}
		VADDPS(x, t.regs[2+u], t.regs[2+u])
	})
	VADDPS(t.regs[3], t.regs[2], t.regs[2])
	sum := t.sum(2, 3)
	VZEROUPPER()
	Store(sum.(reg.Register), ReturnIndex(0))
	RET()

	n, p = t.function("siluMul", "func(n int, dst, gate, up *float32)", "writes gate/(1+exp(−gate))·up to dst.", "dst", "gate", "up")
	t.each(n, unroll, false, t.step(4, p...), func(u int, rest bool) {
		g, e := t.regs[4+u], t.regs[6+u]
		t.load(t.at(p[1], u), g, rest)
		if t.wide() {
			VPXORD(t.c(0x80000000), g, e)
		} else {
			VPXOR(t.c(0x80000000), g, e)
		}
		t.exp(e, t.regs[8+u], t.regs[10+u], t.regs[12+u])
		VADDPS(t.c(0x3f800000), e, e)
		VDIVPS(e, g, g)
		t.load(t.at(p[2], u), e, rest)
		VMULPS(e, g, g)
		t.store(g, t.at(p[0], u), rest)
	})
	t.ret()
}
