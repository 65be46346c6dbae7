package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"latent/device"
)

// Files are the tensors of one or several safetensors files. They implement
// [Weights] and may be read from several goroutines at once; Close must come
// after all use of the tensors.
type Files struct {
	files   []file
	tensors map[string]located
	// prefix stands before every name in the files: "language_model." for the
	// text model of a multimodal wrapper.
	prefix string
}

type file struct {
	name  string
	data  []byte
	unmap func() error
}

type located struct {
	entry
	file int
}

// OpenFile maps one safetensors file. Its tensors may have any names.
func OpenFile(path string) (*Files, error) {
	f := &Files{tensors: map[string]located{}}
	if err := f.add(path, func() ([]byte, func() error, error) { return mapFile(path) }, nil); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// add opens a file and takes those of its tensors that keep accepts.
func (f *Files) add(name string, open func() ([]byte, func() error, error), keep func(tensor string) bool) error {
	data, unmap, err := open()
	if err != nil {
		return err
	}
	f.files = append(f.files, file{name, data, unmap})
	entries, err := parseHeader(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, tensor := range slices.Sorted(maps.Keys(entries)) {
		if keep != nil && !keep(tensor) {
			continue
		}
		if old, twice := f.tensors[tensor]; twice {
			return fmt.Errorf("tensor %s is in both %s and %s", quoteName(tensor), f.files[old.file].name, name)
		}
		f.tensors[tensor] = located{entries[tensor], len(f.files) - 1}
	}
	return nil
}

// Close unmaps the files.
func (f *Files) Close() error {
	var errs []error
	for _, x := range f.files {
		errs = append(errs, x.unmap())
	}
	f.files, f.tensors = nil, nil
	return errors.Join(errs...)
}

// Stored describes a tensor as a file has it.
type Stored struct {
	Name  string
	File  string // "" for dummy weights
	DType string // the file's spelling: "BF16", "F8_E4M3", …
	Shape []int
	Bytes int64
}

// Stored lists the tensors of all files by name. Scales of FP8 tensors are
// tensors of their own here.
func (f *Files) Stored() []Stored {
	list := make([]Stored, 0, len(f.tensors))
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		t := f.tensors[name]
		list = append(list, Stored{strings.TrimPrefix(name, f.prefix), f.files[t.file].name, t.dtype, slices.Clone(t.shape), t.end - t.begin})
	}
	return list
}

// MissingTensorError is a tensor that no file has.
type MissingTensorError struct {
	Tensor string
	Shape  []int  // as expected
	In     string // where it was looked for
}

func (e *MissingTensorError) Error() string {
	return fmt.Sprintf("%s: tensor %s is missing, expected with shape %v", e.In, quoteName(e.Tensor), e.Shape)
}

// Has implements [Weights].
func (f *Files) Has(name string) bool {
	if _, ok := f.tensors[f.prefix+name]; ok {
		return true
	}
	_, ok := f.fused(name)
	return ok
}

// Tensor implements [Weights]. Tensors of experts that are stored fused are
// handed out one by one. Data shares the mapping, unless the file leaves it
// misaligned for its type: then it is a copy.
func (f *Files) Tensor(name string, shape ...int) (Tensor, error) {
	t, at, err := f.describe(name, shape)
	if err != nil {
		return Tensor{}, err
	}
	t.Data = f.files[at.file].data[at.begin:at.end:at.end]
	if len(t.Data) > 0 && uintptr(unsafe.Pointer(&t.Data[0]))%uintptr(t.Type.Size()) != 0 {
		t.Data = slices.Clone(t.Data)
	}
	return t, nil
}

// describe returns a tensor without its data, and where that is.
func (f *Files) describe(name string, shape []int) (Tensor, located, error) {
	fail := func(err error) (Tensor, located, error) { return Tensor{}, located{}, err }
	t, ok := f.tensors[f.prefix+name]
	if !ok {
		s, ok := f.fused(name)
		if !ok {
			return fail(&MissingTensorError{name, shape, f.where()})
		}
		var err error
		if t, err = f.slice(s, name, shape); err != nil {
			return fail(err)
		}
	}
	at := f.files[t.file].name
	if !slices.Equal(t.shape, shape) {
		return fail(fmt.Errorf("%s: tensor %s: found shape %v, want %v", at, quoteName(name), t.shape, shape))
	}
	typ, ok := deviceType(t.dtype)
	if !ok {
		return fail(fmt.Errorf("%s: tensor %s: found dtype %s, want F32, BF16, F16, F8_E4M3, I32 or U32", at, quoteName(name), t.dtype))
	}
	out := Tensor{Name: name, Type: typ, Shape: slices.Clone(t.shape)}
	if typ == device.F8E4M3 {
		var err error
		if out.Scales, err = f.scales(name, t); err != nil {
			return fail(err)
		}
	}
	return out, t, nil
}

// where names the files for an error about all of them.
func (f *Files) where() string {
	switch n := len(f.files); n {
	case 0:
		return "no files"
	case 1:
		return f.files[0].name
	default:
		return fmt.Sprintf("%s and %d more files", f.files[0].name, n-1)
	}
}

// Block is the side of the square blocks of FP8 weights.
const Block = 128

// scales reads the multipliers of an FP8 matrix.
func (f *Files) scales(name string, t located) ([]float32, error) {
	scaleName := name + "_scale_inv"
	at := f.files[t.file].name
	if len(t.shape) != 2 {
		return nil, fmt.Errorf("%s: tensor %s: found shape %v, want two dimensions for %s", at, quoteName(name), t.shape, t.dtype)
	}
	want := []int{(t.shape[0] + Block - 1) / Block, (t.shape[1] + Block - 1) / Block}
	s, ok := f.tensors[f.prefix+scaleName]
	if !ok {
		return nil, fmt.Errorf("%s: tensor %s is %s but its scales %s are missing, expected with shape %v",
			at, quoteName(name), t.dtype, quoteName(scaleName), want)
	}
	at = f.files[s.file].name
	if !slices.Equal(s.shape, want) {
		return nil, fmt.Errorf("%s: scales %s: found shape %v, want %v for %s %v",
			at, quoteName(scaleName), s.shape, want, quoteName(name), t.shape)
	}
	out := make([]float32, want[0]*want[1])
	data := f.files[s.file].data[s.begin:s.end]
	switch s.dtype {
	case "F32":
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
	case "BF16":
		for i := range out {
			out[i] = device.F32FromBF16(binary.LittleEndian.Uint16(data[2*i:]))
		}
	case "F8_E8M0":
		for i := range out {
			out[i] = fromE8M0(data[i])
		}
	default:
		return nil, fmt.Errorf("%s: scales %s: found dtype %s, want F32, BF16 or F8_E8M0", at, quoteName(scaleName), s.dtype)
	}
	for i, v := range out {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("%s: scales %s: found %v at block [%d, %d] of %s, want a finite number",
				at, quoteName(scaleName), v, i/want[1], i%want[1], quoteName(name))
		}
	}
	return out, nil
}

