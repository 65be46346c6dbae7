package checkpoint

import "latent/device"

// Tensor is a stored tensor. Data is little-endian and row-major; it may be a
// mapping of a file and must not be written to.
type Tensor struct {
	Name  string
	Type  device.DType
	Shape []int
	Data  []byte
	// Scales are the multipliers of an F8E4M3 matrix, row-major
	// [ceil(Shape[0]/128), ceil(Shape[1]/128)]; nil for other types.
	Scales []float32
}

// Weights gives access to the tensors of a model by their Hugging Face names,
// whether they come from files or are made up (load format dummy).
type Weights interface {
	// Tensor returns the named tensor. It is an error, naming the file, the
	// tensor, what was expected and what was found, if the tensor is missing
	// or its shape is not the given one.
	Tensor(name string, shape ...int) (Tensor, error)
	// Has tells whether the tensor exists.
	Has(name string) bool
	// Close releases mappings; tensors become invalid.
	Close() error
}
