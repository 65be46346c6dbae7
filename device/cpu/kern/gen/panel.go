package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const panelCols = 32

// panel writes the kernel for few rows: Y += X·Wᵀ straight from packed weights,
// for the given shapes (rows, panels side by side). Several panels give the
// chains that hide the latency of an fma when there is one row.
func (t *isa) panel(f format, suffix string, shapes [][2]int) {
	name := "panel" + f.String() + suffix
	xt, scales := "*float32", ""
	if f == pairs {
		xt = "*uint32"
	}
	if f == f8 {
		scales = " s *float32, lds int,"
	}
	TEXT(name, NOSPLIT, fmt.Sprintf("func(shape, k int, x %s, ldx int, w *%s, ldw int,%s y *float32, ldy int)", xt, f.elem(), scales))
	Doc(name+" adds X·Wᵀ to Y for shape = 8·rows + panels, one of",
		fmt.Sprintf("%v; leading dimensions in bytes, k in %s.", shapes, map[bool]string{true: "pairs", false: "elements"}[f == pairs]))
	Pragma("noescape")
	load := func(p string) reg.GPVirtual { return Load(Param(p), GP64()).(reg.GPVirtual) }
	shape, k, x, ldx, w, ldw := load("shape"), load("k"), load("x"), load("ldx"), load("w"), load("ldw")
	y, ldy := load("y"), load("ldy")
	var s, lds reg.GPVirtual
	if f == f8 {
		s, lds = load("s"), load("lds")
	}
	for _, sh := range shapes[1:] {
		CMPQ(shape, U8(8*sh[0]+sh[1]))
		JEQ(LabelRef(fmt.Sprintf("shape%dx%d", sh[0], sh[1])))
	}
	for _, sh := range shapes {
		b := panelBody{isa: t, f: f, rows: sh[0], panels: sh[1], k: k, w: w, y: y, ldy: ldy, s: s,
			tag: fmt.Sprintf("%dx%d", sh[0], sh[1])}
		Label("shape" + b.tag)
		b.x = newStrided(x, ldx, b.rows)
		b.wl = newStrided(w, ldw, b.panels)
		if f == f8 {
			b.sl = newStrided(s, lds, b.panels)
		}
		b.emit()
		VZEROUPPER()
		RET()
	}
}

type panelBody struct {
	*isa
	f            format
	rows, panels int
	k, w, y, s   reg.GPVirtual
	ldy          reg.GPVirtual
	x, wl, sl    strided
	tag          string
}

// vecs is the number of registers per panel.
func (b *panelBody) vecs() int { return panelCols / b.lanes }

func (b *panelBody) acc(i, v int) int { return i*b.panels*b.vecs() + v }

// free returns the i-th register after the accumulators.
func (b *panelBody) free(i int) int { return b.acc(b.rows, 0) + i }

// at addresses register v of the panels in a stride layout: bytes per register.
func (b *panelBody) at(l strided, v, bytes int) Mem {
	m := l.row(v / b.vecs())
	m.Disp += v % b.vecs() * bytes
	return m
}

func (b *panelBody) walkY(load bool) {
	p := GP64()
	MOVQ(b.y, p)
	for i := range b.rows {
		for v := range b.panels * b.vecs() {
			m, r := Mem{Base: p, Disp: v * b.bytes()}, b.regs[b.acc(i, v)]
			if load {
				VMOVUPS(m, r)
			} else {
				VMOVUPS(r, m)
			}
		}
		if i < b.rows-1 {
			ADDQ(b.ldy, p)
		}
	}
}

// broadcast loads element off of every row of X to registers from free(first).
func (b *panelBody) broadcast(first, off int) {
	for i := range b.rows {
		m := b.x.row(i)
		m.Disp += 4 * off
		VBROADCASTSS(m, b.regs[b.free(first+i)])
	}
}

