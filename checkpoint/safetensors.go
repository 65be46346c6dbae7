package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"sort"

	"latent/device"
)

// maxHeader is the largest safetensors header that is read, the limit of the
// format's reference implementation.
const maxHeader = 100_000_000

// maxRank is the largest number of dimensions of a tensor.
const maxRank = 8

// entry is one tensor of a safetensors header.
type entry struct {
	dtype      string // as in the file, e.g. "F8_E4M3"
	shape      []int
	begin, end int64 // bytes in the file
}

// dtypeBits returns the bits of an element, 0 for an unknown type.
func dtypeBits(name string) uint64 {
	switch name {
	case "F64", "I64", "U64":
		return 64
	case "F32", "I32", "U32":
		return 32
	case "BF16", "F16", "I16", "U16":
		return 16
	case "F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL":
		return 8
	}
	return 0
}

// deviceType returns the type under which tensors are handed out.
func deviceType(name string) (device.DType, bool) {
	switch name {
	case "F32":
		return device.F32, true
	case "BF16":
		return device.BF16, true
	case "F16":
		return device.F16, true
	case "F8_E4M3":
		return device.F8E4M3, true
	case "I32":
		return device.I32, true
	case "U32":
		return device.U32, true
	}
	return device.Invalid, false
}

// parseHeader reads the header of a safetensors file held in data: an 8-byte
// little-endian length, that many bytes of JSON, then the tensors. It checks
// that every tensor lies inside the file, has the size of its shape and type,
// and overlaps no other; gaps are allowed. Errors name the tensor, the caller
// adds the file.
func parseHeader(data []byte) (map[string]entry, error) {
	if len(data) < 8 {
		return nil, fmt.Errorf("not a safetensors file: found %d bytes, want a header length of 8 bytes", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	if n > maxHeader {
		return nil, fmt.Errorf("not a safetensors file: found a header of %d bytes, want at most %d", n, maxHeader)
	}
	if n > uint64(len(data)-8) {
		return nil, fmt.Errorf("truncated: found %d bytes after the header length, want a header of %d", len(data)-8, n)
	}
	start := 8 + int64(n)
	names, entries, err := decodeHeader(data[8:start])
	if err != nil {
		return nil, err
	}
	size := int64(len(data)) - start
	for i, name := range names {
		e := &entries[i]
		if err := e.check(size); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", quoteName(name), err)
		}
		e.begin += start
		e.end += start
	}
	if err := checkOverlap(names, entries); err != nil {
		return nil, err
	}
	m := make(map[string]entry, len(names))
	for i, name := range names {
		m[name] = entries[i]
	}
	return m, nil
}

// decodeHeader decodes the JSON of a header in file order. Offsets are those of
// the file, relative to its data section.
func decodeHeader(header []byte) (names []string, entries []entry, err error) {
	bad := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return fmt.Errorf("header: not valid JSON: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(header))
	if t, err := dec.Token(); err != nil {
		return nil, nil, bad(err)
	} else if t != json.Delim('{') {
		return nil, nil, fmt.Errorf("header: found %v, want a JSON object", t)
	}
	seen := make(map[string]bool)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, nil, bad(err)
		}
		name := t.(string) // the decoder allows nothing else as a key
		if seen[name] {
			return nil, nil, fmt.Errorf("header: tensor %s appears twice", quoteName(name))
		}
		seen[name] = true
		var text json.RawMessage
		if err := dec.Decode(&text); err != nil {
			return nil, nil, bad(err)
		}
		if name == "__metadata__" {
			continue
		}
		var raw struct {
			DType   *string  `json:"dtype"`
			Shape   *[]int64 `json:"shape"`
			Offsets []int64  `json:"data_offsets"`
		}
		if err := json.Unmarshal(text, &raw); err != nil || raw.DType == nil || raw.Shape == nil || len(raw.Offsets) != 2 {
			return nil, nil, fmt.Errorf("header: tensor %s: found %s, want an object of dtype, a list of sizes as shape and two data_offsets",
				quoteName(name), show(text))
		}
		e := entry{dtype: *raw.DType, shape: make([]int, len(*raw.Shape)), begin: raw.Offsets[0], end: raw.Offsets[1]}
		for i, d := range *raw.Shape {
			if d < 0 || int64(int(d)) != d {
				return nil, nil, fmt.Errorf("header: tensor %s: found shape %v, want sizes from 0", quoteName(name), *raw.Shape)
			}
			e.shape[i] = int(d)
		}
		names, entries = append(names, name), append(entries, e)
	}
	if _, err := dec.Token(); err != nil {
		return nil, nil, bad(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("header: more text after the JSON object")
	}
	return names, entries, nil
}

// check verifies one entry against a data section of size bytes.
func (e *entry) check(size int64) error {
	width := dtypeBits(e.dtype)
	if width == 0 {
		return fmt.Errorf("found dtype %.20q, want F32, BF16, F16, F8_E4M3, F8_E8M0 or an integer type", e.dtype)
	}
	if len(e.shape) > maxRank {
		return fmt.Errorf("found %d dimensions, want at most %d", len(e.shape), maxRank)
	}
	want := width / 8
	for _, d := range e.shape {
		hi, lo := bits.Mul64(want, uint64(d))
		if hi != 0 || lo > 1<<62 {
			return fmt.Errorf("found shape %v, want fewer than 2^62 bytes", e.shape)
		}
		want = lo
	}
	if e.begin < 0 || e.end < e.begin {
		return fmt.Errorf("found data_offsets [%d, %d], want 0 <= begin <= end", e.begin, e.end)
	}
	if uint64(e.end-e.begin) != want {
		return fmt.Errorf("found %d bytes at data_offsets [%d, %d], want %d for %s %v",
			e.end-e.begin, e.begin, e.end, want, e.dtype, e.shape)
	}
	if e.end > size {
		return fmt.Errorf("truncated: found %d bytes of tensor data in the file, want at least %d", size, e.end)
	}
	return nil
}

func checkOverlap(names []string, entries []entry) error {
	order := make([]int, 0, len(names))
	for i := range entries {
		if entries[i].end > entries[i].begin {
			order = append(order, i)
		}
	}
	sort.Slice(order, func(a, b int) bool { return entries[order[a]].begin < entries[order[b]].begin })
	for k := 1; k < len(order); k++ {
		a, b := order[k-1], order[k]
		if entries[a].end > entries[b].begin {
			pair := []string{names[a], names[b]}
			slices.Sort(pair)
			return fmt.Errorf("tensors %s and %s overlap", quoteName(pair[0]), quoteName(pair[1]))
		}
	}
	return nil
}

// quoteName prints a tensor name from a file: plain if it is an ordinary one,
// else quoted and shortened.
func quoteName(name string) string {
	for _, r := range name {
		if r <= ' ' || r > '~' || r == '"' {
			return fmt.Sprintf("%.100q", name)
		}
	}
	if name == "" || len(name) > 200 {
		return fmt.Sprintf("%.100q", name)
	}
	return name
}
