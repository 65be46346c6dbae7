// Package cuda is the backend for NVIDIA Hopper GPUs: package device's
// operations as CUDA kernels, without cgo.
//
// What this package is not: it plans no pathways and knows no model. It imports
// packages device, device/cuda/driver (the driver, NVRTC and cuBLASLt by dlopen)
// and device/cuda/kernels (the sources and their compilation).
//
// # Order and errors
//
// All work goes to one stream, in the order of the calls, through the queue of
// the driver's executor. Operations do not wait and return no error: the first
// error stays and comes out of Sync or Download. Nothing is allocated on the
// device in steady state; buffers of the backend itself (scratch.go) grow only.
//
// # Arithmetic
//
// Activations are bfloat16, sums float32. Weights are kept in bfloat16, or in
// e4m3 with a scale for every 128x128 block where checkpoint and shapes allow.
// The cache is bfloat16 or e4m3. Float32 arithmetic is refused.
//
// # Geometry
//
// Kernels read the geometry of a step (positions, cache slots, page tables,
// lists of runs) from device memory: geometry.go uploads it once a step,
// whatever the number of layers. That is also what makes a captured step
// (capture.go) usable again: its kernels and addresses stay, the geometry
// changes.
//
// # Shapes
//
// Operations that matter have a kernel for the dimensions of the DeepSeek and
// GLM families, written for the machine (TMA, wgmma), and a generic one for
// any dimensions, which is also what the fast one is tested against.
package cuda
