// What is written to the attention cache, each row in one piece: StoreLatent
// (RMSNorm, rotation, rounding) and StoreIndexKey (LayerNorm, rotation, and with
// an FP8 cache Hadamard transform and rounding).
//
// A latent record is bf16 [R+dr], or R e4m3 codes, ceil(R/min(128, R)) float32
// scales and bf16 [dr] (656 bytes for R 512, dr 64). Index keys are bf16 [Di] by
// slot, or pages of 64·Di codes and 64 float32 scales. Values are rounded once,
// from float.
//
//latent:unit cache hot
#include "indexhead.cuh"

// ---- StoreLatent ----

struct StoreLatent {
  u8* pool;              // the layer's records
  const bf16* u;         // [rows, latent+rope]
  const float* weight;   // [latent]
  const i32* positions;  // [rows]
  const i32* slots;      // [rows]
  Rope rope;
  i64 record;  // bytes of a record
  i32 rows, latent;
  float eps;
  i32 fp8;
};

// store_latent takes R 512 and dr 64, a warp a row: lane l holds elements
// 8l..8l+7 and 256 more, and rotation l of the rope key.
KERNEL store_latent(const StoreLatent p) {
  constexpr int R = 512, DR = 64;
  int l = lane_id();
  i32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  float w[2][8];
  load8(w[0], p.weight + 8 * l);
  load8(w[1], p.weight + 256 + 8 * l);
  grid_wait();
  if (row >= p.rows) return;
  const bf16* u = p.u + (i64)row * (R + DR);
  u8* record = p.pool + p.record * __ldg(p.slots + row);
  i64 at = (i64)__ldg(p.positions + row) * (DR / 2) + l;
  float x[2][8];
  load8(x[0], u + 8 * l);
  load8(x[1], u + 256 + 8 * l);
  int ia, ib;
  p.rope.pair(l, ia, ib);
  float a = bf16_float(u[R + ia]), b = bf16_float(u[R + ib]);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += x[0][i] * x[0][i] + x[1][i] * x[1][i];
  float norm = inverse_root(warp_sum(sum) * (1.0f / R) + p.eps);
#pragma unroll
  for (int v = 0; v < 2; v++) {
#pragma unroll
    for (int i = 0; i < 8; i++) x[v][i] = x[v][i] * norm * w[v][i];
  }
  rotate(a, b, __ldg(p.rope.cos + at), __ldg(p.rope.sin + at));
  bf16* rope = (bf16*)record + R;
  if (p.fp8) {
    rope = (bf16*)(record + R + 16);
#pragma unroll
    for (int v = 0; v < 2; v++) {  // a block of 128 is 16 lanes
      float m = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) m = fmaxf(m, fabsf(x[v][i]));
#pragma unroll
      for (int d = 1; d < 16; d <<= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, d));
      float scale = quant_scale(m);
      store8_e4m3(record + 256 * v + 8 * l, x[v], inverse_scale(scale));
      if (l % 16 == 0) ((float*)(record + R))[2 * v + l / 16] = scale;
    }
  } else {
    store8((bf16*)record + 8 * l, x[0]);
    store8((bf16*)record + 256 + 8 * l, x[1]);
  }
  rope[ia] = float_bf16(a);
  rope[ib] = float_bf16(b);
}

// store_f32 writes to an address of any alignment.
DEVICE void store_f32(u8* p, float f) {
  u32 bits = __float_as_uint(f);
  for (int i = 0; i < 4; i++) p[i] = (u8)(bits >> 8 * i);
}

// store_bf16 likewise. Its bytes come from a 32-bit register: ptxas 13.0 takes
// the low byte of a bf16 that was just rounded for a conversion of a half.
DEVICE void store_bf16(u8* p, float f) {
  u32 bits = pack_bf16(f, 0);
  p[0] = (u8)bits;
  p[1] = (u8)(bits >> 8);
}

// store_latent_any takes any sizes, a warp a row. Records of odd R are not
// aligned.
KERNEL store_latent_any(const StoreLatent p) {
  grid_wait();
  i32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (row >= p.rows) return;
  int R = p.latent, l = lane_id();
  const bf16* u = p.u + (i64)row * (R + 2 * p.rope.half);
  u8* record = p.pool + p.record * __ldg(p.slots + row);
  float sum = 0;
  for (int i = l; i < R; i += WARP) sum += bf16_float(u[i]) * bf16_float(u[i]);
  float norm = inverse_root(warp_sum(sum) / R + p.eps);
  u8* rope = record + 2 * R;
  if (p.fp8) {
    int block = min(128, R);
    u8* scales = record + R;
    for (int from = 0; from < R; from += block, scales += 4) {
      int to = min(from + block, R);
      float m = 0;
      for (int i = from + l; i < to; i += WARP) m = fmaxf(m, fabsf(bf16_float(u[i]) * norm * p.weight[i]));
      float scale = quant_scale(warp_max(m)), inverse = inverse_scale(scale);
      for (int i = from + l; i < to; i += WARP) record[i] = float_e4m3(bf16_float(u[i]) * norm * p.weight[i] * inverse);
      if (l == 0) store_f32(scales, scale);
    }
    rope = scales;
  } else {
    for (int i = l; i < R; i += WARP) store_bf16(record + 2 * i, bf16_float(u[i]) * norm * p.weight[i]);
  }
  i64 at = (i64)__ldg(p.positions + row) * p.rope.half;
  for (int i = l; i < p.rope.half; i += WARP) {
    int ia, ib;
    p.rope.pair(i, ia, ib);
    float a = bf16_float(u[R + ia]), b = bf16_float(u[R + ib]);
    rotate(a, b, __ldg(p.rope.cos + at + i), __ldg(p.rope.sin + at + i));
    store_bf16(rope + 2 * ia, a);
    store_bf16(rope + 2 * ib, b);
  }
}

