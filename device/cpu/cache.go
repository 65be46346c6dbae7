package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"latent/device"
	"latent/device/cpu/kern"
)

// cache implements device.Cache in one block of memory: for every layer the
// latent pool, then for every indexed layer the index-key pool.
//
// A latent pool is one record after another, in order of slots, so that a page
// is a matrix [64, R+dr] for the float32 format and needs one conversion for
// the others:
//
//	F32, BF16  c [R], k_rope [dr], in that type
//	F8         c [R] e4m3, scales [⌈R/128⌉] float32, k_rope [dr] bf16
//
// An index-key pool is one page after another. Scoring multiplies queries
// [·, Di] by keys [Di, 64], so a page is stored as [Di][64] in the cache's type,
// two panels of a product; in format F8 64 float32 scales follow.
type cache struct {
	spec   device.CacheSpec
	mem    *memory
	record int // bytes of a latent record
	page   int // bytes of an index-key page
	latent [][]byte
	index  [][]byte // nil for layers without an indexer
}

const pageTokens = device.PageTokens

// NewCache implements device.Device.
func (d *Device) NewCache(spec device.CacheSpec) (device.Cache, error) {
	if spec.Pages < 0 || spec.Layers < 1 || spec.Latent < 1 || spec.Rope < 0 || len(spec.Indexed) > 0 && spec.IndexDim < 1 {
		panic(fmt.Sprintf("cpu: NewCache: %+v", spec))
	}
	spec.Indexed = slices.Clone(spec.Indexed)
	layers := spec
	layers.Layers, layers.Indexed = 1, nil
	c := &cache{spec: spec, record: int(layers.TokenBytes())}
	layers.Layers, layers.Indexed = 0, []int{0}
	c.page = pageTokens * int(layers.TokenBytes())
	tokens := spec.Pages * pageTokens
	mem, err := d.alloc(int64(tokens) * spec.TokenBytes())
	if err != nil {
		return nil, fmt.Errorf("cpu: attention cache of %d pages: %w", spec.Pages, err)
	}
	c.mem = mem
	rest := mem.data
	take := func(n int) []byte {
		b := rest[:n:n]
		rest = rest[n:]
		return b
	}
	for range spec.Layers {
		c.latent = append(c.latent, take(tokens*c.record))
	}
	c.index = make([][]byte, spec.Layers)
	for _, l := range spec.Indexed {
		c.index[l] = take(spec.Pages * c.page)
	}
	return c, nil
}

func (c *cache) Spec() device.CacheSpec { return c.spec }
func (c *cache) Bytes() int64           { return c.mem.Bytes() }
func (c *cache) Free()                  { c.mem.Free() }

// width returns R+dr, the floats of a record.
func (c *cache) width() int { return c.spec.Latent + c.spec.Rope }

// cacheOf checks the arguments that name a layer of a cache.
func cacheOf(op string, ca device.Cache, layer int) *cache {
	c, ok := ca.(*cache)
	if !ok {
		panic(fmt.Sprintf("cpu: %s: cache is a %T", op, ca))
	}
	if layer < 0 || layer >= len(c.latent) {
		panic(fmt.Sprintf("cpu: %s: layer %d of a cache with %d layers", op, layer, len(c.latent)))
	}
	return c
}

// indexPool returns the index-key pool of a layer.
func (c *cache) indexPool(op string, layer int) []byte {
	if c.index[layer] == nil {
		panic(fmt.Sprintf("cpu: %s: layer %d of the cache has no index keys", op, layer))
	}
	return c.index[layer]
}

// StoreLatent implements device.Device.
func (d *Device) StoreLatent(ca device.Cache, layer int, u, weight device.Tensor, eps float32, rope device.Rope) {
	c := cacheOf("StoreLatent", ca, layer)
	r, n := c.spec.Latent, c.width()
	wantShape("StoreLatent", "u", u, len(d.step.Tokens), n)
	wantShape("StoreLatent", "weight", weight, 1, r)
	in, w := floats("StoreLatent", "u", u), floats("StoreLatent", "weight", weight)
	rot := newRotation("StoreLatent", rope)
	if rot.dr != c.spec.Rope {
		panic(fmt.Sprintf("cpu: StoreLatent: rope of %d elements for a cache with %d", rot.dr, c.spec.Rope))
	}
	d.overRows(u.Rows, 16*n, func(ws *arena, from, to int) {
		row := ws.floats(n)
		for i := from; i < to; i++ {
			d.rmsNorm(row[:r], in[i*n:][:r], w, eps)
			copy(row[r:], in[i*n+r:][:n-r])
			rot.apply(row[r:], d.step.Positions[i])
			d.storeRecord(c, c.latent[layer][int(d.step.Slots[i])*c.record:][:c.record], row)
		}
	})
}

