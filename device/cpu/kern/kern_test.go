package kern

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// eachTier runs f on every tier of the machine, with a printed random seed.
func eachTier(t *testing.T, f func(t *testing.T, k *Kernels, r *rand.Rand)) {
	seed := uint64(time.Now().UnixNano())
	for _, name := range Available() {
		t.Run(name, func(t *testing.T) {
			k, err := Select(name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			})
			f(t, k, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

// poison is a NaN with a pattern that no kernel makes.
var poison = math.Float32frombits(0x7fdead42)

// guard makes a slice of n elements inside a larger array of poison, and a
// function that fails the test if the surroundings have changed.
func guard[T float32 | uint16 | uint8 | uint32 | int32](t *testing.T, name string, n int, bad T) ([]T, func()) {
	const margin = 80
	all := make([]T, n+2*margin)
	for i := range all {
		all[i] = bad
	}
	before := append([]T(nil), all...)
	return all[margin : margin+n : margin+n], func() {
		t.Helper()
		for i := range all {
			if (i < margin || i >= margin+n) && !same(all[i], before[i]) {
				t.Fatalf("%s: element %d of %d was written", name, i-margin, n)
			}
		}
	}
}

func same[T comparable](a, b T) bool {
	if x, ok := any(a).(float32); ok {
		return math.Float32bits(x) == math.Float32bits(any(b).(float32))
	}
	return a == b
}

// normal fills a guarded slice with normal variates.
func normal(t *testing.T, r *rand.Rand, name string, n int) ([]float32, func()) {
	x, check := guard(t, name, n, poison)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x, check
}

// fma32 is the float32 fused multiply-add: the product is exact in float64, the
// sum is rounded to odd there, and then once to float32.
func fma32(a, b, c float32) float32 {
	p, d := float64(a)*float64(b), float64(c)
	s := p + d
	v := s - p
	e := (p - (s - v)) + (d - v)
	if bits := math.Float64bits(s); e != 0 && bits&1 == 0 {
		if (e > 0) == (s > 0) {
			bits++
		} else {
			bits--
		}
		s = math.Float64frombits(bits)
	}
	return float32(s)
}

// chain is one step of a product in a tier.
func chain(k *Kernels, a, b, c float32) float32 {
	if k.Tier == "generic" {
		p := a * b
		return p + c
	}
	return fma32(a, b, c)
}

func equalBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: element %d is %v (%08x), want %v (%08x)", what, i,
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

func TestSelect(t *testing.T) {
	names := Available()
	if last := names[len(names)-1]; last != "generic" {
		t.Errorf("the last tier is %q, want generic", last)
	}
	for _, name := range names {
		k, err := Select(name)
		if err != nil || k.Tier != name {
			t.Errorf("Select(%q) = %v, %v", name, k, err)
		}
		t.Setenv(TierEnv, name)
		if k, err := Select(""); err != nil || k.Tier != name {
			t.Errorf("%s=%s selects %v, %v", TierEnv, name, k, err)
		}
	}
	t.Setenv(TierEnv, "")
	if k, err := Select(""); err != nil || k.Tier != names[0] {
		t.Errorf("Select of the best is %v, %v; want %s", k, err, names[0])
	}
	t.Setenv(TierEnv, "sse9")
	_, err := Select("")
	if err == nil || !strings.Contains(err.Error(), TierEnv) || !strings.Contains(err.Error(), strings.Join(names, ", ")) {
		t.Errorf("an unknown tier gives %v; want the variable and the tiers that there are", err)
	}
}
