// Package kernels holds the CUDA sources of the backend and turns them into
// machine code with NVRTC.
//
// A .cu file says itself what is made of it, one directive a unit:
//
//	//latent:unit NAME [hot] [MACRO=VALUE...]
//
// Each unit is compiled to a module of its own, with common.cuh and wgmma.cuh
// in front of the file and `#include "x.cuh"` lines replaced by the files of
// this folder. The kernels of a "hot" unit must not spill registers; a test
// compiles all units and says so. Compiled modules are kept on disk under a key
// of everything that went into them.
//
// A kernel takes one struct by value as its only parameter; package cuda mirrors
// it in Go. wgmma.cuh is generated: go generate.
//
// What this package is not: it launches nothing and needs no GPU. It knows NVRTC
// as a Compiler, and imports no other package of the module.
package kernels

//go:generate go run ./gen