// storeRecord writes one record [R+dr] in the cache's format.
func (d *Device) storeRecord(c *cache, dst []byte, row []float32) {
	r := c.spec.Latent
	switch c.spec.Format {
	case device.CacheF32:
		copy(cast[float32](dst), row)
	case device.CacheBF16:
		d.k.BF16FromF32(cast[uint16](dst), row)
	case device.CacheF8:
		block := min(128, r)
		scales := dst[r:]
		for from := 0; from < r; from += block {
			x := row[from:min(from+block, r)]
			scale := d.quantize(dst[from:], x)
			binary.LittleEndian.PutUint32(scales, math.Float32bits(scale))
			scales = scales[4:]
		}
		for i, v := range row[r:] {
			binary.LittleEndian.PutUint16(scales[2*i:], device.BF16FromF32(v))
		}
	}
}

// quantize rounds x to e4m3 with one scale, which it returns.
func (d *Device) quantize(dst []byte, x []float32) float32 {
	scale := device.QuantScale(d.k.AbsMax(x))
	d.k.F8FromF32(dst[:len(x)], x, 1/scale) // exact: scale is a power of two
	return scale
}

// loadRecords writes the records of the cached positions pos.. to dst [·, R+dr]
// with leading dimension ld, n of them, all in one page of the sequence.
func (d *Device) loadRecords(dst []float32, ld int, c *cache, layer int, seq *device.Seq, pos, n int) {
	for i := range n {
		d.loadRecord(dst[i*ld:], c, layer, slot(seq, pos+i))
	}
}

// slot returns the cache slot of a position.
func slot(seq *device.Seq, pos int) int {
	return int(seq.Pages[pos/pageTokens])*pageTokens + pos%pageTokens
}

// loadRecord writes the record in a slot to dst [R+dr].
func (d *Device) loadRecord(dst []float32, c *cache, layer, slot int) {
	n := c.width()
	src := c.latent[layer][slot*c.record:][:c.record]
	switch c.spec.Format {
	case device.CacheF32:
		copy(dst[:n], cast[float32](src))
	case device.CacheBF16:
		d.k.F32FromBF16(dst[:n], cast[uint16](src))
	case device.CacheF8:
		r := c.spec.Latent
		block := min(128, r)
		scales := src[r:]
		for from := 0; from < r; from += block {
			to := min(from+block, r)
			d.k.F32FromF8(dst[from:to], src[from:to], math.Float32frombits(binary.LittleEndian.Uint32(scales)))
			scales = scales[4:]
		}
		if r%2 == 0 {
			d.k.F32FromBF16(dst[r:c.width()], cast[uint16](scales))
			return
		}
		for i := range c.spec.Rope { // not aligned
			dst[r+i] = device.F32FromBF16(binary.LittleEndian.Uint16(scales[2*i:]))
		}
	}
}

// spreadRecords writes the records in slots to rows 0, 1, … of matrices in panels
// of kern.N columns, ld apart: those of R, then those of dr.
func (d *Device) spreadRecords(dst []float32, ld int, c *cache, layer int, slots []int32) {
	r, n, pool := c.spec.Latent, c.width(), c.latent[layer]
	// Where the panels of dr begin, and how much of a record is contiguous there.
	rope, first := panelsOf(r)*ld, r
	if r%kern.N == 0 {
		first = n
	}
	switch c.spec.Format {
	case device.CacheF32:
		x := cast[float32](pool)
		for i, s := range slots {
			rec := x[int(s)*n:][:n]
			d.k.SpreadF32(dst[i*kern.N:], ld, rec[:first])
			if first < n {
				d.k.SpreadF32(dst[rope+i*kern.N:], ld, rec[first:])
			}
		}
	case device.CacheBF16:
		x := cast[uint16](pool)
		for i, s := range slots {
			rec := x[int(s)*n:][:n]
			d.k.SpreadBF16(dst[i*kern.N:], ld, rec[:first])
			if first < n {
				d.k.SpreadBF16(dst[rope+i*kern.N:], ld, rec[first:])
			}
		}
	case device.CacheF8:
		for i, s := range slots {
			d.spreadF8(dst[i*kern.N:], ld, c, pool[int(s)*c.record:][:c.record])
		}
	}
}

