package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// format is what a kernel multiplies.
type format int

const (
	f32   format = iota
	bf16         // widened bf16 pairs
	f8           // widened e4m3 times scales
	pairs        // bf16 pairs on both sides, VDPBF16PS
)

func (f format) String() string { return [...]string{"F32", "BF16", "F8", "Pairs"}[f] }

// elem is the Go type of the elements of an operand in this format.
func (f format) elem() string { return [...]string{"float32", "uint16", "uint8", "uint16"}[f] }

// strided addresses rows i of a base with a stride in bytes, out of three base
// registers and two index registers, which are fewer than a register per row.
type strided struct {
	bases [3]reg.GPVirtual // rows 0, 5, 10
	s, s3 reg.GPVirtual    // stride, three strides
}

func newStrided(base, stride reg.GPVirtual, rows int) strided {
	a := strided{s: stride, s3: GP64()}
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, a.s3)
	a.bases[0] = base
	for i := 1; 5*i < rows; i++ {
		a.bases[i] = GP64()
		LEAQ(Mem{Base: a.bases[i-1], Index: stride, Scale: 4}, a.bases[i])
		ADDQ(stride, a.bases[i])
	}
	return a
}

func (a strided) row(i int) Mem {
	for b := range a.bases {
		switch d := i - 5*b; d {
		case 0:
			return Mem{Base: a.bases[b]}
		case 1, 2, 4, 8:
			return Mem{Base: a.bases[b], Index: a.s, Scale: uint8(d)}
		case 3, 6, 12:
			return Mem{Base: a.bases[b], Index: a.s3, Scale: uint8(d / 3)}
		}
	}
	panic(fmt.Sprintf("gen: no address for row %d", i))
}

func (a strided) advance(by Op, rows int) {
	for i := 0; i == 0 || 5*i < rows; i++ {
		ADDQ(by, a.bases[i])
	}
}

// gemm writes the register tile: m rows, 1 <= m <= maxRows, by two registers of
// columns (AVX2 with a mask: one register).
//
// The accumulators start from C, and every k adds one fma to each.
func (t *isa) gemm(name string, f format, maxRows int, masked bool) {
	ptr, n := "*float32", ""
	if f == pairs {
		ptr = "*uint32"
	}
	if masked {
		n = "n, "
	}
	cols := 2
	if masked && !t.wide() {
		cols = 1
	}
	TEXT(name, NOSPLIT, fmt.Sprintf("func(m, %sk int, a %s, ars, aks int, b %s, ldb int, c *float32, ldc int)", n, ptr, ptr))
	Doc(fmt.Sprintf("%s adds A·B to C for m <= %d rows of %d columns; strides in bytes.", name, maxRows, cols*t.lanes))
	Pragma("noescape")
	m := Load(Param("m"), GP64()).(reg.GPVirtual)
	k := Load(Param("k"), GP64()).(reg.GPVirtual)
	a := Load(Param("a"), GP64()).(reg.GPVirtual)
	ars := Load(Param("ars"), GP64()).(reg.GPVirtual)
	aks := Load(Param("aks"), GP64()).(reg.GPVirtual)
	b := Load(Param("b"), GP64()).(reg.GPVirtual)
	ldb := Load(Param("ldb"), GP64()).(reg.GPVirtual)
	c := Load(Param("c"), GP64()).(reg.GPVirtual)
	ldc := Load(Param("ldc"), GP64()).(reg.GPVirtual)
	if masked {
		n := Load(Param("n"), GP64()).(reg.GPVirtual)
		if t.wide() { // 32 bits of mask in two halves
			bits := GP64()
			MOVQ(I32(-1), bits)
			BZHIQ(n, bits, bits)
			KMOVW(bits.As32(), reg.K1)
			SHRQ(U8(16), bits)
			KMOVW(bits.As32(), reg.K2)
		} else {
			t.mask(n)
		}
	}
	move := func(from, to Op, j int, load bool) {
		switch {
		case !masked:
			VMOVUPS(from, to)
		case !t.wide() && load:
			VMASKMOVPS(from, reg.Y15, to)
		case !t.wide():
			VMASKMOVPS(from, reg.Y15, to)
		case load:
			VMOVUPS_Z(from, []reg.OpmaskPhysical{reg.K1, reg.K2}[j], to)
		default:
			VMOVUPS(from, []reg.OpmaskPhysical{reg.K1, reg.K2}[j], to)
		}
	}
	for rows := maxRows; rows > 1; rows-- {
		CMPQ(m, U8(rows))
		JEQ(LabelRef(fmt.Sprintf("rows%d", rows)))
	}
	for rows := 1; rows <= maxRows; rows++ {
		Label(fmt.Sprintf("rows%d", rows))
		acc := func(i, j int) int { return i*cols + j }
		bj := func(j int) int { return rows*cols + j }
		// AVX2 has one register left for broadcasts, or two; AVX-512 has two.
		spare := len(t.regs) - (rows+1)*cols
		if masked && !t.wide() {
			spare--
		}
		bcast := func(i int) int { return (rows+1)*cols + i%min(spare, 2) }

		walk := func(load bool) {
			p := GP64()
			MOVQ(c, p)
			for i := range rows {
				for j := range cols {
					at := Mem{Base: p, Disp: t.bytes() * j}
					if load {
						move(at, t.regs[acc(i, j)], j, true)
					} else {
						move(t.regs[acc(i, j)], at, j, false)
					}
				}
				if i < rows-1 {
					ADDQ(ldc, p)
				}
			}
		}
		walk(true)
		TESTQ(k, k)
		JEQ(LabelRef(fmt.Sprintf("store%d", rows)))
		addr := newStrided(a, ars, rows)
		Label(fmt.Sprintf("k%d", rows))
		for j := range cols {
			move(Mem{Base: b, Disp: t.bytes() * j}, t.regs[bj(j)], j, true)
		}
		ADDQ(ldb, b)
		for i := range rows {
			VBROADCASTSS(addr.row(i), t.regs[bcast(i)])
			for j := range cols {
				t.mulAdd(f, acc(i, j), bcast(i), bj(j))
			}
		}
		addr.advance(aks, rows)
		DECQ(k)
		JNE(LabelRef(fmt.Sprintf("k%d", rows)))
		Label(fmt.Sprintf("store%d", rows))
		walk(false)
		VZEROUPPER()
		RET()
	}
}

