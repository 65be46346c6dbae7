package device

// Buffered is a device whose operations keep memory of their own, besides what
// they are given: it grows with the largest step. See [Device] for the rest.
type Buffered interface {
	Device
	// ScratchBytes returns how much that is now.
	ScratchBytes() int64
}
