package cuda

import "latent/device"

// expansion is the layout of expanded keys and values in a memory: per key and
// head the key's part without rotation and the value, bf16 [keys, H, dn | dv];
// the rotated part of the key, the same for all heads, bf16 [keys, dr]; and the
// latents they are made from, bf16 [keys, R].
type expansion struct {
	rope, latents int64 // byte offsets
	bytes         int64
}

// expandedLayout returns the layout for a number of keys. Its parts begin at
// multiples of 256 bytes.
func expandedLayout(kvb device.KVB, rope, keys int) expansion {
	const align = 256
	up := func(n int64) int64 { return (n + align - 1) / align * align }
	k := int64(keys)
	e := expansion{rope: up(2 * k * int64(kvb.Heads()) * int64(kvb.Nope()+kvb.Value()))}
	e.latents = up(e.rope + 2*k*int64(rope))
	e.bytes = e.latents + 2*k*int64(kvb.Latent())
	return e
}

// KVBytes implements device.Device.
func (d *Device) KVBytes(kvb device.KVB, rope, keys int) int64 {
	return expandedLayout(kvb, rope, keys).bytes
}
