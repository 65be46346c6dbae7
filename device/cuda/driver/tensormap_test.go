package driver

import (
	"strings"
	"testing"
)

// TestTensorMapRules breaks each rule of the hardware, and none.
func TestTensorMapRules(t *testing.T) {
	good := func() TensorMapSpec {
		return TensorMapSpec{Type: MapBF16, Base: 4096, Dims: []uint64{256, 128, 1000}, Strides: []uint64{512, 65536}, Box: []uint32{64, 1, 128}, Swizzle: 128}
	}
	for _, c := range []struct {
		change func(m *TensorMapSpec)
		want   string
	}{
		{func(*TensorMapSpec) {}, ""},
		{func(m *TensorMapSpec) { m.Box[0], m.Swizzle = 256, 0 }, ""},
		{func(m *TensorMapSpec) { m.Box = []uint32{16, 256, 256}; m.Swizzle = 32 }, ""},
		{func(m *TensorMapSpec) { m.Dims, m.Strides, m.Box = m.Dims[:1], nil, m.Box[:1] }, ""},
		{func(m *TensorMapSpec) { m.Type, m.Box[0] = Map8, 128 }, ""},
		{func(m *TensorMapSpec) { m.Type = 9999 }, "type"},
		{func(m *TensorMapSpec) { m.Base = 0 }, "base"},
		{func(m *TensorMapSpec) { m.Base = 4104 }, "base is 0x1008"},
		{func(m *TensorMapSpec) { m.Dims = nil }, "0 dimensions"},
		{func(m *TensorMapSpec) { m.Dims = make([]uint64, 6) }, "6 dimensions"},
		{func(m *TensorMapSpec) { m.Strides = append(m.Strides, 1<<20) }, "3 strides for 3"},
		{func(m *TensorMapSpec) { m.Box = m.Box[:2] }, "2 sides for 3"},
		{func(m *TensorMapSpec) { m.Dims[1] = 0 }, "dimension 1 is 0"},
		{func(m *TensorMapSpec) { m.Dims[2] = 1<<32 + 1 }, "dimension 2 is 4294967297"},
		{func(m *TensorMapSpec) { m.Strides[0] = 520 }, "stride of dimension 1 is 520"},
		{func(m *TensorMapSpec) { m.Strides[1] = 1 << 40 }, "stride of dimension 2"},
		{func(m *TensorMapSpec) { m.Strides[1] = 0 }, "stride of dimension 2 is 0"},
		{func(m *TensorMapSpec) { m.Box[1] = 0 }, "side 1 of its box is 0"},
		{func(m *TensorMapSpec) { m.Box[2] = 257 }, "side 2 of its box is 257"},
		{func(m *TensorMapSpec) { m.Box[0] = 60 }, "120 bytes, which must be a multiple of 16"},
		{func(m *TensorMapSpec) { m.Box[0] = 72 }, "144 bytes, which must not exceed the swizzle of 128"},
		{func(m *TensorMapSpec) { m.Swizzle = 64 }, "must not exceed the swizzle of 64"},
		{func(m *TensorMapSpec) { m.Swizzle = 16 }, "swizzle is 16"},
	} {
		m := good()
		c.change(&m)
		err := m.check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", m, err, c.want)
		}
	}
	if _, err := EncodeTensorMap(nil, TensorMapSpec{}); err == nil || !strings.Contains(err.Error(), "tensor map") {
		t.Errorf("an empty map: %v", err)
	}
}
