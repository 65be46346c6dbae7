package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// each emits loops over n elements: unroll registers at a time, then single
// ones, then a masked rest. body computes register u of a round; advance moves
// the pointers on by a number of registers. So which lane and register an
// element falls into depends on n only. If whole, n is a multiple of the lanes
// and there is no rest.
func (t *isa) each(n reg.GPVirtual, unroll int, whole bool, advance func(regs int), body func(u int, rest bool)) {
	round, single, rest, done := t.label("round"), t.label("single"), t.label("rest"), t.label("done")
	Label(round)
	if unroll > 1 {
		CMPQ(n, U32(unroll*t.lanes))
		JLT(LabelRef(single))
		for u := range unroll {
			body(u, false)
		}
		advance(unroll)
		SUBQ(U32(unroll*t.lanes), n)
		JMP(LabelRef(round))
	}
	Label(single)
	CMPQ(n, U32(t.lanes))
	JLT(LabelRef(rest))
	body(0, false)
	advance(1)
	SUBQ(U32(t.lanes), n)
	JMP(LabelRef(single))
	Label(rest)
	if whole {
		return
	}
	TESTQ(n, n)
	JEQ(LabelRef(done))
	t.mask(n)
	body(0, true)
	Label(done)
}

// function opens a function over n elements at pointers, given in Go as
// "dst, x *float32" and so on; params are the names of those pointers.
func (t *isa) function(name, signature, doc string, params ...string) (n reg.GPVirtual, ptrs []reg.GPVirtual) {
	TEXT(name+t.suffix, NOSPLIT, signature)
	Doc(name + t.suffix + " " + doc)
	Pragma("noescape")
	n = Load(Param("n"), GP64()).(reg.GPVirtual)
	for _, p := range params {
		ptrs = append(ptrs, Load(Param(p), GP64()).(reg.GPVirtual))
	}
	return n, ptrs
}

// step returns an advance that adds the bytes of so many float32 registers,
// scaled by each pointer's element size in quarters of a float32.
func (t *isa) step(quarters int, ptrs ...reg.GPVirtual) func(int) {
	return func(regs int) {
		for _, p := range ptrs {
			ADDQ(U32(regs*t.lanes*quarters), p)
		}
	}
}

func (t *isa) at(p reg.GPVirtual, u int) Mem { return Mem{Base: p, Disp: u * t.bytes()} }

func (t *isa) ret() {
	VZEROUPPER()
	RET()
}

// broadcast loads a float32 parameter to every lane of register i.
func (t *isa) broadcast(param string, i int) reg.VecPhysical {
	x := t.regs[i].AsX()
	Load(Param(param), x.(reg.Register))
	VBROADCASTSS(x, t.regs[i])
	return t.regs[i]
}

func (t *isa) vectors() {
	t.reductions()
	t.updates()
	t.exponentials()
	t.conversions()
	t.spreads()
	t.compares()
}

func (t *isa) reductions() {
	n, p := t.function("dot", "func(n int, x, y *float32) float32", "returns Σ x·y.", "x", "y")
	for i := range 4 {
		t.zero(t.regs[i])
	}
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		t.load(t.at(p[0], u), t.regs[4+u], rest)
		if rest {
			t.load(t.at(p[1], u), t.regs[8], rest)
			VFMADD231PS(t.regs[8], t.regs[4], t.regs[0])
			return
		}
		VFMADD231PS(t.at(p[1], u), t.regs[4+u], t.regs[u])
	})
	t.sumOf4()

	n, p = t.function("sumSquares", "func(n int, x *float32) float32", "returns Σ x².", "x")
	for i := range 4 {
		t.zero(t.regs[i])
	}
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		t.load(t.at(p[0], u), t.regs[4+u], rest)
		VFMADD231PS(t.regs[4+u], t.regs[4+u], t.regs[u])
	})
	t.sumOf4()

	n, p = t.function("maximum", "func(n int, x *float32) float32", "returns the largest element, −Inf of none.", "x")
	for i := range 4 {
		VMOVUPS(t.c(0xff800000), t.regs[i])
	}
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		switch {
		case !rest:
			VMAXPS(t.at(p[0], u), t.regs[u], t.regs[u])
		case t.wide():
			VMAXPS(t.at(p[0], u), t.regs[u], reg.K1, t.regs[u])
		default: // lanes past the end become −Inf
			t.load(t.at(p[0], u), t.regs[4], rest)
			VMOVUPS(t.c(0xff800000), t.regs[5])
			VBLENDVPS(reg.Y15, t.regs[4], t.regs[5], t.regs[4])
			VMAXPS(t.regs[4], t.regs[u], t.regs[u])
		}
	})
	t.maxOf4()

	n, p = t.function("absMax", "func(n int, x *float32) float32", "returns the largest magnitude, 0 of none.", "x")
	for i := range 4 {
		t.zero(t.regs[i])
	}
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		t.load(t.at(p[0], u), t.regs[4+u], rest)
		t.and(t.c(0x7fffffff), t.regs[4+u], t.regs[4+u])
		VMAXPS(t.regs[4+u], t.regs[u], t.regs[u])
	})
	t.maxOf4()
}

