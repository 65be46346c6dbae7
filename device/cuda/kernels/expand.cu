// Cached records to operands of the expansion of keys and values: latents as
// rows of a matrix in bf16, rope keys to the panel that all heads share. The
// matrix product with kv_b follows.
//
//latent:unit expand

// Piece is up to 16 consecutive positions of a sequence that become consecutive
// keys of the expansion.
struct Piece {
  i32 seq, pos, n, key;
};

struct Expand {
  const u8* cache;       // records of the layer
  const Piece* pieces;
  bf16* latents;         // [keys, latent]
  bf16* rope_keys;       // [keys, rope]
  Pages pages;
  i64 record;            // bytes
  i32 latent, rope;      // R, dr
  i32 f8;                // record: R e4m3, a scale for each block, dr bf16; else R+dr bf16
  i32 block;             // elements that share a scale
};

// copy_row copies n bf16, 16 bytes a lane where both ends are aligned.
DEVICE void copy_row(bf16* dst, const bf16* src, int n, int lane) {
  int i = lane;
  if ((((u64)dst | (u64)src) & 15) == 0) {
    for (; i < n / 8; i += WARP) ((uint4*)dst)[i] = __ldg((const uint4*)src + i);
    i = n / 8 * 8 + lane;
  }
  for (; i < n; i += WARP) dst[i] = src[i];
}

// widen_f8 decodes a record of codes, scales and rope key.
DEVICE void widen_f8(const Expand& p, bf16* latent, bf16* rope, const u8* record, int lane) {
  const float* scales = (const float*)(record + p.latent);
  for (int c = lane * 4; c < p.latent; c += WARP * 4) {
    u32 codes = *(const u32*)(record + c);
    float scale = scales[c / p.block];
    float2 lo = e4m3_float2((u16)codes), hi = e4m3_float2((u16)(codes >> 16));
    *(uint2*)(latent + c) = make_uint2(pack_bf16(lo.x * scale, lo.y * scale), pack_bf16(hi.x * scale, hi.y * scale));
  }
  copy_row(rope, (const bf16*)(scales + (p.latent + p.block - 1) / p.block), p.rope, lane);
}

// widen_f8_any does so for latents of any size, after which nothing is aligned.
DEVICE void widen_f8_any(const Expand& p, bf16* latent, bf16* rope, const u8* record, int lane) {
  const u8* scales = record + p.latent;
  for (int c = lane; c < p.latent; c += WARP) {
    const u8* s = scales + 4 * (c / p.block);
    float scale = __uint_as_float(s[0] | s[1] << 8 | s[2] << 16 | (u32)s[3] << 24);
    latent[c] = float_bf16(e4m3_float(record[c]) * scale);
  }
  const u8* key = scales + 4 * ((p.latent + p.block - 1) / p.block);
  for (int c = lane; c < p.rope; c += WARP) rope[c] = (bf16)(key[2 * c] | key[2 * c + 1] << 8);
}

// One block a piece, a warp a record.
KERNEL expand_gather(const __grid_constant__ Expand p) {
  Piece piece = p.pieces[blockIdx.x];
  int lane = lane_id();
  for (int i = threadIdx.x / WARP; i < piece.n; i += blockDim.x / WARP) {
    const u8* record = p.cache + p.record * p.pages.slot(piece.seq, piece.pos + i);
    bf16* latent = p.latents + (i64)(piece.key + i) * p.latent;
    bf16* rope = p.rope_keys + (i64)(piece.key + i) * p.rope;
    if (p.f8 && p.latent % 4 == 0 && p.rope % 2 == 0) {
      widen_f8(p, latent, rope, record, lane);
    } else if (p.f8) {
      widen_f8_any(p, latent, rope, record, lane);
    } else {
      copy_row(latent, (const bf16*)record, p.latent, lane);
      copy_row(rope, (const bf16*)record + p.latent, p.rope, lane);
    }
  }
}
