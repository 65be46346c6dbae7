package kern

func tiers() []*Kernels { return []*Kernels{generic()} }
