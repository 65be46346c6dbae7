package checkpoint

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"

	"latent/device"
)

// dummy are weights made up from a configuration. A tensor is generated each
// time it is asked for, from the seed and its name alone, in parallel. Routed
// experts, which are nearly all of a large model, are cut at random places out
// of a pool of random values, so that asking for one costs neither time nor
// memory: the experts of one layer of DeepSeek-V3.2 would be 11 GB of host
// memory, and 58 layers of them minutes of a core.
type dummy struct {
	specs  map[string]TensorSpec
	tied   bool
	seed   uint64
	plain  device.DType // of everything but projections
	linear device.DType // of projections
	ue8m0  bool
	normal []float32 // quantiles of the standard normal distribution
	f8     [256]byte // the same as e4m3 in units of 1/dummyF8Unit

	mu    sync.Mutex
	pools map[pool][]byte // what experts are cut from
}

// pool names a supply of random values: their type and standard deviation,
// which for FP8 is in the scales of blocks.
type pool struct {
	typ device.DType
	std float64
}

// quantiles is the number of distinct values of a dummy tensor, so that 16 bits
// of hash choose one.
const quantiles = 1 << 12

// dummyF8Unit is the standard deviation of dummy FP8 values before scaling. The
// largest of 256 quantiles is 2.9 standard deviations, below e4m3's 448.
const dummyF8Unit = 128

// Dummy returns seeded random weights for c, as load format dummy asks for. The
// same seed, name and type give the same values on every machine. Weights are
// near normal with standard deviation 1/√in, norms near 1 and biases small, so
// that activations stay finite and attention and routing have something to
// choose from. Routed experts share values with one another at different places.
//
// Projections are of type dtype: F32, BF16 or F8E4M3; anything else follows the
// configuration (FP8 blocks if it is quantised so, else its dtype, else BF16).
// Tensors that FP8 releases keep wider are BF16 then. Indexer norms and biases
// are always F32.
func Dummy(c *Config, seed uint64, dtype device.DType) Weights {
	d := &dummy{specs: map[string]TensorSpec{}, tied: c.TieEmbed, seed: seed, ue8m0: c.ScaleUE8M0,
		normal: make([]float32, quantiles), pools: map[pool][]byte{}}
	switch dtype {
	case device.F32, device.BF16, device.F8E4M3:
	default:
		dtype = device.BF16
		if c.BlockFP8 {
			dtype = device.F8E4M3
		} else if c.DType == "float32" {
			dtype = device.F32
		}
	}
	d.plain, d.linear = dtype, dtype
	if dtype == device.F8E4M3 {
		d.plain = device.BF16
	}
	for _, s := range Expected(c) {
		if !s.Optional {
			d.specs[s.Name] = s
		}
	}
	quantile := func(i, n int) float64 {
		return math.Sqrt2 * math.Erfinv((2*float64(i)+1)/float64(n)-1)
	}
	for i := range d.normal {
		d.normal[i] = float32(quantile(i, quantiles))
	}
	for i := range d.f8 {
		d.f8[i] = device.F8FromF32(float32(dummyF8Unit * quantile(i, 256)))
	}
	return d
}

func (d *dummy) Has(name string) bool { _, ok := d.specs[name]; return ok }

func (d *dummy) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.pools)
	return nil
}

func (d *dummy) Tensor(name string, shape ...int) (Tensor, error) {
	s, ok := d.specs[name]
	if !ok {
		return Tensor{}, &MissingTensorError{name, shape, "dummy weights"}
	}
	if !slices.Equal(s.Shape, shape) {
		return Tensor{}, fmt.Errorf("dummy weights: tensor %s: found shape %v, want %v", name, s.Shape, shape)
	}
	n := 1
	for _, x := range shape {
		n *= x
	}
	key := d.key(name)
	t := Tensor{Name: name, Type: d.typeOf(s), Shape: slices.Clone(shape)}
	mean, std := 0.0, 1/math.Sqrt(float64(shape[len(shape)-1]))
	switch s.Role {
	case Embedding:
		if !d.tied {
			std = 1
		}
	case Norm:
		mean, std = 1, 0.1
	case Bias:
		std = 0.02
	}
	if s.Role == Expert {
		t.Data = d.cut(key, n, t.Type, std)
	} else {
		t.Data = d.generate(key, n, t.Type, mean, std)
	}
	if t.Type == device.F8E4M3 {
		t.Scales = d.blockScales(key, shape, std)
	}
	return t, nil
}

// generate returns n elements, of the distribution where the type can hold it
// and with standard deviation dummyF8Unit in FP8.
func (d *dummy) generate(key uint64, n int, typ device.DType, mean, std float64) []byte {
	switch typ {
	case device.F32:
		return d.f32(key, n, mean, std)
	case device.BF16:
		return d.bf16(key, n, mean, std)
	}
	return d.e4m3(key, n)
}

// cut returns n elements of a pool of mean 0, from a place that depends on key.
func (d *dummy) cut(key uint64, n int, typ device.DType, std float64) []byte {
	const align = 16       // elements, so that copies start at whole words
	const spread = 1 << 20 // at least so many elements to begin at
	p := pool{typ, std}
	if typ == device.F8E4M3 {
		p.std = 0
	}
	size := typ.Size()
	d.mu.Lock()
	defer d.mu.Unlock()
	values := d.pools[p]
	if len(values) < n*size { // all experts of a model have one size: made once
		values = d.generate(d.key(fmt.Sprint("experts ", p)), n+max(n, spread), typ, 0, std)
		d.pools[p] = values
	}
	places := uint64(len(values)/size-n)/align + 1
	from := int(mix(key)%places) * align * size
	return values[from : from+n*size : from+n*size]
}

