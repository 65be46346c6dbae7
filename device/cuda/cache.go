package cuda

import (
	"fmt"
	"slices"

	"latent/device"
	"latent/device/cuda/driver"
)

// cache implements device.Cache in one block of memory: for every layer the
// pool of latents, then for every indexed layer the pool of index keys. A pool
// begins at a multiple of 256 bytes. kernels/cache.cu describes the records.
type cache struct {
	spec        device.CacheSpec
	mem         *memory
	latentPitch int64   // bytes of a latent record
	indexPage   int64   // bytes of a page of index keys
	latentPool  int64   // bytes of a layer's latents
	index       []int64 // byte offset of a layer's index keys, -1 for none
}

// NewCache implements device.Device for the formats CacheBF16 and CacheF8.
func (d *Device) NewCache(spec device.CacheSpec) (device.Cache, error) {
	if spec.Pages < 0 || spec.Layers < 1 || spec.Latent < 1 || spec.Rope < 0 || len(spec.Indexed) > 0 && spec.IndexDim < 1 {
		panic(fmt.Sprintf("cuda: NewCache: %+v", spec))
	}
	if spec.Format != device.CacheBF16 && spec.Format != device.CacheF8 {
		return nil, fmt.Errorf("cuda: attention cache in %v: the GPU backend has bfloat16 and fp8_e4m3", spec.Format)
	}
	spec.Indexed = slices.Clone(spec.Indexed)
	one := spec
	one.Layers, one.Indexed = 1, nil
	c := &cache{spec: spec, latentPitch: one.TokenBytes()}
	one.Layers, one.Indexed = 0, []int{0}
	c.indexPage = device.PageTokens * one.TokenBytes()

	const align = 256
	up := func(n int64) int64 { return (n + align - 1) / align * align }
	c.latentPool = up(int64(spec.Pages) * device.PageTokens * c.latentPitch)
	indexPool := up(int64(spec.Pages) * c.indexPage)
	c.index = slices.Repeat([]int64{-1}, spec.Layers)
	bytes := int64(spec.Layers) * c.latentPool
	for _, l := range spec.Indexed {
		c.index[l] = bytes
		bytes += indexPool
	}
	mem, err := d.alloc(bytes)
	if err != nil {
		return nil, fmt.Errorf("cuda: attention cache of %d pages: %w", spec.Pages, err)
	}
	c.mem = mem
	return c, nil
}

func (c *cache) Spec() device.CacheSpec { return c.spec }
func (c *cache) Bytes() int64           { return c.mem.Bytes() }
func (c *cache) Free()                  { c.mem.Free() }

// tokens returns the number of slots.
func (c *cache) tokens() int { return c.spec.Pages * device.PageTokens }

// latents returns the address of a layer's records, [tokens] of latentPitch
// bytes.
func (c *cache) latents(layer int) driver.Ptr {
	if layer < 0 || layer >= c.spec.Layers {
		panic(fmt.Sprintf("cuda: layer %d of a cache with %d layers", layer, c.spec.Layers))
	}
	return c.mem.addr + driver.Ptr(int64(layer)*c.latentPool)
}

// indexKeys returns the address of a layer's index keys, [pages] of indexPage
// bytes.
func (c *cache) indexKeys(layer int) driver.Ptr {
	if layer < 0 || layer >= c.spec.Layers || c.index[layer] < 0 {
		panic(fmt.Sprintf("cuda: layer %d of a cache with %d layers has no index keys", layer, c.spec.Layers))
	}
	return c.mem.addr + driver.Ptr(c.index[layer])
}

// cacheOf returns the cache of this backend.
func cacheOf(op string, ca device.Cache) *cache {
	c, ok := ca.(*cache)
	if !ok {
		panic(fmt.Sprintf("cuda: %s: cache is a %T", op, ca))
	}
	return c
}

