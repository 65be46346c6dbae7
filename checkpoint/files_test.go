package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"latent/device"
)

// TestFP8EdgeBlocks reads a matrix of 576 rows and 300 columns, whose last
// blocks are smaller: 5 row blocks and 3 column blocks.
func TestFP8EdgeBlocks(t *testing.T) {
	const rows, cols = 576, 300
	r := rand.New(rand.NewPCG(7, 576))
	data := make([]byte, rows*cols)
	for i := range data {
		data[i] = byte(r.UintN(0x7f)) // positive, not NaN
	}
	exponents := make([]byte, 15)
	for i := range exponents {
		exponents[i] = byte(110 + r.UintN(30))
	}
	want := make([]float32, 15)
	f32, bf16 := []byte{}, []byte{}
	for i, e := range exponents {
		want[i] = float32(math.Ldexp(1, int(e)-127))
		f32 = binary.LittleEndian.AppendUint32(f32, math.Float32bits(want[i]))
		bf16 = binary.LittleEndian.AppendUint16(bf16, device.BF16FromF32(want[i]))
	}
	for dtype, scales := range map[string][]byte{"F32": f32, "BF16": bf16, "F8_E8M0": exponents} {
		f := mustOpenRaw(t, map[string][]byte{"model.safetensors": rawSafetensors(t, 0,
			rawTensor{"a.weight", "F8_E4M3", []int{rows, cols}, data},
			rawTensor{"a.weight_scale_inv", dtype, []int{5, 3}, scales})})
		x, err := f.Tensor("a.weight", rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		if x.Type != device.F8E4M3 || !bytes.Equal(x.Data, data) || !slices.Equal(x.Scales, want) {
			t.Errorf("%s scales: got %v %v, want %v", dtype, x.Type, x.Scales, want)
		}
	}
}

// TestE8M0 decodes every exponent byte.
func TestE8M0(t *testing.T) {
	for e := range 255 {
		if got, want := float64(fromE8M0(byte(e))), math.Ldexp(1, e-127); got != want {
			t.Errorf("exponent %d: got %g, want %g", e, got, want)
		}
	}
	if got := fromE8M0(255); got == got {
		t.Errorf("exponent 255: got %g, want NaN", got)
	}
}

// TestFusedExperts takes per-expert tensors out of fused ones.
func TestFusedExperts(t *testing.T) {
	const experts, inner, d = 3, 2, 4
	elem := func(n int, kind, row, col int) float32 { return float32(1000*kind + 100*n + 10*row + col) }
	var gateUp, down []byte
	put := func(b []byte, v float32) []byte { return binary.LittleEndian.AppendUint32(b, math.Float32bits(v)) }
	for e := range experts {
		for kind := range 2 {
			for row := range inner {
				for col := range d {
					gateUp = put(gateUp, elem(e, kind, row, col))
				}
			}
		}
		for row := range d {
			for col := range inner {
				down = put(down, elem(e, 2, row, col))
			}
		}
	}
	const p = "model.layers.1.mlp.experts."
	for pad := range 4 { // data aligned and misaligned
		f := mustOpenRaw(t, map[string][]byte{"model.safetensors": rawSafetensors(t, pad,
			rawTensor{p + "gate_up_proj", "F32", []int{experts, 2 * inner, d}, gateUp},
			rawTensor{p + "down_proj", "F32", []int{experts, d, inner}, down})})
		for e := range experts {
			for kind, x := range []struct {
				name       string
				rows, cols int
			}{{"gate_proj", inner, d}, {"up_proj", inner, d}, {"down_proj", d, inner}} {
				name := fmt.Sprintf("%s%d.%s.weight", p, e, x.name)
				if !f.Has(name) {
					t.Fatalf("%s is not there", name)
				}
				got, err := f.Tensor(name, x.rows, x.cols)
				if err != nil {
					t.Fatal(err)
				}
				for i := range x.rows * x.cols {
					want := elem(e, kind, i/x.cols, i%x.cols)
					if v := math.Float32frombits(binary.LittleEndian.Uint32(got.Data[4*i:])); v != want {
						t.Errorf("%s[%d] = %v, want %v", name, i, v, want)
					}
				}
			}
		}
		for _, no := range []string{p + "3.gate_proj.weight", p + "-1.up_proj.weight", p + "01.up_proj.weight",
			p + "1.side_proj.weight", "model.layers.2.mlp.experts.0.up_proj.weight"} {
			if f.Has(no) {
				t.Errorf("%s is there", no)
			}
		}
	}
}

// TestAlignment reads data that the header's length leaves misaligned.
func TestAlignment(t *testing.T) {
	want := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	for pad := range 9 {
		path := filepath.Join(t.TempDir(), "x.safetensors")
		file := rawSafetensors(t, pad, rawTensor{"a", "F32", []int{2}, want})
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		x, err := f.Tensor("a", 2)
		if err != nil || !bytes.Equal(x.Data, want) {
			t.Fatalf("got %v, %v", x.Data, err)
		}
		if uintptr(unsafe.Pointer(&x.Data[0]))%4 != 0 {
			t.Errorf("header padded by %d: data is not aligned", pad)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestShards opens one model in all three forms of a folder, and with names
// as multimodal wrappers have them.
func TestShards(t *testing.T) {
	a := rawTensor{"a", "F32", []int{1}, []byte{1, 0, 0, 0}}
	b := rawTensor{"model.embed_tokens.weight", "BF16", []int{1, 1}, []byte{2, 0}}
	old := rawTensor{"a", "F32", []int{1}, []byte{9, 9, 9, 9}}
	wrapped := func(x rawTensor) rawTensor { x.name = "language_model." + x.name; return x }
	for name, files := range map[string]map[string][]byte{
		"single": {"model.safetensors": rawSafetensors(t, 0, a, b), "other.safetensors": rawSafetensors(t, 0, old)},
		"index": {"1.safetensors": rawSafetensors(t, 0, a), "2.safetensors": rawSafetensors(t, 0, b, old), // old is not indexed
			"model.safetensors.index.json": []byte(`{"metadata":{"total_size":6},"weight_map":{"a":"1.safetensors","model.embed_tokens.weight":"2.safetensors"}}`)},
		"no index": {"x-00001.safetensors": rawSafetensors(t, 0, a), "x-00002.safetensors": rawSafetensors(t, 0, b)},
		"wrapper":  {"model.safetensors": rawSafetensors(t, 0, wrapped(a), wrapped(b))},
	} {
		f := mustOpenRaw(t, files)
		for _, want := range []rawTensor{a, b} {
			got, err := f.Tensor(want.name, want.shape...)
			if err != nil || !bytes.Equal(got.Data, want.data) {
				t.Errorf("%s: %s: got %v, %v; want %v", name, want.name, got.Data, err, want.data)
			}
		}
		if got := len(f.Stored()); got != 2 {
			t.Errorf("%s: %d tensors, want 2", name, got)
		}
	}
}

// TestWriteSafetensors writes random tensors of all types and reads them back.
func TestWriteSafetensors(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var tensors []Tensor
	for i, typ := range []device.DType{device.F8E4M3, device.BF16, device.I32, device.F32, device.F16, device.U32, device.F32} {
		shape := []int{1 + r.IntN(300), 1 + r.IntN(300)}
		x := Tensor{Name: fmt.Sprintf("t%d.é\"", i), Type: typ, Shape: shape, Data: make([]byte, shape[0]*shape[1]*typ.Size())}
		for j := range x.Data {
			x.Data[j] = byte(r.Uint32())
		}
		if typ == device.F8E4M3 {
			x.Scales = make([]float32, (shape[0]+127)/128*((shape[1]+127)/128))
			for j := range x.Scales {
				x.Scales[j] = r.Float32()
			}
		}
		tensors = append(tensors, x)
	}
	tensors = append(tensors, Tensor{Name: "scalar", Type: device.F32, Shape: []int{}, Data: make([]byte, 4)},
		Tensor{Name: "empty", Type: device.F32, Shape: []int{0, 3}, Data: []byte{}})
	path := filepath.Join(t.TempDir(), "x.safetensors")
	var buf bytes.Buffer
	if err := WriteSafetensors(&buf, tensors); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, want := range tensors {
		got, err := f.Tensor(want.Name, want.Shape...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Scales, got.Scales); diff != "" || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%s: read back as %v: %s", want.Name, got.Type, diff)
		}
	}

	python := exec.Command("python3", "-c", `import sys
try:
    from safetensors import safe_open
    import numpy
except ImportError:
    sys.exit(77)
assert safe_open(sys.argv[1], "np").get_tensor("t3.é\"").shape == tuple(map(int, sys.argv[2:]))`, path,
		fmt.Sprint(tensors[3].Shape[0]), fmt.Sprint(tensors[3].Shape[1]))
	switch out, err := python.CombinedOutput(); {
	case err == nil:
	case python.ProcessState == nil || python.ProcessState.ExitCode() == 77:
		t.Log("no safetensors for Python: not read by it")
	default:
		t.Errorf("Python: %v\n%s", err, out)
	}
}

func TestWriteSafetensorsRefuses(t *testing.T) {
	x := Tensor{Name: "x", Type: device.F32, Shape: []int{2}, Data: make([]byte, 8)}
	short, typeless, reserved := x, x, x
	short.Shape = []int{3}
	typeless.Type = device.Invalid
	reserved.Name = "__metadata__"
	for want, tensors := range map[string][]Tensor{
		"write safetensors: tensor x: found the name twice or reserved, want distinct names":            {x, x},
		"write safetensors: tensor __metadata__: found the name twice or reserved, want distinct names": {reserved},
		"write safetensors: tensor x: found 8 bytes at data_offsets [0, 8], want 12 for F32 [3]":        {short},
		"write safetensors: tensor x: found type DType(0), want a stored type":                          {typeless},
	} {
		var buf bytes.Buffer
		if err := WriteSafetensors(&buf, tensors); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if buf.Len() > 0 {
			t.Errorf("%s: %d bytes were written", want, buf.Len())
		}
	}
}
