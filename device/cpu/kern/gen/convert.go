package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Comparison predicates of VCMPPS (Intel SDM, volume 2, table 3-1).
const (
	unordered = 0x03
	less      = 0x11
	atLeast   = 0x1d
	greater   = 0x1e
)

// pick replaces dst by value where x compares with bound (AVX-512: K2 is
// clobbered, AVX2: tmp).
func (t *isa) pick(predicate int, bound Op, x reg.VecPhysical, value Op, dst, tmp reg.VecPhysical) {
	if t.wide() {
		VCMPPS(U8(predicate), bound, x, reg.K2)
		VMOVUPS(value, reg.K2, dst)
		return
	}
	VCMPPS(U8(predicate), bound, x, tmp)
	VBLENDVPS(tmp, value, dst, dst)
}

// narrow stores the low 16 or 8 bits of every lane of register i, whose other
// bits are zero. AVX2 clobbers register i+1.
func (t *isa) narrow(i, bits int, m Mem, rest bool) {
	switch {
	case t.wide() && bits == 16 && rest:
		VPMOVDW(t.regs[i], reg.K1, m)
	case t.wide() && bits == 16:
		VPMOVDW(t.regs[i], m)
	case t.wide() && rest:
		VPMOVDB(t.regs[i], reg.K1, m)
	case t.wide():
		VPMOVDB(t.regs[i], m)
	default:
		x, hi := t.regs[i].AsX(), t.regs[i+1].AsX()
		VEXTRACTI128(U8(1), t.regs[i], hi)
		VPACKUSDW(hi, x, x)
		if bits == 16 {
			VMOVDQU(x, m)
			return
		}
		VPACKUSWB(x, x, x)
		VMOVQ(x, m)
	}
}

// widenBF16 loads register u.
func (t *isa) widenBF16(m Mem, u int, rest bool) {
	if rest {
		VPMOVZXWD_Z(m, reg.K1, t.regs[u])
	} else {
		VPMOVZXWD(m, t.regs[u])
	}
	VPSLLD(U8(16), t.regs[u], t.regs[u])
}

// widenF8 loads register u < 4 with e4m3 times scale, by way of float16 (see
// f8Pair). Codes 7f and ff become NaN. Registers 4+u and 8+u are clobbered.
func (t *isa) widenF8(m Mem, scale reg.VecPhysical, u int, rest bool) {
	r, mag, tmp, h := t.regs[u], t.regs[4+u], t.regs[8+u], t.half(u)
	if rest {
		VPMOVSXBW_Z(m, reg.K1, h)
	} else {
		VPMOVSXBW(m, h)
	}
	VPSLLW(U8(7), h, h)
	if t.wide() {
		VPANDD(t.c(0xbf80bf80), h, h)
	} else {
		VPAND(t.c(0xbf80bf80), h, h)
	}
	VCVTPH2PS(h, r)
	VMULPS(t.c(f8Factor), r, r)
	t.and(t.c(0x7fffffff), r, mag)
	t.pick(atLeast, t.c(math.Float32bits(480)), mag, t.c(0x7fc00000), r, tmp)
	VMULPS(scale, r, r)
}

// spreads write rows of matrices in panels: a round fills the 32 columns of one
// panel, a rest stays within one.
func (t *isa) spreads() {
	unroll, note := panelCols/t.lanes, ""
	if !t.wide() {
		note = " n is a multiple of 32."
	}
	for _, f := range []struct {
		name, elem, scale string
		size              int
		load              func(m Mem, u int, rest bool)
	}{
		{"F32", "float32", "", 4, func(m Mem, u int, rest bool) { t.load(m, t.regs[u], rest) }},
		{"BF16", "uint16", "", 2, t.widenBF16},
		{"F8", "uint8", ", scale float32", 1, func(m Mem, u int, rest bool) { t.widenF8(m, t.regs[13], u, rest) }},
	} {
		n, p := t.function("spread"+f.name, "func(n int, dst *float32, ldd int, src *"+f.elem+f.scale+")", "writes src to panels, ldd bytes apart."+note, "dst", "src")
		ldd := Load(Param("ldd"), GP64()).(reg.GPVirtual)
		if f.scale != "" {
			t.broadcast("scale", 13)
		}
		t.each(n, unroll, !t.wide(), func(regs int) {
			if regs == unroll {
				ADDQ(ldd, p[0])
			} else {
				t.step(4, p[0])(regs)
			}
			t.step(f.size, p[1])(regs)
		}, func(u int, rest bool) {
			f.load(Mem{Base: p[1], Disp: u * f.size * t.lanes}, u, rest)
			t.store(t.regs[u], t.at(p[0], u), rest)
		})
		t.ret()
	}
}