// fromE8M0 decodes an exponent byte: 2^(e−127), 0xFF is NaN.
func fromE8M0(e byte) float32 {
	switch e {
	case 0:
		return math.Float32frombits(1 << 22) // 2^−127 is subnormal
	case 0xff:
		return float32(math.NaN())
	}
	return math.Float32frombits(uint32(e) << 23)
}

// expertSlice is one expert's part of a fused tensor.
type expertSlice struct {
	located
	name   string // of the fused tensor
	expert int
	part   int // 0: gate, 1: up, of gate_up_proj; −1: all of down_proj
}

// fused finds the fused tensor that holds the expert tensor called name:
// mlp.experts.gate_up_proj [E, 2·Ie, d], gate rows first, or
// mlp.experts.down_proj [E, d, Ie].
func (f *Files) fused(name string) (expertSlice, bool) {
	before, after, ok := strings.Cut(name, ".mlp.experts.")
	number, kind, ok2 := strings.Cut(after, ".")
	j, err := strconv.Atoi(number)
	if !ok || !ok2 || err != nil || strconv.Itoa(j) != number {
		return expertSlice{}, false
	}
	s := expertSlice{name: before + ".mlp.experts.gate_up_proj", expert: j}
	switch kind {
	case "gate_proj.weight":
	case "up_proj.weight":
		s.part = 1
	case "down_proj.weight":
		s.name, s.part = before+".mlp.experts.down_proj", -1
	default:
		return expertSlice{}, false
	}
	if s.located, ok = f.tensors[f.prefix+s.name]; !ok {
		return expertSlice{}, false
	}
	return s, j >= 0 && len(s.shape) == 3 && j < s.shape[0]
}

// slice locates the part s of a fused tensor, which must have the given shape.
func (f *Files) slice(s expertSlice, name string, shape []int) (located, error) {
	at := f.files[s.file].name
	if len(shape) != 2 {
		return located{}, fmt.Errorf("%s: tensor %s: found two dimensions, want shape %v", at, quoteName(name), shape)
	}
	rows, parts := shape[0], 1
	if s.part >= 0 {
		parts = 2
	}
	if want := []int{s.shape[0], parts * rows, shape[1]}; !slices.Equal(s.shape, want) {
		return located{}, fmt.Errorf("%s: tensor %s: found shape %v, want %v to hold %s", at, quoteName(s.name), s.shape, want, quoteName(name))
	}
	typ, ok := deviceType(s.dtype)
	if !ok || typ == device.F8E4M3 {
		return located{}, fmt.Errorf("%s: tensor %s: found dtype %s, want F32, BF16 or F16 for fused experts", at, quoteName(s.name), s.dtype)
	}
	size := int64(rows) * int64(shape[1]) * int64(typ.Size())
	from := s.begin + int64(s.expert)*int64(parts)*size + int64(max(s.part, 0))*size
	return located{entry{s.dtype, shape, from, from + size}, s.file}, nil
}

// index is model.safetensors.index.json: which file has which tensor.
type index struct {
	shards []string          // sorted
	of     map[string]string // tensor to shard
}

// parseIndex reads a shard index. Shards must lie beside it.
func parseIndex(data []byte) (*index, error) {
	m, err := decodeObject(data)
	if err != nil {
		return nil, err
	}
	weights, ok := m["weight_map"].(map[string]any)
	if !ok || len(weights) == 0 {
		return nil, fmt.Errorf("weight_map: found %s, want an object of tensor names and files", show(m["weight_map"]))
	}
	x := &index{of: make(map[string]string, len(weights))}
	seen := map[string]bool{}
	for _, tensor := range slices.Sorted(maps.Keys(weights)) {
		shard, ok := weights[tensor].(string)
		if !ok || !fs.ValidPath(shard) || strings.ContainsAny(shard, `/\`) || shard == "." {
			return nil, fmt.Errorf("weight_map: tensor %s: found %s, want the name of a file beside the index", quoteName(tensor), show(weights[tensor]))
		}
		x.of[tensor] = shard
		if !seen[shard] {
			seen[shard] = true
			x.shards = append(x.shards, shard)
		}
	}
	slices.Sort(x.shards)
	return x, nil
}
