// Package kern holds the arithmetic kernels of the CPU backend: panels of
// matrix products, packed weights, and vector helpers, in four tiers of the
// same functions.
//
//	avx512-bf16  avx512 and VDPBF16PS
//	avx512       AVX-512 F, BW, DQ, VL
//	avx2         AVX2, FMA, F16C, BMI
//	generic      Go, every platform
//
// [Select] returns the tier that a machine takes by itself, or a named one; the
// environment variable LATENT_CPU_TIER names one for tests. The assembly is
// written by the generator in gen (a module of its own, so that the engine does
// not depend on avo); `go generate` repeats it.
//
// What this package is not: it knows no tensors, threads or caches, it
// allocates nothing per call, and it blocks for no cache but the registers.
// Package cpu does that. It imports the standard library, golang.org/x/sys/cpu
// and package device (number formats).
//
// # Panels
//
// A product works on [N] = 32 columns at a time. A weight [out, in] is stored as
// ⌈out/32⌉ panels, one after another; a panel holds, for each k in 0..in-1, the
// values of its 32 outputs, with zeros for outputs past the end:
//
//	f32   [K][32]float32
//	bf16  [⌈K/2⌉][32][2]uint16, pairs of k (an odd K ends in a zero)
//	f8    [K][32]uint8 e4m3, with scales [⌈K/128⌉][32]float32
//
// # One chain per element
//
// Every element of a float32 product is one sequential chain
// acc = fma(a, b, acc) over k, started from the value that was in C. So a result
// depends neither on how many rows are computed at once, nor on blocking of
// rows, nor on where the caller splits k: a row computed alone for decoding has
// the bits of the same row inside a prefill. The Panel functions compute the
// chain of the dequantised panel. (The generic tier rounds the product before
// the sum, on every platform; its results differ from the others in the last
// bits.) GemmBF16 has the same property over pairs of k.
//
// The order of summation in a vector helper depends on the length only, never
// on alignment.
package kern
