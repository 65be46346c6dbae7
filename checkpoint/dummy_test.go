package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"latent/device"
)

// values decodes a matrix or vector.
func values(t Tensor) []float64 {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	out := make([]float64, n)
	for i := range out {
		switch t.Type {
		case device.F32:
			out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:])))
		case device.BF16:
			out[i] = float64(device.F32FromBF16(binary.LittleEndian.Uint16(t.Data[2*i:])))
		case device.F8E4M3:
			cols := t.Shape[1]
			block := i/cols/128*((cols+127)/128) + i%cols/128
			out[i] = float64(device.F32FromF8(t.Data[i])) * float64(t.Scales[block])
		}
	}
	return out
}

func moments(v []float64) (mean, std float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		std += (x - mean) * (x - mean) / float64(len(v))
	}
	return mean, math.Sqrt(std)
}

// TestDummy generates all tensors of two models in all types and checks type,
// size and distribution.
func TestDummy(t *testing.T) {
	for _, name := range []string{"deepseek_v32_real_head_dims_bf16", "glm_moe_dsa", "deepseek_v2_lite"} {
		for _, dtype := range []device.DType{device.F32, device.BF16, device.F8E4M3} {
			t.Run(fmt.Sprint(name, "/", dtype), func(t *testing.T) {
				c := readConfig(t, filepath.Join(goldenDir, name, "config.json"))
				w := Dummy(c, 1, dtype)
				for _, s := range Expected(c) {
					x, err := w.Tensor(s.Name, s.Shape...)
					if err != nil {
						t.Fatal(err)
					}
					mean, std := 0.0, 1/math.Sqrt(float64(s.Shape[len(s.Shape)-1]))
					switch s.Role {
					case Norm:
						mean, std = 1, 0.1
					case Bias:
						std = 0.02
					case Embedding:
						std = 1
					}
					v := values(x)
					n := float64(len(v))
					gotMean, gotStd := moments(v)
					// Five standard errors, and for FP8 the spread of block scales.
					spread := 5/math.Sqrt(2*n) + 0.02
					if x.Type == device.F8E4M3 {
						spread += 0.42
					}
					if math.Abs(gotMean-mean) > 6*std/math.Sqrt(n)+0.002*mean || math.Abs(gotStd/std-1) > spread {
						t.Errorf("%s %v: mean %.4g, deviation %.4g; want %.4g, %.4g", s.Name, s.Shape, gotMean, gotStd, mean, std)
					}
					want := dtype
					switch {
					case s.Role == Bias || bytes.Contains([]byte(s.Name), []byte("k_norm")):
						want = device.F32
					case dtype == device.F8E4M3 && s.Role != Projection && s.Role != Expert:
						want = device.BF16
					}
					if x.Type != want {
						t.Errorf("%s: type %v, want %v", s.Name, x.Type, want)
					}
				}
			})
		}
	}
}

// TestDummyReproducible draws tensors of two instances in different order.
func TestDummyReproducible(t *testing.T) {
	c := readConfig(t, filepath.Join(goldenDir, "deepseek_v32", "config.json"))
	a, b, other := Dummy(c, 1, device.BF16), Dummy(c, 1, device.BF16), Dummy(c, 2, device.BF16)
	list := Expected(c)
	list = slices.DeleteFunc(list, func(s TensorSpec) bool { return s.Optional })
	seen := map[string]string{}
	for _, i := range rand.New(rand.NewPCG(3, 3)).Perm(len(list)) {
		s := list[i]
		x, _ := a.Tensor(s.Name, s.Shape...)
		seen[s.Name] = string(x.Data)
	}
	first := map[string]string{}
	for _, s := range list {
		x, err := b.Tensor(s.Name, s.Shape...)
		if err != nil {
			t.Fatal(err)
		}
		if seen[s.Name] != string(x.Data) {
			t.Errorf("%s depends on the order of calls", s.Name)
		}
		y, _ := other.Tensor(s.Name, s.Shape...)
		if bytes.Equal(x.Data, y.Data) {
			t.Errorf("%s is the same for another seed", s.Name)
		}
		if twin, dup := first[string(x.Data)]; dup {
			t.Errorf("%s and %s are the same", s.Name, twin)
		}
		first[string(x.Data)] = s.Name
	}
}