// ---- StoreIndexKey ----

struct StoreIndexKey {
  u8* pool;             // the layer's keys
  const bf16* k;        // [rows, dim]
  const float* weight;  // [dim]
  const float* bias;    // [dim]
  const i32* positions;
  const i32* slots;
  Rope rope;
  i32 rows, dim;
  float eps;
  i32 fp8;

  DEVICE u8* page(i32 slot) const { return pool + (i64)(slot / PAGE_TOKENS) * (PAGE_TOKENS * (dim + 4)); }
  DEVICE e4m3* codes(i32 slot) const { return page(slot) + slot % PAGE_TOKENS * dim; }
  DEVICE float* scale(i32 slot) const { return (float*)(page(slot) + PAGE_TOKENS * dim) + slot % PAGE_TOKENS; }
  DEVICE bf16* key(i32 slot) const { return (bf16*)pool + (i64)slot * dim; }
};

// store_index_key takes keys of 128 with 64 rotated, 8 lanes a row.
KERNEL store_index_key(const StoreIndexKey p) {
  int l = threadIdx.x % HEAD_LANES;
  i32 row = (blockIdx.x * blockDim.x + threadIdx.x) / HEAD_LANES;
  float wl[8], wh[8], bl[8], bh[8];
  load8(wl, p.weight + 8 * l);
  load8(wh, p.weight + 64 + 8 * l);
  load8(bl, p.bias + 8 * l);
  load8(bh, p.bias + 64 + 8 * l);
  grid_wait();
  bool live = row < p.rows;
  if (!live) row = p.rows - 1;
  i32 pos = __ldg(p.positions + row), slot = __ldg(p.slots + row);
  Head x;
  load8(x.lo, p.k + (i64)row * HEAD + 8 * l);
  load8(x.hi, p.k + (i64)row * HEAD + 64 + 8 * l);
  float sum = 0, squares = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += x.lo[i] + x.hi[i];
  float mean = head_sum(sum) * (1.0f / HEAD);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    x.lo[i] -= mean;
    x.hi[i] -= mean;
    squares += x.lo[i] * x.lo[i] + x.hi[i] * x.hi[i];
  }
  float norm = inverse_root(head_sum(squares) * (1.0f / HEAD) + p.eps);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    x.lo[i] = x.lo[i] * norm * wl[i] + bl[i];
    x.hi[i] = x.hi[i] * norm * wh[i] + bh[i];
  }
  x.rotate(p.rope, pos);
  if (!p.fp8) {
    if (!live) return;
    store8(p.key(slot) + 8 * l, x.lo);
    store8(p.key(slot) + 64 + 8 * l, x.hi);
    return;
  }
  x.hadamard();
  float scale = quant_scale(x.absmax());
  if (!live) return;
  x.store_codes(p.codes(slot), scale);
  if (l == 0) *p.scale(slot) = scale;
}

// store_index_key_any takes keys of any size, a warp a row, with dim floats of
// shared memory for each warp.
KERNEL store_index_key_any(const StoreIndexKey p) {
  extern __shared__ float shared[];
  grid_wait();
  i32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (row >= p.rows) return;
  int n = p.dim, l = lane_id();
  float* x = shared + threadIdx.x / WARP * n;
  i32 slot = __ldg(p.slots + row);
  float sum = 0, squares = 0;
  for (int i = l; i < n; i += WARP) sum += x[i] = bf16_float(p.k[(i64)row * n + i]);
  float mean = warp_sum(sum) / n;
  for (int i = l; i < n; i += WARP) squares += (x[i] - mean) * (x[i] - mean);
  float norm = inverse_root(warp_sum(squares) / n + p.eps);
  for (int i = l; i < n; i += WARP) x[i] = (x[i] - mean) * norm * p.weight[i] + p.bias[i];
  __syncwarp();
  rotate_any(x, p.rope, __ldg(p.positions + row));
  if (!p.fp8) {
    for (int i = l; i < n; i += WARP) p.key(slot)[i] = float_bf16(x[i]);
    return;
  }
  hadamard_any(x, n);
  float scale = quant_scale(absmax_any(x, n)), inverse = inverse_scale(scale);
  for (int i = l; i < n; i += WARP) p.codes(slot)[i] = float_e4m3(x[i] * inverse);
  if (l == 0) *p.scale(slot) = scale;
}