func (t *isa) sumOf4() {
	VADDPS(t.regs[1], t.regs[0], t.regs[0])
	VADDPS(t.regs[3], t.regs[2], t.regs[2])
	VADDPS(t.regs[2], t.regs[0], t.regs[0])
	x := t.sum(0, 1)
	VZEROUPPER()
	Store(x.(reg.Register), ReturnIndex(0))
	RET()
}

func (t *isa) maxOf4() {
	VMAXPS(t.regs[1], t.regs[0], t.regs[0])
	VMAXPS(t.regs[3], t.regs[2], t.regs[2])
	VMAXPS(t.regs[2], t.regs[0], t.regs[0])
	x := t.fold(0, 1, func(a, b reg.VecPhysical) { VMAXPS(a, b, b) })
	VZEROUPPER()
	Store(x.(reg.Register), ReturnIndex(0))
	RET()
}

func (t *isa) updates() {
	n, p := t.function("axpy", "func(n int, y *float32, a float32, x *float32)", "adds a·x to y.", "y", "x")
	a := t.broadcast("a", 0)
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		t.load(t.at(p[0], u), t.regs[1+u], rest)
		t.load(t.at(p[1], u), t.regs[5+u], rest)
		VFMADD231PS(t.regs[5+u], a, t.regs[1+u])
		t.store(t.regs[1+u], t.at(p[0], u), rest)
	})
	t.ret()

	n, p = t.function("add", "func(n int, y, x *float32)", "adds x to y.", "y", "x")
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		t.load(t.at(p[0], u), t.regs[1+u], rest)
		t.load(t.at(p[1], u), t.regs[5+u], rest)
		VADDPS(t.regs[5+u], t.regs[1+u], t.regs[1+u])
		t.store(t.regs[1+u], t.at(p[0], u), rest)
	})
	t.ret()

	n, p = t.function("scale", "func(n int, x *float32, a float32)", "multiplies x by a.", "x")
	a = t.broadcast("a", 0)
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		t.load(t.at(p[0], u), t.regs[1+u], rest)
		VMULPS(t.regs[1+u], a, t.regs[1+u])
		t.store(t.regs[1+u], t.at(p[0], u), rest)
	})
	t.ret()

	n, p = t.function("scaleMul", "func(n int, dst *float32, a float32, x, w *float32)", "writes (a·x)·w to dst.", "dst", "x", "w")
	a = t.broadcast("a", 0)
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		t.load(t.at(p[1], u), t.regs[1+u], rest)
		t.load(t.at(p[2], u), t.regs[5+u], rest)
		VMULPS(t.regs[1+u], a, t.regs[1+u])
		VMULPS(t.regs[5+u], t.regs[1+u], t.regs[1+u])
		t.store(t.regs[1+u], t.at(p[0], u), rest)
	})
	t.ret()

	n, p = t.function("mask", "func(n int, x *float32, bits uint64)", "sets elements to −Inf whose bit is clear, n <= 64.", "x")
	bits := Load(Param("bits"), GP64()).(reg.GPVirtual)
	VMOVUPS(t.c(0xff800000), t.regs[0])
	t.each(n, 1, false, func(regs int) {
		t.step(4, p...)(regs)
		SHRQ(U8(t.lanes), bits)
	}, func(u int, rest bool) {
		t.load(t.at(p[0], u), t.regs[1], rest)
		if t.wide() {
			KMOVW(bits.As32(), reg.K2)
			VBLENDMPS(t.regs[1], t.regs[0], reg.K2, t.regs[1])
		} else {
			VMOVD(bits.As32(), reg.X2)
			VPBROADCASTD(reg.X2, reg.Y2)
			VPAND(t.powers(), reg.Y2, reg.Y2)
			VPCMPEQD(t.powers(), reg.Y2, reg.Y2)
			VBLENDVPS(reg.Y2, t.regs[1], t.regs[0], t.regs[1])
		}
		t.store(t.regs[1], t.at(p[0], u), rest)
	})
	t.ret()

	n, p = t.function("reluWeighted", "func(n int, dst, s *float32, w float32)", "adds w·max(0, s) to dst.", "dst", "s")
	w := t.broadcast("w", 0)
	t.zero(t.regs[13])
	t.each(n, 4, false, t.step(4, p...), func(u int, rest bool) {
		t.load(t.at(p[0], u), t.regs[1+u], rest)
		t.load(t.at(p[1], u), t.regs[5+u], rest)
		VMAXPS(t.regs[5+u], t.regs[13], t.regs[5+u])
		VFMADD231PS(t.regs[5+u], w, t.regs[1+u])
		t.store(t.regs[1+u], t.at(p[0], u), rest)
	})
	t.ret()
}
