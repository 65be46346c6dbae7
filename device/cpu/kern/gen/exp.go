package main

import (
	"fmt"
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

	n, p = t.function("softmaxColumns", "func(n, rows int, x *float32, ld int, scale float32, top, sum *float32)",
		fmt.Sprintf("is SoftmaxColumns of n <= %d columns; ld in bytes.", t.lanes), "x", "top", "sum")
	rows := Load(Param("rows"), GP64()).(reg.GPVirtual)
	ld := Load(Param("ld"), GP64()).(reg.GPVirtual)
	t.mask(n)
	scale = t.broadcast("scale", 0)
	top, total, x := t.regs[1], t.regs[3], t.regs[4]
	VMOVUPS(t.c(0xff800000), top)
	VMOVUPS(t.c(0xff800000), t.regs[2])
	t.zero(total)
	left, at := GP64(), GP64()
	MOVQ(p[0], at)
	MOVQ(rows, left)
	pair, one, exps, done := t.label("pair"), t.label("one"), t.label("exps"), t.label("done")
	Label(pair)
	CMPQ(left, U32(2))
	JLT(LabelRef(one))
	t.load(Mem{Base: at}, x, true)
	t.load(Mem{Base: at, Index: ld, Scale: 1}, t.regs[5], true)
	VMAXPS(x, top, top)
	VMAXPS(t.regs[5], t.regs[2], t.regs[2])
	LEAQ(Mem{Base: at, Index: ld, Scale: 2}, at)
	SUBQ(U8(2), left)
	JMP(LabelRef(pair))
	Label(one)
	TESTQ(left, left)
	JEQ(LabelRef(exps))
	t.load(Mem{Base: at}, x, true)
	VMAXPS(x, top, top)
	Label(exps)
	VMAXPS(t.regs[2], top, top)
	t.store(top, Mem{Base: p[1]}, true)
	VMULPS(scale, top, top)
	VMAXPS(t.c(0xff7fffff), top, top) // a column of −Inf must not become NaN
	each := t.label("each")
	Label(each)
	TESTQ(rows, rows)
	JEQ(LabelRef(done))
	t.load(Mem{Base: p[0]}, x, true)
	VFMSUB213PS(top, scale, x)
	t.exp(x, t.regs[6], t.regs[8], t.regs[10])
	t.store(x, Mem{Base: p[0]}, true)
	VADDPS(x, total, total)
	ADDQ(ld, p[0])
	DECQ(rows)
	JMP(LabelRef(each))
	Label(done)
	t.store(total, Mem{Base: p[2]}, true)
	t.ret()

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
