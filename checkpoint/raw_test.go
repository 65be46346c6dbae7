package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"testing"
	"testing/fstest"
)

// rawTensor is a tensor of a file that tests make, of any type.
type rawTensor struct {
	name, dtype string
	shape       []int
	data        []byte
}

// rawFile wraps header and data as a safetensors file.
func rawFile(header string, data []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

// rawSafetensors writes tensors one after another, independently of
// WriteSafetensors. pad spaces end the header, which shifts the data.
func rawSafetensors(t testing.TB, pad int, tensors ...rawTensor) []byte {
	t.Helper()
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var data []byte
	for _, x := range tensors {
		header[x.name] = map[string]any{"dtype": x.dtype, "shape": append([]int{}, x.shape...),
			"data_offsets": []int{len(data), len(data) + len(x.data)}}
		data = append(data, x.data...)
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	for range pad {
		text = append(text, ' ')
	}
	return rawFile(string(text), data)
}

// openRaw opens the tensors of raw files named as in model folders.
func openRaw(t testing.TB, files map[string][]byte) (*Files, error) {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, data := range files {
		fsys[name] = &fstest.MapFile{Data: data}
	}
	return openWeights(fsFolder(fsys))
}

func mustOpenRaw(t testing.TB, files map[string][]byte) *Files {
	t.Helper()
	f, err := openRaw(t, files)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
