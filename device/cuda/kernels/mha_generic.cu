// Multi-head attention over expanded keys for head sizes that mha.cu does not
// have: any DN, DR and DV up to 256, on the ordinary arithmetic units. Inputs
// and outputs are those of mha.cu.
//
// A thread block takes a block of up to 16 query rows of one head, four rows a
// warp, and goes through the keys 32 at a time: for scores a lane is a key, for
// outputs it is every 32nd column.
//
//latent:unit mha_generic
#include "mha.cuh"

static constexpr int ROWS = 16, WARPS = 4, WARP_ROWS = ROWS / WARPS;
static constexpr int KEYS = 32;
static constexpr int MAX_DV = 256;

struct Params {
  const bf16* q;     // [T, H, dn+dr]
  const bf16* kv;    // [keys, H, dn | dv]
  const bf16* rope;  // [keys, dr]
  bf16* out;         // [T, H, dv]
  float* lse;        // [T, H]
  const u32* mask;   // rows of pitch words
  const MhaBlock* blocks;
  i32 heads, dn, dr, dv, pitch;
  float scale;
};

// selected tells whether a mask row has the key at a position.
DEVICE bool selected(const u32* row, int pos) {
  int key = pos % MASK_KEYS;
  u32 word = __ldg(row + pos / MASK_KEYS * MASK_WORDS + key % 8 / 2);
  return word >> (key / 8 * 2 + key % 2) & 1;
}

// Shared memory: queries f32 [16][width], keys bf16 [32][pitch], values
// bf16 [32][dv]. width is the head size made even, and pitch an odd number of
// words, so that lanes that read a column of keys meet different banks.
KERNEL mha_generic(const Params p) {
  extern __shared__ float shared[];
  const MhaBlock b = p.blocks[blockIdx.x];
  const int head = blockIdx.y, dim = p.dn + p.dr;
  const int width = (dim + 1) & ~1, pitch = (width / 2 | 1) * 2;
  float* q = shared;
  bf16* k = (bf16*)(q + ROWS * width);
  bf16* v = k + KEYS * pitch;

  for (int i = threadIdx.x; i < ROWS * width; i += blockDim.x) {
    int r = i / width, d = i % width;
    bool there = r < b.rows && d < dim;
    q[i] = there ? bf16_float(p.q[((i64)(b.row + r) * p.heads + head) * dim + d]) : 0.0f;
  }
  const int first = warp_id() * WARP_ROWS, lane = lane_id();
  const float scale2 = p.scale * LOG2E;
  float top[WARP_ROWS], sum[WARP_ROWS], o[WARP_ROWS][MAX_DV / 32];
  for (int r = 0; r < WARP_ROWS; r++) {
    top[r] = -1e30f, sum[r] = 0;
    for (int c = 0; c < MAX_DV / 32; c++) o[r][c] = 0;
  }

  const int end = min(b.to, b.pos + b.rows);
  for (int from = b.from; from < end; from += KEYS) {
    const int n = min(KEYS, end - from);
    __syncthreads();
    for (int key = warp_id(); key < KEYS; key += WARPS) {
      i64 at = b.keys + from - b.from + key;
      const bf16* record = p.kv + (at * p.heads + head) * (p.dn + p.dv);
      for (int d = lane; d < pitch; d += 32) {
        bf16 x = 0;
        if (key < n && d < dim) x = d < p.dn ? record[d] : p.rope[at * p.dr + d - p.dn];
        k[key * pitch + d] = x;
      }
      for (int d = lane; d < p.dv; d += 32) v[key * p.dv + d] = key < n ? record[p.dn + d] : 0;
    }
    __syncthreads();

    float s[WARP_ROWS] = {};
    for (int d = 0; d < width; d += 2) {
      u32 pair = *(const u32*)(k + lane * pitch + d);
      for (int r = 0; r < WARP_ROWS; r++) {
        const float* x = q + (first + r) * width + d;
        s[r] = fmaf(x[0], bf16_lo(pair), s[r]);
        s[r] = fmaf(x[1], bf16_hi(pair), s[r]);
      }
    }
    for (int r = 0; r < WARP_ROWS; r++) {
      int row = first + r, pos = from + lane;
      bool seen = lane < n && pos <= b.pos + row && row < b.rows;
      if (seen && b.sel >= 0) seen = selected(p.mask + (i64)(b.sel + row) * p.pitch, pos);
      s[r] = seen ? s[r] * scale2 : NEG_INF;
      float now = fmaxf(top[r], warp_max(s[r]));
      float factor = exp2_fast(top[r] - now);
      s[r] = exp2_fast(s[r] - now);
      top[r] = now;
      sum[r] = sum[r] * factor + warp_sum(s[r]);
      for (int c = 0; c < MAX_DV / 32; c++) o[r][c] *= factor;
    }
    for (int key = 0; key < n; key++) {
      float w[WARP_ROWS];
      for (int r = 0; r < WARP_ROWS; r++) w[r] = __shfl_sync(~0u, s[r], key);
      for (int c = 0; c < MAX_DV / 32; c++) {
        if (c * 32 + lane >= p.dv) break;
        float x = bf16_float(v[key * p.dv + c * 32 + lane]);
        for (int r = 0; r < WARP_ROWS; r++) o[r][c] = fmaf(w[r], x, o[r][c]);
      }
    }
  }

  for (int r = 0; r < WARP_ROWS; r++) {
    if (first + r >= b.rows) break;
    i64 at = (i64)(b.row + first + r) * p.heads + head;
    float norm = sum[r] == 0 ? 0 : 1 / sum[r];
    for (int c = 0; c < MAX_DV / 32; c++) {
      int d = c * 32 + lane;
      if (d < p.dv) p.out[at * p.dv + d] = float_bf16(o[r][c] * norm);
    }
    if (lane == 0) p.lse[at] = sum[r] == 0 ? NEG_INF : (top[r] + __log2f(sum[r])) * LN2;
  }
}
