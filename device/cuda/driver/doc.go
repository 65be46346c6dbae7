// Package driver calls CUDA from Go without cgo: it finds NVIDIA's libraries at
// run time, compiles kernels (NVRTC), and queues kernels and copies on a GPU.
//
// What this package is not: it knows no tensor, no model and no kernel; it
// never chooses a device by itself. It imports the standard library and purego.
//
// # Libraries
//
// A binary is built without CUDA and starts without it. [OpenCUDA] opens the
// driver's libcuda, [OpenNVRTC] the compiler, which needs no GPU, and [OpenBLAS]
// cuBLASLt. [Search] says where they are looked for. What is missing comes back
// as a [*LibraryError], which names what was tried; errors.Is tells
// [ErrUnsupported], [ErrNoDriver] and [ErrNoLibrary] apart. CUDA is supported on
// Linux on amd64 and arm64; on other platforms the package builds and every
// Open returns ErrUnsupported.
//
// # The executor
//
// A CUDA context is bound to a thread, and goroutines move between threads. So
// all calls for a device are made by one goroutine, locked to its thread, that
// owns the device's primary context and one stream: the [Executor]. Its methods
// put commands into a ring of fixed size, parameters copied inline, and return.
//
//	caller:    Launch ─┐                      (a copy of the parameter: 150 ns)
//	                   ▼
//	ring:      ■ ■ ■ ■ ■ ■ □ □ □              (ringSize commands, no allocation)
//	                   │
//	executor:          └─► cuLaunchKernel     (3 µs each)
//	                           │
//	GPU:                       └─► kernels in stream order
//
// The obvious alternative, LockOSThread in the caller, would make the goroutine
// that runs the model pay for every launch, and every switch away from it cost a
// thread switch. With the ring, the model's Go code for one layer runs while the
// launches of the layer before are being made.
//
// Commands run in the order they were queued. The first that fails makes the
// executor drop what follows, until [Executor.Sync] returns the error; so a step
// can be queued blindly and looked at once. A kernel's own failure (an illegal
// address) is seen by the next call that CUDA makes, so the error may name a
// later kernel: with LATENT_CUDA_SYNC=1 every launch is waited for.
//
// An executor that ran out of commands spins for a while before it sleeps,
// because a burst of launches would otherwise wake a thread for each. Who waits
// for the device does so on his own thread, so that nobody has to wake him, and
// the executor stays awake for what comes next, for some milliseconds. Both keep
// a CPU busy while a step runs; an idle device keeps none busy.
//
// # Graphs
//
// [Executor.Capture] records what is queued into a [Graph] that is launched as
// one command. Whatever would wait for the device is an error in a capture.
package driver
