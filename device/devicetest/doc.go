// Package devicetest is the conformance suite that every compute backend
// passes: it calls each operation of a [device.Device] with random ragged
// batches and compares the results with plain float64 Go.
//
// The files spec_*.go are those float64 references. They are written from the
// formulas of the models (docs of package device), one row, one head and one
// key at a time, and call no code of a backend: read them as the specification
// of the operations in code. The files check_*.go draw inputs and compare.
//
// A check judges an error relative to the size of the terms an output is made
// of, not to the output alone, so that cancellation needs no looser tolerance.
// Where a result is rounded to a narrow format (FP8 and bfloat16 caches), the
// inputs are drawn again until float32 arithmetic cannot change the rounding;
// the stored value must then be exact. Outputs start as a NaN pattern with
// guard rows around them, so that writing too much or too little is seen.
//
// Use it from a backend's test:
//
//	func TestConformance(t *testing.T) {
//		devicetest.Run(t, devicetest.Options{BatchInvariant: true}, open)
//	}
//
// What this package is not: it measures no speed and knows no model. It
// imports package device and the standard library only.
package devicetest