// TestDummyFollowsConfig checks the types that configurations ask for, and
// that scales of quantised models are powers of two that differ.
func TestDummyFollowsConfig(t *testing.T) {
	released := func(name string) *Config { return readConfig(t, releasedPath(name)) }
	v32 := released("deepseek-v3.2")
	const kva = "model.layers.3.self_attn.kv_a_proj_with_mqa.weight"
	x, err := Dummy(v32, 0, device.Invalid).Tensor(kva, 576, 7168)
	if err != nil {
		t.Fatal(err)
	}
	if x.Type != device.F8E4M3 || len(x.Scales) != 5*56 {
		t.Fatalf("type %v with %d scales, want fp8_e4m3 with 280", x.Type, len(x.Scales))
	}
	differ := false
	for _, s := range x.Scales {
		if frac, _ := math.Frexp(float64(s)); frac != 0.5 {
			t.Fatalf("scale %v is not a power of two", s)
		}
		differ = differ || s != x.Scales[0]
	}
	if !differ {
		t.Error("all scales are equal")
	}
	bf16, err := Dummy(released("deepseek-v2-lite"), 0, device.Invalid).Tensor("model.norm.weight", 2048)
	if err != nil || bf16.Type != device.BF16 {
		t.Errorf("V2-Lite: got %v, %v, want bfloat16", bf16.Type, err)
	}
	w := Dummy(readConfig(t, filepath.Join(goldenDir, "deepseek_v3", "config.json")), 0, device.Invalid)
	f32, err := w.Tensor("model.norm.weight", 64)
	if err != nil || f32.Type != device.F32 {
		t.Errorf("golden: got %v, %v, want float32", f32.Type, err)
	}
	for want, f := range map[string]func() (Tensor, error){
		"dummy weights: tensor model.norm.weight: found shape [64], want [65]": func() (Tensor, error) { return w.Tensor("model.norm.weight", 65) },
		"dummy weights: tensor nothing is missing, expected with shape [1]":    func() (Tensor, error) { return w.Tensor("nothing", 1) },
	} {
		if _, err := f(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestDummyExperts asks for all experts of a layer of DeepSeek-V3.2 and counts
// the memory that takes: their 11 GB are cut from one pool of twice an expert's
// matrix. Places differ.
func TestDummyExperts(t *testing.T) {
	c := readConfig(t, releasedPath("deepseek-v3.2"))
	const n = 2048 * 7168
	places := map[*byte]string{}
	var before, after runtime.MemStats
	w := Dummy(c, 1, device.Invalid)
	runtime.ReadMemStats(&before)
	for j := range c.Experts {
		for _, p := range []string{"gate", "up", "down"} {
			name := fmt.Sprintf("model.layers.3.mlp.experts.%d.%s_proj.weight", j, p)
			shape := []int{2048, 7168}
			if p == "down" {
				shape = []int{7168, 2048}
			}
			x, err := w.Tensor(name, shape...)
			if err != nil {
				t.Fatal(err)
			}
			if x.Type != device.F8E4M3 || len(x.Data) != n || cap(x.Data) != n || len(x.Scales) != n/128/128 {
				t.Fatalf("%s: %v, %d bytes of %d, %d scales", name, x.Type, len(x.Data), cap(x.Data), len(x.Scales))
			}
			if other, taken := places[&x.Data[0]]; taken {
				t.Errorf("%s and %s are the same", name, other)
			}
			places[&x.Data[0]] = name
		}
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 3*n {
		t.Errorf("%d bytes allocated, want at most those of three matrices", took)
	}
}

// BenchmarkDummy reports bytes a second of all cores by type, beside filling
// memory of the same size.
func BenchmarkDummy(b *testing.B) {
	c := readConfig(b, "../configs/bench-0.85b.json")
	for _, dtype := range []device.DType{device.F32, device.BF16, device.F8E4M3} {
		b.Run(dtype.String(), func(b *testing.B) {
			w := Dummy(c, 1, dtype)
			b.SetBytes(4096 * 1024 * int64(dtype.Size()))
			for b.Loop() {
				if _, err := w.Tensor("model.layers.0.mlp.gate_proj.weight", 4096, 1024); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("fill", func(b *testing.B) {
		b.SetBytes(4096 * 1024 * 2)
		for b.Loop() {
			_ = bytes.Repeat([]byte{1}, 4096*1024*2)
		}
	})
}
