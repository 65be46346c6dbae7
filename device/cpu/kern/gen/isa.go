package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// isa hides the differences between AVX-512 (zmm, mask registers) and AVX2
// (ymm, vector masks). The mask of a rest is K1, or the last ymm register.
type isa struct {
	suffix  string
	lanes   int // float32 per register
	regs    []reg.VecPhysical
	labels  int
	consts  map[uint32]Mem
	indices Mem
	bits    Mem
}

func avx512() *isa {
	return &isa{suffix: "AVX512", lanes: 16, consts: map[uint32]Mem{}, regs: []reg.VecPhysical{
		reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
		reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
		reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
		reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}}
}

func avx2() *isa {
	return &isa{suffix: "AVX2", lanes: 8, consts: map[uint32]Mem{}, regs: []reg.VecPhysical{
		reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7,
		reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15}}
}

func (t *isa) wide() bool { return t.lanes == 16 }
func (t *isa) bytes() int { return 4 * t.lanes }

// label returns a name that is new in the file.
func (t *isa) label(s string) string {
	t.labels++
	return fmt.Sprintf("%s%d", s, t.labels)
}

// c returns a read-only vector with bits in every lane.
func (t *isa) c(bits uint32) Mem {
	if m, ok := t.consts[bits]; ok {
		return m
	}
	m := GLOBL(fmt.Sprintf("c%s_%08x", t.suffix, bits), 8|16) // RODATA|NOPTR
	for i := range t.lanes {
		DATA(4*i, U32(bits))
	}
	t.consts[bits] = m
	return m
}

func (t *isa) zero(r reg.VecPhysical) {
	if t.wide() {
		VPXORD(r, r, r)
	} else {
		VPXOR(r, r, r)
	}
}

func (t *isa) and(a Op, b, dst reg.VecPhysical) {
	if t.wide() {
		VPANDD(a, b, dst)
	} else {
		VPAND(a, b, dst)
	}
}

func (t *isa) or(a Op, b, dst reg.VecPhysical) {
	if t.wide() {
		VPORD(a, b, dst)
	} else {
		VPOR(a, b, dst)
	}
}

// load and store move float32 registers, in a rest only the lanes of the mask;
// the others load as zero.
func (t *isa) load(m Mem, r reg.VecPhysical, rest bool) {
	switch {
	case !rest:
		VMOVUPS(m, r)
	case t.wide():
		VMOVUPS_Z(m, reg.K1, r)
	default:
		VMASKMOVPS(m, reg.Y15, r)
	}
}

func (t *isa) store(r reg.VecPhysical, m Mem, rest bool) {
	switch {
	case !rest:
		VMOVUPS(r, m)
	case t.wide():
		VMOVUPS(r, reg.K1, m)
	default:
		VMASKMOVPS(r, reg.Y15, m)
	}
}

// mask selects the first n lanes, n < lanes. AVX2 uses Y14 on the way.
func (t *isa) mask(n reg.GPVirtual) {
	if t.wide() {
		bits := GP64()
		MOVQ(I32(-1), bits)
		BZHIQ(n, bits, bits)
		KMOVW(bits.As32(), reg.K1)
		return
	}
	VMOVD(n.As32(), reg.X14)
	VPBROADCASTD(reg.X14, reg.Y14)
	VPCMPGTD(t.iota(), reg.Y14, reg.Y15)
}

// iota returns a read-only vector 0, 1, 2, ...
func (t *isa) iota() Mem {
	if t.indices.Symbol.Name == "" {
		t.indices = GLOBL("iota"+t.suffix, 8|16) // RODATA|NOPTR
		for i := range t.lanes {
			DATA(4*i, U32(i))
		}
	}
	return t.indices
}

// powers returns a read-only vector 1, 2, 4, ...
func (t *isa) powers() Mem {
	if t.bits.Symbol.Name == "" {
		t.bits = GLOBL("powers"+t.suffix, 8|16) // RODATA|NOPTR
		for i := range t.lanes {
			DATA(4*i, U32(1<<i))
		}
	}
	return t.bits
}

// sum adds the lanes of r (register i) into lane 0; register tmp is clobbered.
func (t *isa) sum(i, tmp int) reg.VecPhysical {
	return t.fold(i, tmp, func(a, b reg.VecPhysical) { VADDPS(a, b, b) })
}

// fold combines the halves of register i until lane 0 holds the result.
func (t *isa) fold(i, tmp int, op func(a, b reg.VecPhysical)) reg.VecPhysical {
	y, yt := t.regs[i].AsY(), t.regs[tmp].AsY()
	x, xt := t.regs[i].AsX(), t.regs[tmp].AsX()
	if t.wide() {
		VEXTRACTF64X4(U8(1), t.regs[i], yt)
		op(yt.(reg.VecPhysical), y.(reg.VecPhysical))
	}
	VEXTRACTF128(U8(1), y, xt)
	op(xt.(reg.VecPhysical), x.(reg.VecPhysical))
	VSHUFPS(U8(0x0e), x, x, xt)
	op(xt.(reg.VecPhysical), x.(reg.VecPhysical))
	VSHUFPS(U8(1), x, x, xt)
	op(xt.(reg.VecPhysical), x.(reg.VecPhysical))
	return x.(reg.VecPhysical)
}

// raw emits bytes.
func raw(bs ...byte) {
	for _, b := range bs {
		Instruction(&ir.Instruction{Opcode: "BYTE", Operands: []Op{U8(b)}})
	}
}

// vdpbf16ps emits zd += za·zb over bf16 pairs, for registers by number:
// EVEX.512.F3.0F38.W0 52 /r (Intel SDM, volume 2, VDPBF16PS).
func vdpbf16ps(zd, za, zb int) {
	inv := func(v, bit int, at byte) byte { // EVEX stores register bits inverted
		if v&bit == 0 {
			return at
		}
		return 0
	}
	p0 := 0x02 | inv(zd, 8, 0x80) | inv(zb, 16, 0x40) | inv(zb, 8, 0x20) | inv(zd, 16, 0x10)
	p1 := 0x06 | byte(^za&15)<<3
	p2 := 0x40 | inv(za, 16, 0x08)
	raw(0x62, p0, p1, p2, 0x52, byte(0xc0|zd&7<<3|zb&7))
}
