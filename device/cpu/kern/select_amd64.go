package kern

//go:generate go run -C gen . -isa avx512 -out ../avx512_amd64.s -stubs ../avx512_amd64.go -pkg kern
//go:generate go run -C gen . -isa avx512bf16 -out ../avx512bf16_amd64.s -stubs ../avx512bf16_amd64.go -pkg kern
//go:generate go run -C gen . -isa avx2 -out ../avx2_amd64.s -stubs ../avx2_amd64.go -pkg kern

import "golang.org/x/sys/cpu"

// tiers asks x/sys/cpu, which reports an extension only if the operating system
// saves its registers.
func tiers() []*Kernels {
	var ts []*Kernels
	has := &cpu.X86
	avx2 := has.HasAVX2 && has.HasFMA && has.HasF16C && has.HasBMI1 && has.HasBMI2 && has.HasPOPCNT
	avx512 := avx2 && has.HasAVX512F && has.HasAVX512BW && has.HasAVX512DQ && has.HasAVX512VL
	if avx512 {
		ts = append(ts, x86{avx512: true}.kernels("avx512"))
	}
	// Behind avx512: on Sapphire Rapids, whose VDPBF16PS has the rate of two
	// float32 fmas, a prefill with it took 1.5 times as long, and it rounds
	// activations.
	if avx512 && has.HasAVX512BF16 {
		t := x86{avx512: true}.kernels("avx512-bf16")
		t.GemmBF16 = gemmBF16
		ts = append(ts, t)
	}
	if avx2 {
		ts = append(ts, x86{}.kernels("avx2"))
	}
	return append(ts, generic())
}

// x86 holds the functions of the AVX-512 and AVX2 tiers: they check lengths,
// cut the work to the shapes that the assembly has, and call it directly, so
// that buffers stay on the stack.
type x86 struct{ avx512 bool }

func (t x86) kernels(name string) *Kernels {
	k := &Kernels{Tier: name, Rows: t.rows()}
	k.Gemm, k.GemmN, k.GemmPanels = t.gemm, t.gemmN, t.gemmPanels
	k.PanelF32, k.PanelBF16, k.PanelF8 = t.panelF32, t.panelBF16, t.panelF8
	k.UnpackBF16, k.UnpackF8 = t.unpackBF16, t.unpackF8
	t.vectors(k)
	return k
}
