package devicetest

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime/debug"
	"testing"

	"latent/device"
)

// Options say what a backend promises. The zero value asks for everything but
// batch invariance: both arithmetic types and all cache formats.
type Options struct {
	// Seed repeats an earlier run; 0 draws a new seed. Failures print it.
	Seed uint64
	// Arithmetic lists the arithmetic types to run. Default:
	// DefaultArithmetic.
	Arithmetic []Arithmetic
	// Caches lists the cache formats to run. Default: all.
	Caches []device.CacheFormat
	// BatchInvariant also checks that the result of a row is the same bit for
	// bit whatever other rows and sequences a call holds.
	BatchInvariant bool
	// OpaqueIndexQuery says that queries and weights have a form of the
	// backend's own between IndexQuery and IndexScores. They are then read
	// through the scores of known keys instead of from their tensors.
	OpaqueIndexQuery bool
}

// Arithmetic is an arithmetic type with the errors it is allowed.
type Arithmetic struct {
	Type device.DType
	// Tolerance is the largest error of an output, relative to the size of the
	// terms it is made of (the root of the sum of their squares for a dot
	// product).
	Tolerance float64
	// F8Tolerance is that of Linear and MoE with FP8 weights, for a backend that
	// rounds the inputs of such products to FP8, too. 0 stands for Tolerance.
	F8Tolerance float64
}

// DefaultArithmetic is float32 within 2e-5, and bfloat16 within 2^-6.
func DefaultArithmetic() []Arithmetic {
	return []Arithmetic{{Type: device.F32, Tolerance: 2e-5}, {Type: device.BF16, Tolerance: 1.0 / 64}}
}

// Check is one check of one operation (or of several that belong together).
type Check struct {
	Name       string // Operation/arithmetic[/cache format]
	run        func(*env) error
	arithmetic Arithmetic
	format     device.CacheFormat
	opaque     bool
}

// Run runs all checks as subtests against the device that open makes, and
// closes it.
func Run(t *testing.T, opts Options, open func(testing.TB) device.Device) {
	seed := opts.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	dev := open(t)
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if said := dev.Info().BatchInvariant; said != opts.BatchInvariant {
		t.Errorf("the device says that it is batch invariant: %t; the test expects %t", said, opts.BatchInvariant)
	}
	for _, c := range Checks(opts) {
		t.Run(c.Name, func(t *testing.T) {
			if err := c.Run(dev, seed); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

// Checks lists the checks for opts.
func Checks(opts Options) []Check {
	if opts.Arithmetic == nil {
		opts.Arithmetic = DefaultArithmetic()
	}
	if opts.Caches == nil {
		opts.Caches = []device.CacheFormat{device.CacheF32, device.CacheBF16, device.CacheF8}
	}
	var checks []Check
	for _, op := range operations() {
		if op.invariance && !opts.BatchInvariant {
			continue
		}
		for _, a := range opts.Arithmetic {
			c := Check{op.name + "/" + a.Type.String(), op.run, a, opts.Caches[0], opts.OpaqueIndexQuery}
			if !op.cached {
				checks = append(checks, c)
				continue
			}
			for _, c.format = range opts.Caches {
				c.Name = op.name + "/" + a.Type.String() + "/" + c.format.String()
				checks = append(checks, c)
			}
		}
	}
	return checks
}

// Run runs the check with random inputs drawn from seed and the check's name. A
// panic of the device is an error, too.
func (c Check) Run(dev device.Device, seed uint64) (err error) {
	name := fnv.New64a()
	name.Write([]byte(c.Name))
	e := &env{
		dev: dev, rng: rand.New(rand.NewPCG(seed, name.Sum64())),
		arithmetic: c.arithmetic.Type, act: dev.Activation(c.arithmetic.Type),
		tolerance: c.arithmetic.Tolerance, f8Tolerance: cmp.Or(c.arithmetic.F8Tolerance, c.arithmetic.Tolerance),
		format: c.format, opaque: c.opaque,
	}
	defer e.release()
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			err = r.error
		default:
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	if err := c.run(e); err != nil {
		return err
	}
	return dev.Sync()
}

// operation is an entry of the suite.
type operation struct {
	name       string
	run        func(*env) error
	cached     bool // depends on the cache format
	invariance bool // a check of batch invariance
}

func operations() []operation {
	return []operation{
		{name: "Memory", run: checkMemory},
		{name: "Activation", run: checkActivation},
		{name: "Stopwatch", run: checkStopwatch},
		{name: "Embed", run: checkEmbed},
		{name: "Gather", run: checkGather},
		{name: "RMSNorm", run: checkRMSNorm},
		{name: "SwiGLU", run: checkSwiGLU},
		{name: "Linear", run: checkLinear},
		{name: "Route", run: checkRoute},
		{name: "RouteVectors", run: checkRouteVectors},
		{name: "MoE", run: checkMoE},
		{name: "RopeQuery", run: checkRopeQuery},
		{name: "RopeVectors", run: checkRopeVectors},
		{name: "Cache", run: checkCache, cached: true},
		{name: "StoreLatent", run: checkStoreLatent, cached: true},
		{name: "IndexQuery", run: checkIndexQuery, cached: true},
		{name: "IndexScores", run: checkIndexScores, cached: true},
		{name: "SelectTopK", run: checkSelectTopK},
		{name: "MHA", run: checkMHA, cached: true},
		{name: "MLA", run: checkMLA, cached: true},
		{name: "Absorb", run: checkAbsorb},
		{name: "Unabsorb", run: checkUnabsorb},
		{name: "MergeLSE", run: checkMergeLSE},
		{name: "KeyChunks", run: checkKeyChunks, cached: true},
		{name: "Pathways", run: checkPathways, cached: true},

		{name: "BatchInvariant/Rows", run: checkInvariantRows, invariance: true},
		{name: "BatchInvariant/Linear", run: checkInvariantLinear, invariance: true},
		{name: "BatchInvariant/MoE", run: checkInvariantMoE, invariance: true},
		{name: "BatchInvariant/Attention", run: checkInvariantAttention, cached: true, invariance: true},
		{name: "BatchInvariant/Cache", run: checkInvariantCache, cached: true, invariance: true},
	}
}
