// Package pathway plans attention: it turns the geometry of a step into
// segments, each computed on the cheapest pathway that gives exactly the
// model's function, and can explain why.
//
//	Extent (policy.go)          one sequence's rows, and who decides about them
//	Calibration, Fit, Estimate  what each part of the work costs on a device
//	Planner.Plan                cuts, prices (cost.go), chooses (solve.go), says why (segments.go)
//	Plan                        segments, and waves of K/V expansion (waves.go)
//	Planner.Explain             the decisions, and what other policies would take
//
// It knows numbers only: no tensors, no device, no model. It does not measure,
// and it does not decide when index keys and latents are stored: they are, for
// every new token, whatever the pathway. It imports nothing but the standard
// library, so that a plan can be made, tested and explained without a model or
// a GPU.
package pathway
