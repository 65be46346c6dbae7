package cpu_test

import (
	"testing"

	"latent/device"
	"latent/device/cpu"
	"latent/device/cpu/kern"
	"latent/device/devicetest"
)

// TestConformance runs the suite of all backends on every tier of this machine.
// Tiers differ in kernels only, so bfloat16 arithmetic, which is a matter of
// packing unless the tier has instructions for it, is left to the best tier.
func TestConformance(t *testing.T) {
	for i, tier := range kern.Available() {
		t.Run(tier, func(t *testing.T) {
			opts := devicetest.Options{BatchInvariant: true}
			if i > 0 {
				opts.Arithmetic = devicetest.DefaultArithmetic()[:1]
			}
			devicetest.Run(t, opts, func(t testing.TB) device.Device {
				dev, err := cpu.New(cpu.Options{Threads: 2, Tier: tier})
				if err != nil {
					t.Fatal(err)
				}
				return dev
			})
		})
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := cpu.New(cpu.Options{Tier: "avx1024"}); err == nil {
		t.Error("a tier that does not exist was accepted")
	}
	if _, err := cpu.New(cpu.Options{Threads: -1}); err == nil {
		t.Error("-1 threads were accepted")
	}
}