// gemmPanels writes the register tile for A in panels of 32 columns, whose rows
// are 128 bytes apart: m <= 28/cols rows by cols registers of columns, masked.
// With one register the broadcasts are part of the fmas.
func (t *isa) gemmPanels(name string, cols int) {
	maxRows := 28 / cols
	TEXT(name, NOSPLIT, "func(m, n, k int, a *float32, lda int, b *float32, ldb int, c *float32, ldc int)")
	Doc(fmt.Sprintf("%s adds A·B to C for m <= %d rows of n <= %d columns, A in panels; strides in bytes.", name, maxRows, cols*t.lanes))
	Pragma("noescape")
	load := func(p string) reg.GPVirtual { return Load(Param(p), GP64()).(reg.GPVirtual) }
	m, n, k, a, lda, b, ldb, c, ldc := load("m"), load("n"), load("k"), load("a"), load("lda"), load("b"), load("ldb"), load("c"), load("ldc")
	masks := []reg.OpmaskPhysical{reg.K1, reg.K2}
	bits := GP64()
	MOVQ(I32(-1), bits)
	BZHIQ(n, bits, bits)
	for j := range cols {
		KMOVW(bits.As32(), masks[j])
		SHRQ(U8(16), bits)
	}
	for rows := maxRows; rows > 1; rows-- {
		CMPQ(m, U8(rows))
		JEQ(LabelRef(fmt.Sprintf("rows%d", rows)))
	}
	for rows := 1; rows <= maxRows; rows++ {
		Label(fmt.Sprintf("rows%d", rows))
		p := GP64()
		MOVQ(c, p)
		for i := range rows {
			for j := range cols {
				VMOVUPS_Z(Mem{Base: p, Disp: t.bytes() * j}, masks[j], t.regs[i*cols+j])
			}
			if i < rows-1 {
				ADDQ(ldc, p)
			}
		}
		panel, step, left := fmt.Sprintf("panel%d", rows), fmt.Sprintf("k%d", rows), GP64()
		Label(panel)
		MOVQ(U32(panelCols), left)
		CMPQ(k, left)
		CMOVQLT(k, left)
		SUBQ(left, k)
		MOVQ(a, p)
		ADDQ(lda, a)
		Label(step)
		bj := t.regs[rows*cols : (rows+1)*cols]
		for j := range cols {
			VMOVUPS_Z(Mem{Base: b, Disp: t.bytes() * j}, masks[j], bj[j])
		}
		ADDQ(ldb, b)
		for i := range rows {
			at := Mem{Base: p, Disp: 4 * panelCols * i}
			if cols == 1 {
				VFMADD231PS_BCST(at, bj[0], t.regs[i])
				continue
			}
			x := t.regs[(rows+1)*cols+i%2]
			VBROADCASTSS(at, x)
			for j := range cols {
				VFMADD231PS(x, bj[j], t.regs[i*cols+j])
			}
		}
		ADDQ(U8(4), p)
		DECQ(left)
		JNE(LabelRef(step))
		TESTQ(k, k)
		JNE(LabelRef(panel))
		for i := range rows {
			for j := range cols {
				VMOVUPS(t.regs[i*cols+j], masks[j], Mem{Base: c, Disp: t.bytes() * j})
			}
			if i < rows-1 {
				ADDQ(ldc, c)
			}
		}
		VZEROUPPER()
		RET()
	}
}

// mulAdd emits register d += a·b.
func (t *isa) mulAdd(f format, d, a, b int) {
	if f == pairs {
		vdpbf16ps(d, a, b)
		return
	}
	VFMADD231PS(t.regs[a], t.regs[b], t.regs[d])
}
