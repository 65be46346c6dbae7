package kern

import (
	"fmt"
	"os"
	"strings"
)

// TierEnv is the environment variable that forces a tier.
const TierEnv = "LATENT_CPU_TIER"

// Available returns the names of the tiers that run on this machine, the one
// that is taken by itself first.
func Available() []string {
	var names []string
	for _, t := range tiers() {
		names = append(names, t.Tier)
	}
	return names
}

// Select returns the tier called name. An empty name means the one that
// LATENT_CPU_TIER names, or the first of Available.
func Select(name string) (*Kernels, error) {
	from := "kern: tier"
	if name == "" {
		name, from = os.Getenv(TierEnv), "kern: "+TierEnv
	}
	for _, t := range tiers() {
		if name == "" || t.Tier == name {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%s %q is not available on this machine; available: %s",
		from, name, strings.Join(Available(), ", "))
}