// spreadF8 writes one record of format F8, as spreadRecords.
func (d *Device) spreadF8(dst []float32, ld int, c *cache, src []byte) {
	r := c.spec.Latent
	scales := src[r:]
	for from := 0; from < r; from += 128 {
		to := min(from+128, r)
		d.k.SpreadF8(dst[from/kern.N*ld:], ld, src[from:to], math.Float32frombits(binary.LittleEndian.Uint32(scales)))
		scales = scales[4:]
	}
	if c.spec.Rope == 0 {
		return
	}
	rope := dst[panelsOf(r)*ld:]
	if r%2 == 0 {
		d.k.SpreadBF16(rope, ld, cast[uint16](scales))
		return
	}
	for i := range c.spec.Rope { // not aligned
		rope[i/kern.N*ld+i%kern.N] = device.F32FromBF16(binary.LittleEndian.Uint16(scales[2*i:]))
	}
}

// StoreIndexKey implements device.Device.
func (d *Device) StoreIndexKey(ca device.Cache, layer int, k, weight, bias device.Tensor, eps float32, rope device.Rope) {
	c := cacheOf("StoreIndexKey", ca, layer)
	pool, n := c.indexPool("StoreIndexKey", layer), c.spec.IndexDim
	wantShape("StoreIndexKey", "k", k, len(d.step.Tokens), n)
	wantShape("StoreIndexKey", "weight", weight, 1, n)
	wantShape("StoreIndexKey", "bias", bias, 1, n)
	in, w, b := floats("StoreIndexKey", "k", k), floats("StoreIndexKey", "weight", weight), floats("StoreIndexKey", "bias", bias)
	rot := newRotation("StoreIndexKey", rope)
	if rot.dr > n {
		panic(fmt.Sprintf("cpu: StoreIndexKey: rope of %d elements for keys of %d", rot.dr, n))
	}
	d.overRows(k.Rows, 16*n, func(ws *arena, from, to int) {
		row := ws.floats(n)
		for i := from; i < to; i++ {
			layerNorm(row, in[i*n:][:n], w, b, eps)
			rot.apply(row[:rot.dr], d.step.Positions[i])
			if c.spec.Format == device.CacheF8 {
				hadamard(row)
			}
			s := int(d.step.Slots[i])
			d.storeKey(c, pool[s/pageTokens*c.page:][:c.page], s%pageTokens, row)
		}
	})
}

// layerNorm writes (x − mean)/sqrt(var + eps)·w + b to dst, with the population
// variance and sums in float64.
func layerNorm(dst, x, w, b []float32, eps float32) {
	var sum, squares float64
	for _, v := range x {
		sum += float64(v)
	}
	mean := sum / float64(len(x))
	for _, v := range x {
		squares += (float64(v) - mean) * (float64(v) - mean)
	}
	scale := 1 / math.Sqrt(squares/float64(len(x))+float64(eps))
	for i, v := range x {
		dst[i] = float32((float64(v)-mean)*scale*float64(w[i]) + float64(b[i]))
	}
}

// storeKey writes key row [Di] as column t of an index-key page.
func (d *Device) storeKey(c *cache, page []byte, t int, row []float32) {
	n := c.spec.IndexDim
	switch c.spec.Format {
	case device.CacheF32:
		p := cast[float32](page)
		for i, v := range row {
			p[i*pageTokens+t] = v
		}
	case device.CacheBF16:
		p := cast[uint16](page)
		for i, v := range row {
			p[i*pageTokens+t] = device.BF16FromF32(v)
		}
	case device.CacheF8:
		scale := device.QuantScale(d.k.AbsMax(row))
		for i, v := range row {
			page[i*pageTokens+t] = device.F8FromF32(v / scale)
		}
		binary.LittleEndian.PutUint32(page[n*pageTokens+4*t:], math.Float32bits(scale))
	}
}

// keyPage returns a page of index keys as float32 [Di][64], in buf unless it is
// stored like that, and the scales of its keys, nil if they have none.
func (d *Device) keyPage(buf []float32, c *cache, pool []byte, page int) (keys, scales []float32) {
	n := c.spec.IndexDim * pageTokens
	src := pool[page*c.page:][:c.page]
	switch c.spec.Format {
	case device.CacheF32:
		return cast[float32](src), nil
	case device.CacheBF16:
		d.k.F32FromBF16(buf[:n], cast[uint16](src))
		return buf, nil
	}
	d.k.F32FromF8(buf[:n], src[:n], 1)
	return buf, cast[float32](src[n:])
}

// hadamard multiplies x by H·n^−½ (Sylvester order) if its length n is a power
// of two.
func hadamard(x []float32) {
	n := len(x)
	if n&(n-1) != 0 {
		return
	}
	for half := 1; half < n; half *= 2 {
		for from := 0; from < n; from += 2 * half {
			a, b := x[from:][:half], x[from+half:][:half]
			for i, v := range a {
				a[i], b[i] = v+b[i], v-b[i]
			}
		}
	}
	scale := float32(1 / math.Sqrt(float64(n)))
	for i := range x {
		x[i] *= scale
	}
}
