//go:build !amd64

package kern

func tiers() []*Kernels { return []*Kernels{generic()} }