// conversions have no rest in AVX2, which masks 32-bit elements only.
func (t *isa) conversions() {
	whole, note := !t.wide(), ""
	if whole {
		note = " n is a multiple of 8."
	}
	// Two pointers, the elements of one being narrower than those of the other.
	step := func(dst reg.GPVirtual, dq int, src reg.GPVirtual, sq int) func(int) {
		return func(regs int) {
			t.step(dq, dst)(regs)
			t.step(sq, src)(regs)
		}
	}
	x, a, b := t.regs[0], t.regs[1], t.regs[2]

	n, p := t.function("f32FromBF16", "func(n int, dst *float32, src *uint16)", "widens bf16."+note, "dst", "src")
	t.each(n, 4, whole, step(p[0], 4, p[1], 2), func(u int, rest bool) {
		t.widenBF16(Mem{Base: p[1], Disp: u * 2 * t.lanes}, u, rest)
		t.store(t.regs[u], t.at(p[0], u), rest)
	})
	t.ret()

	n, p = t.function("f32FromF16", "func(n int, dst *float32, src *uint16)", "widens f16."+note, "dst", "src")
	t.each(n, 4, whole, step(p[0], 4, p[1], 2), func(u int, rest bool) {
		r, m := t.regs[u], Mem{Base: p[1], Disp: u * 2 * t.lanes}
		if rest {
			VCVTPH2PS_Z(m, reg.K1, r)
		} else {
			VCVTPH2PS(m, r)
		}
		t.store(r, t.at(p[0], u), rest)
	})
	t.ret()

	n, p = t.function("f32FromF8", "func(n int, dst *float32, src *uint8, scale float32)", "widens e4m3 and multiplies by scale."+note, "dst", "src")
	scale := t.broadcast("scale", 13)
	t.each(n, 4, whole, step(p[0], 4, p[1], 1), func(u int, rest bool) {
		t.widenF8(Mem{Base: p[1], Disp: u * t.lanes}, scale, u, rest)
		t.store(t.regs[u], t.at(p[0], u), rest)
	})
	t.ret()

	n, p = t.function("bf16FromF32", "func(n int, dst *uint16, src *float32)", "rounds to bf16."+note, "dst", "src")
	t.each(n, 1, whole, step(p[0], 2, p[1], 4), func(u int, rest bool) {
		t.load(t.at(p[1], u), x, rest)
		VPSRLD(U8(16), x, a)
		t.and(t.c(1), a, b)
		VPADDD(t.c(0x7fff), b, b)
		VPADDD(x, b, b)
		VPSRLD(U8(16), b, b)
		t.or(t.c(0x40), a, a) // quiet NaN
		t.pick(unordered, x, x, a, b, t.regs[3])
		t.narrow(2, 16, Mem{Base: p[0]}, rest)
	})
	t.ret()

	// As device.F8FromF32: the same roundings, on the same bits.
	n, p = t.function("f8FromF32", "func(n int, dst *uint8, src *float32, scale float32)", "multiplies by scale and rounds to e4m3."+note, "dst", "src")
	scale = t.broadcast("scale", 13)
	t.each(n, 1, whole, step(p[0], 1, p[1], 4), func(u int, rest bool) {
		mag, sub, tmp := a, t.regs[3], t.regs[4]
		t.load(t.at(p[1], u), x, rest)
		VMULPS(x, scale, x)
		t.and(t.c(0x7fffffff), x, mag)
		VPSRLD(U8(20), mag, b)
		t.and(t.c(1), b, b)
		VPADDD(t.c(0x7ffff), b, b)
		VPADDD(mag, b, b)
		VPSRLD(U8(20), b, b)
		VPSUBD(t.c(120<<3), b, b)
		VMULPS(t.c(math.Float32bits(512)), mag, sub) // subnormal, step 2^-9
		VCVTPS2DQ(sub, sub)
		t.pick(less, t.c(math.Float32bits(0x1p-6)), mag, sub, b, tmp)
		t.pick(atLeast, t.c(math.Float32bits(448)), mag, t.c(0x7e), b, tmp)
		VPSRLD(U8(24), x, sub)
		t.and(t.c(0x80), sub, sub)
		t.or(sub, b, b)
		t.pick(unordered, x, x, t.c(0x7f), b, tmp)
		t.narrow(2, 8, Mem{Base: p[0]}, rest)
	})
	t.ret()
}

// above sets bits to the lanes of x that are greater than register 0.
func (t *isa) above(x reg.VecPhysical, bits reg.GPVirtual, rest bool) {
	switch {
	case t.wide() && rest:
		VCMPPS(U8(greater), t.regs[0], x, reg.K1, reg.K2)
	case t.wide():
		VCMPPS(U8(greater), t.regs[0], x, reg.K2)
	default:
		VCMPPS(U8(greater), t.regs[0], x, x)
		if rest {
			VANDPS(reg.Y15, x, x)
		}
		VMOVMSKPS(x, bits.As32())
		return
	}
	KMOVW(reg.K2, bits.As32())
}

