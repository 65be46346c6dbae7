// Package pathway plans attention: it turns the geometry of a step into
// segments, each computed on the cheapest pathway that gives exactly the
// model's function, and can explain why.
//
// It knows numbers only: no tensors, no device, no model. It imports nothing
// but the standard library, so that a plan can be made, tested and explained
// without a model or a GPU.
package pathway
