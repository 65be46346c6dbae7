// Operations that treat activations row by row: Embed, Gather, RMSNorm, SwiGLU
// and MergeLSE. All are bound by memory: a thread moves 16 bytes at a time, and
// where sizes or addresses do not allow that, one element. Arithmetic is float.
//
// Blocks of one dimension cover (row, chunk of the row); "width" is what a
// thread takes of a row: 8 elements or 1.
//
//latent:unit rows hot
#include "vec.cuh"

// place finds the row of this block and the first element of this thread.
DEVICE bool place(i32 chunks, i32 width, i32 cols, i32& row, i32& col) {
  row = blockIdx.x / (u32)chunks;
  col = ((blockIdx.x - row * chunks) * blockDim.x + threadIdx.x) * width;
  return col < cols;
}

// ---- Embed ----

enum TableType : i32 { TABLE_F32, TABLE_BF16, TABLE_F16 };

struct Embed {
  bf16* dst;           // [rows, cols]
  const void* table;   // [vocabulary, cols] of type
  const i32* tokens;   // [rows]
  i32 cols, chunks, width, type;
};

DEVICE float element(const void* table, i64 i, i32 type) {
  switch (type) {
    case TABLE_F32: return ((const float*)table)[i];
    case TABLE_BF16: return bf16_float(((const bf16*)table)[i]);
  }
  return half_float(((const u16*)table)[i]);
}