func (t *isa) compares() {
	n, p := t.function("countGreater", "func(n int, x *float32, t float32) int", "counts the elements greater than t.", "x")
	t.broadcast("t", 0)
	count := GP64()
	XORQ(count, count)
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		bits := GP64()
		t.load(t.at(p[0], u), t.regs[1+u], rest)
		t.above(t.regs[1+u], bits, rest)
		POPCNTL(bits.As32(), bits.As32())
		ADDQ(bits, count)
	})
	VZEROUPPER()
	Store(count, ReturnIndex(0))
	RET()

	n, p = t.function("indexGreater", "func(n int, dst *int32, x *float32, t float32, base int32) int", "writes base+i for the elements i greater than t.", "dst", "x")
	t.broadcast("t", 0)
	base, start := GP64(), GP64()
	Load(Param("base"), base.As32())
	MOVQ(p[0], start)
	index := t.regs[1]
	if t.wide() {
		VMOVD(base.As32(), reg.X1)
		VPBROADCASTD(reg.X1, index)
		VPADDD(t.iota(), index, index)
	}
	advance := func(regs int) {
		t.step(4, p[1])(regs)
		if t.wide() {
			VPADDD(t.c(16), index, index)
		} else {
			ADDL(U8(8), base.As32())
		}
	}
	t.each(n, 1, false, advance, func(u int, rest bool) {
		bits, none := GP64(), t.label("none")
		t.load(Mem{Base: p[1]}, t.regs[2], rest)
		t.above(t.regs[2], bits, rest)
		TESTL(bits.As32(), bits.As32())
		JEQ(LabelRef(none))
		if t.wide() {
			VPCOMPRESSD_Z(index, reg.K2, t.regs[3])
			POPCNTL(bits.As32(), bits.As32())
			first := GP64()
			MOVQ(I32(-1), first)
			BZHIQ(bits, first, first)
			KMOVW(first.As32(), reg.K3)
			VMOVDQU32(t.regs[3], reg.K3, Mem{Base: p[0]})
			LEAQ(Mem{Base: p[0], Index: bits, Scale: 4}, p[0])
		} else {
			next, i := t.label("next"), GP64()
			Label(next)
			TZCNTL(bits.As32(), i.As32())
			ADDL(base.As32(), i.As32())
			MOVL(i.As32(), Mem{Base: p[0]})
			ADDQ(U8(4), p[0])
			BLSRL(bits.As32(), bits.As32())
			JNE(LabelRef(next))
		}
		Label(none)
	})
	SUBQ(start, p[0])
	SHRQ(U8(2), p[0])
	VZEROUPPER()
	Store(p[0], ReturnIndex(0))
	RET()
}

// transpose moves blocks of 8x8. Shuffles stay within 128-bit halves: a
// register holds four columns of rows i and i+4, so that the halves of a result
// are rows 0-3 and 4-7 of one column.
func (t *isa) transpose() {
	TEXT("transpose"+t.suffix, NOSPLIT, "func(rows, cols int, dst *float32, ldd int, src *float32, lds int)")
	Doc("transpose" + t.suffix + " writes src [rows, cols], both multiples of 8 and not 0, to dst; strides in bytes.")
	Pragma("noescape")
	load := func(p string) reg.GPVirtual { return Load(Param(p), GP64()).(reg.GPVirtual) }
	rows, cols, dst, src := load("rows"), load("cols"), load("dst"), load("src")
	sp, dp, n := GP64(), GP64(), GP64()
	MOVQ(src, sp)
	MOVQ(dst, dp)
	from, to := newStrided(sp, load("lds"), 8), newStrided(dp, load("ldd"), 8)
	Label("column")
	MOVQ(src, sp)
	MOVQ(dst, dp)
	LEAQ(Mem{Base: sp, Index: from.s, Scale: 4}, from.bases[1])
	ADDQ(from.s, from.bases[1])
	LEAQ(Mem{Base: dp, Index: to.s, Scale: 4}, to.bases[1])
	ADDQ(to.s, to.bases[1])
	MOVQ(rows, n)
	Label("block")
	for half := range 2 {
		at := func(i int) Mem {
			m := from.row(i)
			m.Disp += 16 * half
			return m
		}
		y := t.regs[8*half : 8*half+8]
		for i := range 4 {
			VMOVUPS(at(i), y[i].AsX())
			VINSERTF128(U8(1), at(i+4), y[i], y[i])
		}
		VUNPCKLPS(y[1], y[0], y[4]) // columns 0, 1 of rows 0, 1
		VUNPCKHPS(y[1], y[0], y[5])
		VUNPCKLPS(y[3], y[2], y[6])
		VUNPCKHPS(y[3], y[2], y[7])
		VUNPCKLPD(y[6], y[4], y[0])
		VUNPCKHPD(y[6], y[4], y[1])
		VUNPCKLPD(y[7], y[5], y[2])
		VUNPCKHPD(y[7], y[5], y[3])
		for i := range 4 {
			VMOVUPS(y[i], to.row(4*half+i))
		}
	}
	for range 8 {
		from.advance(from.s, 8)
	}
	to.advance(U8(32), 8)
	SUBQ(U8(8), n)
	JNE(LabelRef("block"))
	ADDQ(U8(32), src)
	for range 8 {
		ADDQ(to.s, dst)
	}
	SUBQ(U8(8), cols)
	JNE(LabelRef("column"))
	t.ret()
}
