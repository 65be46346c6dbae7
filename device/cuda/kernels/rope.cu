// Rotary positions of queries, in place: RopeQuery for the heads of attention,
// IndexQuery for those of the indexer, with what an FP8 cache needs besides.
//
// q of RopeQuery is bf16 [T, H, dn+dr], the last dr are rotated. q of IndexQuery
// is bf16 [n, Hi, Di], the first dr are rotated; for an FP8 cache each row
// becomes Hi·Di e4m3 codes in its first half, the second half is left over, and
// the head's scale goes into weights float32 [n, Hi].
//
//latent:unit rope hot
#include "indexhead.cuh"

// ---- RopeQuery ----

struct RopeQuery {
  bf16* q;               // [rows, heads, width]
  const i32* positions;  // [rows]
  Rope rope;
  i32 heads, width;
  i32 per;     // threads for a head
  i32 chunks;  // blocks for a row
};

// rope_query rotates 8 elements (interleaved) or two times 8 (half-split) in a
// thread: dr is a multiple of 8 or 16, and rows and tables are aligned.
KERNEL rope_query(const RopeQuery p) {
  grid_wait();
  i32 row = blockIdx.x / (u32)p.chunks;
  i32 i = (blockIdx.x - row * p.chunks) * blockDim.x + threadIdx.x;
  i32 head = i / (u32)p.per, part = i - head * p.per;
  if (head >= p.heads) return;
  i64 pos = __ldg(p.positions + row);
  const float *cos = p.rope.cos + pos * p.rope.half, *sin = p.rope.sin + pos * p.rope.half;
  bf16* x = p.q + ((i64)row * p.heads + head + 1) * p.width - 2 * p.rope.half + part * 8;
  if (p.rope.interleaved) {
    float4 c = __ldg((const float4*)cos + part), s = __ldg((const float4*)sin + part);
    float v[8];
    load8(v, x);
    rotate(v[0], v[1], c.x, s.x);
    rotate(v[2], v[3], c.y, s.y);
    rotate(v[4], v[5], c.z, s.z);
    rotate(v[6], v[7], c.w, s.w);
    store8(x, v);
    return;
  }
  float a[8], b[8], c[8], s[8];
  load8(a, x);
  load8(b, x + p.rope.half);
  load8(c, cos + part * 8);
  load8(s, sin + part * 8);
#pragma unroll
  for (int j = 0; j < 8; j++) rotate(a[j], b[j], c[j], s[j]);
  store8(x, a);
  store8(x + p.rope.half, b);
}

// rope_query_any rotates one pair in a thread; per is dr/2.
KERNEL rope_query_any(const RopeQuery p) {
  grid_wait();
  i32 row = blockIdx.x / (u32)p.chunks;
  i32 i = (blockIdx.x - row * p.chunks) * blockDim.x + threadIdx.x;
  i32 head = i / (u32)p.per, pair = i - head * p.per;
  if (head >= p.heads) return;
  i64 at = (i64)__ldg(p.positions + row) * p.rope.half + pair;
  bf16* x = p.q + ((i64)row * p.heads + head + 1) * p.width - 2 * p.rope.half;
  int a, b;
  p.rope.pair(pair, a, b);
  float u = bf16_float(x[a]), v = bf16_float(x[b]);
  rotate(u, v, __ldg(p.rope.cos + at), __ldg(p.rope.sin + at));
  x[a] = float_bf16(u);
  x[b] = float_bf16(v);
}

// ---- IndexQuery ----

struct IndexQuery {
  bf16* q;         // [n, heads, dim]
  float* weights;  // [n, heads]
  const Row* rows;  // [n]
  Rope rope;
  i32 heads, dim;
  float scale;
  i32 fp8;
};

// Rows that see no keys stay as they are.

// index_query takes heads of 128 with 64 rotated; a block is a row, a warp 4 of
// its up to 128 heads. Codes overwrite other heads of the row, so that they are
// written when every warp has read its own.
KERNEL index_query(const IndexQuery p) {
  grid_wait();
  int head = threadIdx.x / HEAD_LANES, l = threadIdx.x % HEAD_LANES;
  bool live = head < p.heads;
  if (p.rows[blockIdx.x].to == 0) return;
  i32 pos = p.rows[blockIdx.x].pos;
  bf16* row = p.q + (i64)blockIdx.x * p.heads * HEAD;
  float* weight = p.weights + (i64)blockIdx.x * p.heads + head;
  Head x = {};
  if (live) {
    load8(x.lo, row + head * HEAD + 8 * l);
    if (p.fp8) load8(x.hi, row + head * HEAD + 64 + 8 * l);
  }
  x.rotate(p.rope, pos);
  if (!p.fp8) {
    if (!live) return;
    store8(row + head * HEAD + 8 * l, x.lo);
    if (l == 0) *weight *= p.scale;
    return;
  }
  x.hadamard();
  float scale = quant_scale(x.absmax());
  __syncthreads();
  if (!live) return;
  x.store_codes((e4m3*)row + head * HEAD, scale);
  if (l == 0) *weight = *weight * p.scale * scale;
}

// index_query_any takes heads of any size: a block of 128 threads a row, a warp
// a head at a time. Shared memory holds dim floats for each warp and, for FP8,
// the codes of the row.
KERNEL index_query_any(const IndexQuery p) {
  extern __shared__ float shared[];
  grid_wait();
  int warps = blockDim.x / WARP;
  float* x = shared + warp_id() * p.dim;
  e4m3* codes = (e4m3*)(shared + warps * p.dim);
  if (p.rows[blockIdx.x].to == 0) return;
  i32 pos = p.rows[blockIdx.x].pos;
  bf16* row = p.q + (i64)blockIdx.x * p.heads * p.dim;
  float* weights = p.weights + (i64)blockIdx.x * p.heads;
  for (int h = warp_id(); h < p.heads; h += warps) {
    for (int i = lane_id(); i < p.dim; i += WARP) x[i] = bf16_float(row[h * p.dim + i]);
    __syncwarp();
    rotate_any(x, p.rope, pos);
    float scale = 1;
    if (p.fp8) {
      hadamard_any(x, p.dim);
      scale = quant_scale(absmax_any(x, p.dim));
      float inverse = inverse_scale(scale);
      for (int i = lane_id(); i < p.dim; i += WARP) codes[h * p.dim + i] = float_e4m3(x[i] * inverse);
    } else {
      for (int i = lane_id(); i < p.dim; i += WARP) row[h * p.dim + i] = float_bf16(x[i]);
    }
    if (lane_id() == 0) weights[h] = weights[h] * p.scale * scale;
    __syncwarp();
  }
  if (!p.fp8) return;
  __syncthreads();
  for (int i = threadIdx.x; i < p.heads * p.dim; i += blockDim.x) ((e4m3*)row)[i] = codes[i];
}
