package cpu

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"latent/device"
)

func TestCloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	d, err := New(Options{Threads: 4})
	if err != nil {
		t.Fatal(err)
	}
	m, err := d.Alloc(mapFrom)
	if err != nil {
		t.Fatal(err)
	}
	other, err := d.Alloc(2*mapFrom + 1)
	if err != nil {
		t.Fatal(err)
	}
	other.Free()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if len(d.mapped) != 0 || m.Bytes() != 0 || other.Bytes() != 0 {
		t.Errorf("%d mappings, %d and %d bytes left", len(d.mapped), m.Bytes(), other.Bytes())
	}
	m.Free() // after Close, and twice: no effect
	m.Free()
}

// TestWrongShapesPanic checks that messages name the operation and the shapes.
func TestWrongShapesPanic(t *testing.T) {
	rng := newRand(t)
	d := newTestDevice(t, Options{Threads: 1})
	m, err := d.LoadMatrix(device.F32, source(rng, device.F32, 96, 48, nil))
	if err != nil {
		t.Fatal(err)
	}
	x := func(rows, cols int) device.Tensor { return tensor(t, d, rows, cols, normal(rng)) }
	d.Begin(&device.Step{Tokens: []int32{0}, Positions: []int32{0}, Slots: []int32{0}, Seqs: []device.Seq{{Rows: 1, Pages: []int32{0}}}})
	narrow := x(3, 48)
	narrow.Type = device.BF16
	for want, f := range map[string]func(){
		"cpu: Linear: dst float32 [3, 96], src float32 [3, 64] against weight [96, 48]": func() { d.Linear(x(3, 96), x(3, 64), m, false) },
		"cpu: Linear: src is bfloat16 [3, 48], want float32":                            func() { d.Linear(x(3, 96), narrow, m, false) },
		"cpu: RMSNorm: weight is float32 [1, 9], want [1, 8]":                           func() { d.RMSNorm(x(2, 8), x(2, 8), x(1, 9), 1e-6) },
		"cpu: SwiGLU: float32 [2, 8] from float32 [2, 15]":                              func() { d.SwiGLU(x(2, 8), x(2, 15)) },
		"cpu: Embed: token 0 of row 0 in table float32 [0, 8]":                          func() { d.Embed(x(1, 8), x(0, 8)) },
		"cpu: Gather: row 2 of src float32 [2, 8]":                                      func() { d.Gather(x(1, 8), x(2, 8), []int32{2}) },
		"cpu: MergeLSE: part is float32 [1, 9], want [1, 8]":                            func() { d.MergeLSE(x(1, 8), x(1, 2), x(1, 9), x(1, 2), nil) },
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, want) {
					t.Errorf("panic %q, want %q", got, want)
				}
			}()
			f()
		}()
	}
}