func (b *panelBody) emit() {
	b.walkY(true)
	done := "done" + b.tag
	switch b.f {
	case f32, pairs:
		TESTQ(b.k, b.k)
		JEQ(LabelRef(done))
		Label("k" + b.tag)
		b.broadcast(1, 0)
		for v := range b.panels * b.vecs() {
			VMOVUPS(b.at(b.wl, v, b.bytes()), b.regs[b.free(0)])
			for i := range b.rows {
				b.mulAdd(b.f, b.acc(i, v), b.free(0), b.free(1+i))
			}
		}
		ADDQ(U8(4), b.x.bases[0])
		ADDQ(U32(4*panelCols), b.w)
		DECQ(b.k)
		JNE(LabelRef("k" + b.tag))
	case bf16:
		b.emitBF16(done)
	case f8:
		b.emitF8(done)
	}
	Label(done)
	b.walkY(false)
}

// emitBF16 widens both halves of each pair: the even k by a shift, the odd one
// by a mask. A last single k uses the even half only.
func (b *panelBody) emitBF16(done string) {
	even, odd, mask, x := b.free(0), b.free(1), b.free(2), 3
	VMOVUPS(b.c(0xffff0000), b.regs[mask])
	n, last := GP64(), "last"+b.tag
	MOVQ(b.k, n)
	SHRQ(U8(1), n)
	JEQ(LabelRef(last))
	Label("k" + b.tag)
	b.broadcast(x, 0)
	b.broadcast(x+b.rows, 1)
	for v := range b.panels * b.vecs() {
		VMOVUPS(b.at(b.wl, v, b.bytes()), b.regs[odd])
		VPSLLD(U8(16), b.regs[odd], b.regs[even])
		b.and(b.regs[odd], b.regs[mask], b.regs[odd])
		for i := range b.rows {
			VFMADD231PS(b.regs[even], b.regs[b.free(x+i)], b.regs[b.acc(i, v)])
		}
		for i := range b.rows {
			VFMADD231PS(b.regs[odd], b.regs[b.free(x+b.rows+i)], b.regs[b.acc(i, v)])
		}
	}
	ADDQ(U8(8), b.x.bases[0])
	ADDQ(U32(4*panelCols), b.w)
	DECQ(n)
	JNE(LabelRef("k" + b.tag))
	Label(last)
	TESTQ(U32(1), b.k)
	JEQ(LabelRef(done))
	b.broadcast(x, 0)
	for v := range b.panels * b.vecs() {
		VMOVUPS(b.at(b.wl, v, b.bytes()), b.regs[odd])
		VPSLLD(U8(16), b.regs[odd], b.regs[even])
		for i := range b.rows {
			VFMADD231PS(b.regs[even], b.regs[b.free(x+i)], b.regs[b.acc(i, v)])
		}
	}
}

// emitF8 goes by scale blocks. Registers hold the scales, times f8Factor.
func (b *panelBody) emitF8(done string) {
	value, scale := b.free(0), 2
	x := scale + b.panels*b.vecs()
	n, block := GP64(), "block"+b.tag
	Label(block)
	TESTQ(b.k, b.k)
	JEQ(LabelRef(done))
	VMOVUPS(b.c(f8Factor), b.regs[value])
	for v := range b.panels * b.vecs() {
		VMULPS(b.at(b.sl, v, b.bytes()), b.regs[value], b.regs[b.free(scale+v)])
	}
	ADDQ(U32(4*panelCols), b.s)
	MOVQ(U32(128), n)
	CMPQ(b.k, n)
	CMOVQLT(b.k, n)
	SUBQ(n, b.k)
	Label("k" + b.tag)
	b.broadcast(x, 0)
	for v := 0; v < b.panels*b.vecs(); v += 2 {
		b.f8Pair(b.at(b.wl, v, b.lanes), value)
		for u := range 2 {
			VMULPS(b.regs[b.free(scale+v+u)], b.regs[value+u], b.regs[value+u])
			for i := range b.rows {
				VFMADD231PS(b.regs[value+u], b.regs[b.free(x+i)], b.regs[b.acc(i, v+u)])
			}
		}
	}
	ADDQ(U8(4), b.x.bases[0])
	ADDQ(U8(panelCols), b.w)
	DECQ(n)
	JNE(LabelRef("k" + b.tag))
	JMP(LabelRef(block))
}

