package device

// Draw says how a token is chosen from a row of logits. What the fields mean is
// said by package sample, whose results a device reproduces up to rounding.
type Draw struct {
	Temperature float64 // 0 takes the most likely token
	TopP, MinP  float64
	TopK        int32   // 0: all
	Vocabulary  int32   // logits from here on take no part
	Uniform     float64 // random number in [0, 1)
}

// Sampler is implemented by devices that choose tokens themselves, so that
// logits need not come to the host. It is an extension of [Device].
type Sampler interface {
	// Sample writes to ids I32 [n, 1] a token for each row of logits F32 [n, V];
	// draws[i] says how. It writes −1 where package sample reports an error: a
	// NaN, +Inf, or nothing finite among the logits. A captured step reads draws
	// again at every replay.
	Sample(ids, logits Tensor, draws []Draw)
}