func (d *dummy) typeOf(s TensorSpec) device.DType {
	switch {
	case s.Role == Bias || strings.Contains(s.Name, ".indexer.k_norm."):
		return device.F32
	case s.Role == Projection || s.Role == Expert:
		return d.linear
	}
	return d.plain
}

// stored lists what the same model would have in files, scales apart.
func (d *dummy) stored() []Stored {
	list := make([]Stored, 0, len(d.specs))
	for _, name := range slices.Sorted(maps.Keys(d.specs)) {
		s := d.specs[name]
		typ := d.typeOf(s)
		dtype, _ := fileType(typ)
		bytes := int64(typ.Size())
		for _, x := range s.Shape {
			bytes *= int64(x)
		}
		list = append(list, Stored{name, "", dtype, slices.Clone(s.Shape), bytes})
	}
	return list
}

// key hashes the seed and a name (FNV-1a, then a finaliser).
func (d *dummy) key(name string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 0x100000001b3
	}
	return mix(h ^ mix(d.seed))
}

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood 2014): as a counter
// mode, mix(key + i·golden), it gives word i of a tensor's random stream.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

const golden = 0x9e3779b97f4a7c15

// The generators below write whole 64-bit words of hash: 4 elements from 12
// bits each, or 8 e4m3 elements from 8 bits each.

func (d *dummy) f32(key uint64, n int, mean, std float64) []byte {
	table := new([quantiles]uint32)
	for i, q := range d.normal {
		table[i] = math.Float32bits(float32(mean + std*float64(q)))
	}
	out := make([]byte, (n+3)/4*16)
	inParallel(len(out)/16, func(from, to int) {
		for i := from; i < to; i++ {
			h := mix(key + uint64(i)*golden)
			w := out[16*i : 16*i+16 : 16*i+16]
			binary.LittleEndian.PutUint64(w, uint64(table[h%quantiles])|uint64(table[h>>16%quantiles])<<32)
			binary.LittleEndian.PutUint64(w[8:], uint64(table[h>>32%quantiles])|uint64(table[h>>48%quantiles])<<32)
		}
	})
	return out[:4*n]
}

func (d *dummy) bf16(key uint64, n int, mean, std float64) []byte {
	table := new([quantiles]uint16)
	for i, q := range d.normal {
		table[i] = device.BF16FromF32(float32(mean + std*float64(q)))
	}
	out := make([]byte, (n+3)/4*8)
	inParallel(len(out)/8, func(from, to int) {
		for i := from; i < to; i++ {
			h := mix(key + uint64(i)*golden)
			binary.LittleEndian.PutUint64(out[8*i:8*i+8:8*i+8], uint64(table[h%quantiles])|uint64(table[h>>16%quantiles])<<16|
				uint64(table[h>>32%quantiles])<<32|uint64(table[h>>48%quantiles])<<48)
		}
	})
	return out[:2*n]
}

func (d *dummy) e4m3(key uint64, n int) []byte {
	out := make([]byte, (n+7)/8*8)
	inParallel(len(out)/8, func(from, to int) {
		for i := from; i < to; i++ {
			h := mix(key + uint64(i)*golden)
			w := uint64(d.f8[byte(h)]) | uint64(d.f8[byte(h>>8)])<<8 | uint64(d.f8[byte(h>>16)])<<16 | uint64(d.f8[byte(h>>24)])<<24 |
				uint64(d.f8[byte(h>>32)])<<32 | uint64(d.f8[byte(h>>40)])<<40 | uint64(d.f8[byte(h>>48)])<<48 | uint64(d.f8[h>>56])<<56
			binary.LittleEndian.PutUint64(out[8*i:8*i+8:8*i+8], w)
		}
	})
	return out[:n]
}

// inParallel calls f for ranges that cover [0, n), several at once if there is
// enough to do.
func inParallel(n int, f func(from, to int)) {
	const least = 1 << 14 // words a range, some 30 µs
	parts := max(1, min(runtime.GOMAXPROCS(0), n/least))
	var wg sync.WaitGroup
	for i := range parts - 1 {
		wg.Go(func() { f(n*i/parts, n*(i+1)/parts) })
	}
	f(n*(parts-1)/parts, n)
	wg.Wait()
}

// blockScales makes the multipliers of an FP8 matrix: around std/dummyF8Unit,
// different from block to block, powers of two if the configuration says so.
func (d *dummy) blockScales(key uint64, shape []int, std float64) []float32 {
	scales := make([]float32, (shape[0]+Block-1)/Block*((shape[1]+Block-1)/Block))
	for i := range scales {
		u := float64(mix(^key+uint64(i)*golden)>>11) / (1 << 53)
		s := std / dummyF8Unit * math.Exp2(u-0.5)
		if d.ue8m0 {
			s = math.Exp2(math.Round(math.Log2(s)))
		}
		scales[i] = float32(s)
	}
	return scales
}
