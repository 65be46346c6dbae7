// Package engine runs requests on a model: continuous batching with chunked
// prefill, admission by memory, preemption and resumption, cancellation, and
// streams of events that a slow reader cannot hold up.
//
// The way through it: [Engine.Submit] (engine.go) checks a request and hands it
// to the loop (loop.go), which is four verbs: add takes in what was submitted
// or cancelled, schedule (schedule.go) chooses the rows of a step and their
// pages, run plans their attention and calls the model, postprocess (finish.go)
// samples, turns tokens into text and sends events (stream.go). A request's
// state is in request.go, one choice's in sequence.go. [Evaluate] (evaluate.go)
// runs prompts past all that, for tests and inspection.
//
// The package knows no HTTP, no chat format and no checkpoint: prompts are
// token ids, a stop is a string or an id, and the model is a [Forwarder]. It
// imports model (for the batch it fills), kvcache, pathway, sample and device.
package engine