KERNEL embed(const Embed p) {
  grid_wait();
  i32 row, col;
  if (!place(p.chunks, p.width, p.cols, row, col)) return;
  i64 from = (i64)__ldg(p.tokens + row) * p.cols + col, to = (i64)row * p.cols + col;
  if (p.width == 1) {
    p.dst[to] = float_bf16(element(p.table, from, p.type));
    return;
  }
  if (p.type == TABLE_BF16) {
    *(uint4*)(p.dst + to) = load8_bits((const bf16*)p.table + from);
    return;
  }
  float x[8];
  if (p.type == TABLE_F32) {
    load8(x, (const float*)p.table + from);
  } else {
    uint4 v = load8_bits((const bf16*)p.table + from);
    u32 halves[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = half_float((u16)(halves[i / 2] >> 16 * (i % 2)));
  }
  store8(p.dst + to, x);
}

// ---- Gather ----

struct Gather {
  u8* dst;          // [rows] of bytes bytes
  const u8* src;
  const i32* rows;  // row of src for each row of dst
  i64 bytes;        // a row
  i32 chunks, width;  // width is 16, 4, 2 or 1 bytes
};

KERNEL gather(const Gather p) {
  grid_wait();
  i32 row = blockIdx.x / (u32)p.chunks;
  i64 at = ((i64)(blockIdx.x - row * p.chunks) * blockDim.x + threadIdx.x) * p.width;
  if (at >= p.bytes) return;
  const u8* from = p.src + __ldg(p.rows + row) * p.bytes + at;
  u8* to = p.dst + row * p.bytes + at;
  switch (p.width) {
    case 16: *(uint4*)to = *(const uint4*)from; break;
    case 4: *(u32*)to = *(const u32*)from; break;
    case 2: *(u16*)to = *(const u16*)from; break;
    default: *to = *from;
  }
}

// ---- RMSNorm ----

struct RMSNorm {
  bf16* dst;
  const bf16* src;      // [rows, cols], may be dst
  const float* weight;  // [cols]
  i32 rows, cols;
  i32 warps;   // for a row
  i32 block;   // rows of a block: blockDim.x = 32·warps·block
  float eps;
};

// rms_norm takes rows of up to 512·warps elements, a multiple of 8; a thread
// holds its part of the row and of the weight in registers. How sums are
// formed depends on cols alone, not on the number of rows.
KERNEL rms_norm(const RMSNorm p) {
  __shared__ float sums[32];
  int warp = warp_id(), group = warp / p.warps, t = threadIdx.x - group * p.warps * WARP;
  i32 row = blockIdx.x * p.block + group;
  bool live = row < p.rows;
  float w[2][8];
#pragma unroll
  for (int v = 0; v < 2; v++) {
    i32 col = (t + v * p.warps * WARP) * 8;
    if (col < p.cols) load8(w[v], p.weight + col);
  }
  grid_wait();
  float x[2][8], sum = 0;
#pragma unroll
  for (int v = 0; v < 2; v++) {
    i32 col = (t + v * p.warps * WARP) * 8;
    if (live && col < p.cols) {
      load8(x[v], p.src + (i64)row * p.cols + col);
#pragma unroll
      for (int i = 0; i < 8; i++) sum += x[v][i] * x[v][i];
    }
  }
  sum = warp_sum(sum);
  if (p.warps > 1) {
    if (lane_id() == 0) sums[warp] = sum;
    __syncthreads();
    sum = warp_sum(lane_id() < p.warps ? sums[group * p.warps + lane_id()] : 0);
  }
  float scale = inverse_root(sum / p.cols + p.eps);
#pragma unroll
  for (int v = 0; v < 2; v++) {
    i32 col = (t + v * p.warps * WARP) * 8;
    if (live && col < p.cols) {
#pragma unroll
      for (int i = 0; i < 8; i++) x[v][i] *= scale * w[v][i];
      store8(p.dst + (i64)row * p.cols + col, x[v]);
    }
  }
}

// rms_norm_any takes rows of any length, one row a block of 256 threads.
KERNEL rms_norm_any(const RMSNorm p) {
  __shared__ float sums[8];
  int warp = warp_id();
  grid_wait();
  const bf16* src = p.src + (i64)blockIdx.x * p.cols;
  bf16* dst = p.dst + (i64)blockIdx.x * p.cols;
  float sum = 0;
  for (i32 i = threadIdx.x; i < p.cols; i += 256) {
    float x = bf16_float(src[i]);
    sum += x * x;
  }
  sum = warp_sum(sum);
  if (lane_id() == 0) sums[warp] = sum;
  __syncthreads();
  sum = warp_sum(lane_id() < 8 ? sums[lane_id()] : 0);
  float scale = inverse_root(sum / p.cols + p.eps);
  for (i32 i = threadIdx.x; i < p.cols; i += 256) dst[i] = float_bf16(bf16_float(src[i]) * (scale * p.weight[i]));
}

// ---- SwiGLU ----

struct SwiGLU {
  bf16* dst;        // [rows, cols]
  const bf16* src;  // [rows, 2·cols]: gate, then up
  i32 cols, chunks, width, pad;
};

// silu_mul is silu(g)·u. Where exp(-g) overflows the quotient is 0.
DEVICE float silu_mul(float g, float u) { return __fdividef(g, 1.0f + exp2_fast(-g * LOG2E)) * u; }

KERNEL swiglu(const SwiGLU p) {
  grid_wait();
  i32 row, col;
  if (!place(p.chunks, p.width, p.cols, row, col)) return;
  const bf16* src = p.src + (i64)row * 2 * p.cols + col;
  bf16* dst = p.dst + (i64)row * p.cols + col;
  if (p.width == 1) {
    *dst = float_bf16(silu_mul(bf16_float(src[0]), bf16_float(src[p.cols])));
    return;
  }
  float g[8], u[8];
  load8(g, src);
  load8(u, src + p.cols);
#pragma unroll
  for (int i = 0; i < 8; i++) g[i] = silu_mul(g[i], u[i]);
  store8(dst, g);
}

// ---- MergeLSE ----

struct MergeLSE {
  bf16* out;             // [T, heads·width]
  float* lse;            // [T, heads]
  const bf16* part;      // as out
  const float* part_lse;
  const Row* rows;       // [n]
  i32 count;             // n·heads
  i32 heads, width, vector;
};

// merge_lse gives 16 lanes to a (row, head), 16 of them to a block of 256.
KERNEL merge_lse(const MergeLSE p) {
  grid_wait();
  i32 item = blockIdx.x * 16 + threadIdx.x / 16, lane = threadIdx.x % 16;
  bool live = item < p.count;
  i32 i = live ? item / p.heads : 0;
  i64 at = (i64)p.rows[i].row * p.heads + (item - i * p.heads);
  float a = NEG_INF, b = NEG_INF;
  if (live) {
    a = p.lse[at];
    b = p.part_lse[at];
  }
  __syncwarp();  // all have read lse before one writes it
  if (b == NEG_INF) return;
  float top = fmaxf(a, b), wa = expf(a - top), wb = expf(b - top), sum = wa + wb;
  wa /= sum;
  wb /= sum;
  if (lane == 0) p.lse[at] = a == NEG_INF ? b : top + logf(sum);
  bf16* out = p.out + at * p.width;
  const bf16* part = p.part + at * p.width;
  if (!p.vector) {
    for (i32 c = lane; c < p.width; c += 16)
      out[c] = wa == 0 ? part[c] : float_bf16(wa * bf16_float(out[c]) + wb * bf16_float(part[c]));
    return;
  }
  for (i32 c = lane * 8; c < p.width; c += 128) {
    uint4 bits = load8_bits(part + c);
    if (wa != 0) {
      float x[8], y[8];
      load8(x, out + c);
      unpack8(y, bits);
#pragma unroll
      for (int j = 0; j < 8; j++) x[j] = wa * x[j] + wb * y[j];
      store8(out + c, x);
      continue;
    }
    *(uint4*)(out + c) = bits;
  }
}
