package cuda

import (
	"fmt"
	"slices"
	"unsafe"

	"latent/device"
	"latent/device/cuda/driver"
)

// expanded finds the expansion in a memory: its address, its layout and for how
// many keys. The memory may be larger than KVBytes asked for.
func expanded(op string, kv device.Memory, w *kvb, rope int) (base driver.Ptr, e expansion, keys int) {
	m, ok := kv.(*memory)
	if !ok {
		panic(fmt.Sprintf("cuda: %s: kv is a %T", op, kv))
	}
	perKey := 2 * int64(w.heads*(w.nope+w.value)+rope+w.latent)
	keys = int(m.bytes / perKey)
	for e = expandedLayout(w, rope, keys); e.bytes > m.bytes; e = expandedLayout(w, rope, keys) {
		keys--
	}
	return m.addr, e, keys
}

// pieceKeys is how many keys a block of expand.cu gathers.
const pieceKeys = 16

// ExpandKV implements device.Device: the cached records become rows of latents
// and the panel of rope keys, then one product makes the keys and values of all
// heads.
func (d *Device) ExpandKV(kv device.Memory, ca device.Cache, layer int, kw device.KVB, ranges []device.KeyRange) {
	c, w := cacheOf("ExpandKV", ca), kvbOf("ExpandKV", kw)
	if c.spec.Latent != w.latent {
		panic(fmt.Sprintf("cuda: ExpandKV: cached latents of %d for kv_b of %d", c.spec.Latent, w.latent))
	}
	base, e, keys := expanded("ExpandKV", kv, w, c.spec.Rope)
	step := d.geometry.step
	pieces := 0
	for _, r := range ranges {
		if r.Seq < 0 || r.Seq >= len(step.Seqs) || r.From < 0 || r.From > r.To || r.To > step.Seqs[r.Seq].Context() ||
			r.Keys < 0 || r.Keys+r.To-r.From > keys {
			panic(fmt.Sprintf("cuda: ExpandKV: range %+v of %d sequences, memory for %d keys", r, len(step.Seqs), keys))
		}
		pieces += divUp(r.To-r.From, pieceKeys)
	}
	if pieces == 0 {
		return
	}
	latents := base + driver.Ptr(e.latents)
	launch(d, d.kernel("expand", "expand_gather"), grid1(pieces), block1(256), 0, &expandParams{
		Cache: c.latents(layer), Pieces: d.pieces(ranges, pieces), Latents: latents, RopeKeys: base + driver.Ptr(e.rope),
		Pages: d.pages(), Record: c.latentPitch, Latent: int32(w.latent), Rope: int32(c.spec.Rope),
		F8: flag(c.spec.Format == device.CacheF8), Block: int32(min(128, w.latent)),
	})
	outputs := w.heads * (w.nope + w.value)
	for i := 0; i < len(ranges); {
		// Ranges that follow one another are one product.
		first, to := ranges[i].Keys, ranges[i].Keys
		for ; i < len(ranges) && ranges[i].Keys == to; i++ {
			to += ranges[i].To - ranges[i].From
		}
		if first < to {
			d.products.queue(weightSpec(driver.MatmulBF16, driver.MatmulBF16, to-first, outputs, w.latent), driver.MatmulCall{
				A: w.mem.addr, B: latents + driver.Ptr(2*first*w.latent), D: base + driver.Ptr(2*first*outputs),
			})
		}
	}
}

// expandPiece mirrors struct Piece of expand.cu.
type expandPiece struct{ Seq, Pos, N, Key int32 }

// pieces returns the n pieces of ranges on the device. The layers of a step
// share them.
func (d *Device) pieces(ranges []device.KeyRange, n int) driver.Ptr {
	const words = int(unsafe.Sizeof(expandPiece{}) / 4)
	known := d.geometry.known
	key := stageKey{"expand", unsafe.Pointer(unsafe.SliceData(ranges)), len(ranges), 0}
	if s, ok := known[key]; ok && slices.EqualFunc(ranges, s.runs, func(k device.KeyRange, r device.Run) bool { return runOf(k) == r }) {
		return s.addr
	}
	s := staged{addr: d.stage(words*n, func(dst []int32) {
		list := unsafe.Slice((*expandPiece)(unsafe.Pointer(unsafe.SliceData(dst))), n)
		next := 0
		for _, r := range ranges {
			for from := r.From; from < r.To; from += pieceKeys {
				list[next] = expandPiece{int32(r.Seq), int32(from), int32(min(pieceKeys, r.To-from)), int32(r.Keys + from - r.From)}
				next++
			}
		}
	})}
	for _, k := range ranges {
		s.runs = append(s.runs, runOf(k))
	}
	known[key] = s
	return s.addr
}

// runOf puts a range into the fields of a run, as what is staged remembers it.
func runOf(k device.KeyRange) device.Run {
	return device.Run{Seq: k.Seq, KeyFrom: k.From, KeyTo: k.To, Keys: k.Keys}
}

// expandParams mirrors struct Expand of expand.cu.
type expandParams struct {
	Cache, Pieces, Latents, RopeKeys driver.Ptr
	Pages                            Pages
	Record                           int64
	Latent, Rope, F8, Block          int32
}
