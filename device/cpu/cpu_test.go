package cpu_test

import (
	"testing"

	"latent/device"
	"latent/device/cpu"
	"latent/device/cpu/kern"
	"latent/device/devicetest"
)

// TestConformance runs the suite of all backends on every tier of this machine.
func TestConformance(t *testing.T) {
	for _, tier := range kern.Available() {
		t.Run(tier, func(t *testing.T) {
			devicetest.Run(t, devicetest.Options{BatchInvariant: true}, func(t testing.TB) device.Device {
				dev, err := cpu.New(cpu.Options{Threads: 2, Tier: tier})
				if err != nil {
					t.Fatal(err)
				}
				return dev
			})
		})
	}
}
