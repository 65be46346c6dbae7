package checkpoint

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"

	"latent/device"
)

// fileType is the safetensors spelling of a type.
func fileType(t device.DType) (string, bool) {
	switch t {
	case device.F32:
		return "F32", true
	case device.BF16:
		return "BF16", true
	case device.F16:
		return "F16", true
	case device.F8E4M3:
		return "F8_E4M3", true
	case device.I32:
		return "I32", true
	case device.U32:
		return "U32", true
	}
	return "", false
}

// WriteSafetensors writes tensors as one safetensors file, wide types first so
// that all data is aligned. Scales of FP8 tensors are written as
// NAME_scale_inv. Tensors whose data does not fit their shape, of types the
// format lacks, or with equal names are refused before anything is written.
func WriteSafetensors(w io.Writer, tensors []Tensor) error {
	var all []Tensor
	for _, t := range tensors {
		all = append(all, t)
		if t.Scales == nil {
			continue
		}
		if len(t.Shape) != 2 {
			return fmt.Errorf("write safetensors: tensor %s: found shape %v with scales, want two dimensions", quoteName(t.Name), t.Shape)
		}
		data := make([]byte, 0, 4*len(t.Scales))
		for _, s := range t.Scales {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(s))
		}
		all = append(all, Tensor{Name: t.Name + "_scale_inv", Type: device.F32, Data: data,
			Shape: []int{(t.Shape[0] + Block - 1) / Block, (t.Shape[1] + Block - 1) / Block}})
	}
	type headerEntry struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	for _, t := range all {
		name, ok := fileType(t.Type)
		if !ok {
			return fmt.Errorf("write safetensors: tensor %s: found type %v, want a stored type", quoteName(t.Name), t.Type)
		}
		e := entry{dtype: name, shape: t.Shape, end: int64(len(t.Data))}
		if err := e.check(e.end); err != nil {
			return fmt.Errorf("write safetensors: tensor %s: %w", quoteName(t.Name), err)
		}
	}
	slices.SortStableFunc(all, func(a, b Tensor) int { return b.Type.Size() - a.Type.Size() })
	header := make(map[string]headerEntry, len(all))
	var at int64
	for _, t := range all {
		if _, twice := header[t.Name]; twice || t.Name == "__metadata__" {
			return fmt.Errorf("write safetensors: tensor %s: found the name twice or reserved, want distinct names", quoteName(t.Name))
		}
		name, _ := fileType(t.Type)
		end := at + int64(len(t.Data))
		header[t.Name] = headerEntry{name, append([]int{}, t.Shape...), [2]int64{at, end}}
		at = end
	}
	text, err := json.Marshal(header)
	if err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	b := bufio.NewWriter(w)
	b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(text))))
	b.Write(text)
	for _, t := range all {
		b.Write(t.Data)
	}
	return b.Flush() // reports the first error of all writes
}
