// Command gen writes the assembly of package kern with avo, one file per
// instruction set:
//
//	go run . -isa avx512 -out ../avx512_amd64.s -stubs ../avx512_amd64.go -pkg kern
//
// Vector registers are physical throughout: VDPBF16PS is in no assembler table
// here and goes out as raw bytes, which a register allocator does not see.
package main

import (
	"flag"
	"log"

	. "github.com/mmcloughlin/avo/build"
)

func main() {
	name := flag.String("isa", "", "avx512, avx512bf16 or avx2")
	flag.Parse()
	ConstraintExpr("amd64")
	switch *name {
	case "avx512":
		t := avx512()
		t.gemm("gemmAVX512", f32, 14, false)
		t.gemm("gemmNAVX512", f32, 14, true)
		t.gemmPanels("gemmPanels16AVX512", 1)
		t.gemmPanels("gemmPanels32AVX512", 2)
		for _, f := range []format{f32, bf16, f8} {
			t.panel(f, "AVX512", [][2]int{{1, 4}, {1, 2}, {1, 1}, {2, 2}, {2, 1}, {3, 2}, {3, 1}, {4, 2}, {4, 1}})
		}
		t.unpack()
		t.vectors()
	case "avx512bf16":
		t := avx512()
		t.gemm("gemmPairsAVX512", pairs, 14, false)
		t.panel(pairs, "AVX512", [][2]int{{1, 4}, {1, 2}, {1, 1}, {2, 2}, {2, 1}, {3, 2}, {3, 1}, {4, 2}, {4, 1}})
	case "avx2":
		t := avx2()
		t.gemm("gemmAVX2", f32, 6, false)
		t.gemm("gemmNAVX2", f32, 6, true)
		t.panel(f32, "AVX2", [][2]int{{1, 2}, {1, 1}, {2, 1}})
		t.panel(bf16, "AVX2", [][2]int{{1, 2}, {1, 1}, {2, 1}})
		t.panel(f8, "AVX2", [][2]int{{1, 1}, {2, 1}})
		t.unpack()
		t.vectors()
		t.transpose()
	default:
		log.Fatalf("gen: unknown -isa %q", *name)
	}
	Generate()
}