// wantSlots panics unless the cache has all slots of the step.
func (d *Device) wantSlots(op string, c *cache) {
	for _, s := range d.geometry.step.Slots {
		if s < 0 || int(s) >= c.tokens() {
			panic(fmt.Sprintf("cuda: %s: slot %d of a cache with %d", op, s, c.tokens()))
		}
	}
}

// storeWarps are the warps of a block that stores, each a row at a time.
const storeWarps = 4

type storeLatentParams struct {
	Pool, U, Weight, Positions, Slots driver.Ptr
	Rope                              rotation
	Record                            int64
	Rows, Latent                      int32
	Eps                               float32
	F8                                int32
}

// StoreLatent implements device.Device.
func (d *Device) StoreLatent(ca device.Cache, layer int, u, weight device.Tensor, eps float32, rope device.Rope) {
	c := cacheOf("StoreLatent", ca)
	r := c.spec.Latent
	want("StoreLatent", "u", u, device.BF16, len(d.geometry.step.Tokens), r+c.spec.Rope)
	want("StoreLatent", "weight", weight, device.F32, 1, r)
	rot := d.rotation("StoreLatent", rope)
	if rot.dim() != c.spec.Rope {
		panic(fmt.Sprintf("cuda: StoreLatent: rope of %d elements for a cache with %d", rot.dim(), c.spec.Rope))
	}
	d.wantSlots("StoreLatent", c)
	p := storeLatentParams{
		Pool: c.latents(layer), U: ptr(u), Weight: ptr(weight), Positions: d.positions(), Slots: d.slots(),
		Rope: rot, Record: c.latentPitch, Rows: int32(u.Rows), Latent: int32(r), Eps: eps,
	}
	if c.spec.Format == device.CacheF8 {
		p.F8 = 1
	}
	kernel := "store_latent_any"
	if r == 512 && rot.dim() == 64 && aligned(p.U, p.Weight) {
		kernel = "store_latent"
	}
	launch(d, d.kernel("cache", kernel), grid1(divUp(u.Rows, storeWarps)), block1(32*storeWarps), 0, &p)
}

type storeIndexKeyParams struct {
	Pool, K, Weight, Bias, Positions, Slots driver.Ptr
	Rope                                    rotation
	Rows, Dim                               int32
	Eps                                     float32
	F8                                      int32
}

// StoreIndexKey implements device.Device.
func (d *Device) StoreIndexKey(ca device.Cache, layer int, k, weight, bias device.Tensor, eps float32, rope device.Rope) {
	c := cacheOf("StoreIndexKey", ca)
	n := c.spec.IndexDim
	want("StoreIndexKey", "k", k, device.BF16, len(d.geometry.step.Tokens), n)
	want("StoreIndexKey", "weight", weight, device.F32, 1, n)
	want("StoreIndexKey", "bias", bias, device.F32, 1, n)
	rot := d.rotation("StoreIndexKey", rope)
	if rot.dim() > n {
		panic(fmt.Sprintf("cuda: StoreIndexKey: rope of %d elements for keys of %d", rot.dim(), n))
	}
	d.wantSlots("StoreIndexKey", c)
	p := storeIndexKeyParams{
		Pool: c.indexKeys(layer), K: ptr(k), Weight: ptr(weight), Bias: ptr(bias), Positions: d.positions(), Slots: d.slots(),
		Rope: rot, Rows: int32(k.Rows), Dim: int32(n), Eps: eps,
	}
	if c.spec.Format == device.CacheF8 {
		p.F8 = 1
	}
	if n == indexHeadDim && rot.dim() == indexHeadRope && aligned(p.K, p.Weight, p.Bias) && rot.aligned() {
		const rows = 4 * storeWarps // of a block
		launch(d, d.kernel("cache", "store_index_key"), grid1(divUp(k.Rows, rows)), block1(32*storeWarps), 0, &p)
		return
	}
	launch(d, d.kernel("cache", "store_index_key_any"), grid1(divUp(k.Rows, storeWarps)), block1(32*storeWarps), storeWarps*n*4, &p)
}