// f8Factor makes up for the exponent bias of float16 in the bits of e4m3.
var f8Factor = math.Float32bits(0x1p8)

// f8Pair widens the e4m3 bytes of two registers' lanes to registers i and i+1,
// divided by f8Factor: exponent and mantissa go where float16 has them. (The
// way by float32 bits, 2^120 less, is shorter, but e4m3 subnormals are then
// float32 subnormals, whose products take Intel's processors 150 cycles.)
// NaN codes become ±480/2^8.
func (t *isa) f8Pair(m Mem, i int) {
	lo, hi, half := t.regs[i], t.regs[i+1], t.half(i+1)
	VPMOVSXBW(m, hi)
	VPSLLW(U8(7), hi, hi)
	t.and(t.c(0xbf80bf80), hi, hi)
	VCVTPH2PS(half, lo)
	if t.wide() {
		VEXTRACTI64X4(U8(1), hi, half)
	} else {
		VEXTRACTI128(U8(1), hi, half)
	}
	VCVTPH2PS(half, hi)
}

// half is the low half of register i.
func (t *isa) half(i int) reg.VecPhysical {
	if t.wide() {
		return t.regs[i].AsY().(reg.VecPhysical)
	}
	return t.regs[i].AsX().(reg.VecPhysical)
}

// unpack writes the kernels that widen a panel for the product of many rows.
func (t *isa) unpack() {
	vecs := panelCols / t.lanes
	TEXT("unpackBF16"+t.suffix, NOSPLIT, "func(pairs int, dst *float32, w *uint16)")
	Doc("unpackBF16" + t.suffix + " widens pairs > 0 pairs of k of a panel.")
	Pragma("noescape")
	n := Load(Param("pairs"), GP64())
	dst := Load(Param("dst"), GP64())
	w := Load(Param("w"), GP64())
	VMOVUPS(t.c(0xffff0000), t.regs[0])
	Label("loop")
	for v := range vecs {
		VMOVUPS(Mem{Base: w, Disp: v * t.bytes()}, t.regs[2])
		VPSLLD(U8(16), t.regs[2], t.regs[1])
		t.and(t.regs[2], t.regs[0], t.regs[2])
		VMOVUPS(t.regs[1], Mem{Base: dst, Disp: v * t.bytes()})
		VMOVUPS(t.regs[2], Mem{Base: dst, Disp: v*t.bytes() + 4*panelCols})
	}
	ADDQ(U32(4*panelCols), w)
	ADDQ(U32(8*panelCols), dst)
	DECQ(n)
	JNE(LabelRef("loop"))
	VZEROUPPER()
	RET()

	TEXT("unpackF8"+t.suffix, NOSPLIT, "func(k int, dst *float32, w *uint8, s *float32)")
	Doc("unpackF8" + t.suffix + " widens k > 0 rows of a panel within one scale block.")
	Pragma("noescape")
	n = Load(Param("k"), GP64())
	dst = Load(Param("dst"), GP64())
	w = Load(Param("w"), GP64())
	s := Load(Param("s"), GP64())
	VMOVUPS(t.c(f8Factor), t.regs[0])
	for v := range vecs {
		VMULPS(Mem{Base: s, Disp: v * t.bytes()}, t.regs[0], t.regs[2+v])
	}
	Label("loop")
	for v := 0; v < vecs; v += 2 {
		t.f8Pair(Mem{Base: w, Disp: v * t.lanes}, 0)
		for u := range 2 {
			VMULPS(t.regs[2+v+u], t.regs[u], t.regs[u])
			VMOVUPS(t.regs[u], Mem{Base: dst, Disp: (v + u) * t.bytes()})
		}
	}
	ADDQ(U8(panelCols), w)
	ADDQ(U32(4*panelCols), dst)
	DECQ(n)
	JNE(LabelRef("loop"))
	VZEROUPPER()
	RET()
}
