// Indexer heads of 128 elements, the first 64 of them with a position, as
// DeepSeek-V3.2 and GLM-5 have them: 8 lanes hold a head, 4 heads a warp. Lane l
// of the 8 holds elements 8l..8l+7 in lo, which are rotated, and 64 more in hi.
//
// And heads of any size in shared memory, one warp a head.
#pragma once

#include "vec.cuh"

static constexpr int HEAD = 128, HEAD_ROPE = 64, HEAD_LANES = 8;

DEVICE float head_sum(float v) {
#pragma unroll
  for (int d = 1; d < HEAD_LANES; d <<= 1) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

struct Head {
  float lo[8], hi[8];

  // rotate turns lo by a position; all lanes of the warp take part.
  DEVICE void rotate(const Rope& rope, i32 pos) {
    int l = threadIdx.x % HEAD_LANES;
    const float* cos = rope.cos + (i64)pos * (HEAD_ROPE / 2);
    const float* sin = rope.sin + (i64)pos * (HEAD_ROPE / 2);
    if (rope.interleaved) {
      float4 c = __ldg((const float4*)cos + l), s = __ldg((const float4*)sin + l);
      ::rotate(lo[0], lo[1], c.x, s.x);
      ::rotate(lo[2], lo[3], c.y, s.y);
      ::rotate(lo[4], lo[5], c.z, s.z);
      ::rotate(lo[6], lo[7], c.w, s.w);
      return;
    }
    // The other element of each pair is 4 lanes away.
    float c[8], s[8];
    load8(c, cos + l % 4 * 8);
    load8(s, sin + l % 4 * 8);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float other = __shfl_xor_sync(~0u, lo[i], 4);
      lo[i] = lo[i] * c[i] + (l < 4 ? -s[i] : s[i]) * other;
    }
  }

  // hadamard multiplies by H·128^-½, H[i][j] = (-1)^popcount(i&j).
  DEVICE void hadamard() {
#pragma unroll
    for (int half = 1; half < 8; half <<= 1) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        if (i & half) continue;
        butterfly(lo[i], lo[i | half]);
        butterfly(hi[i], hi[i | half]);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) butterfly(lo[i], hi[i]);
#pragma unroll
    for (int d = 1; d < HEAD_LANES; d <<= 1) {
      bool upper = threadIdx.x & d;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        float a = __shfl_xor_sync(~0u, lo[i], d), b = __shfl_xor_sync(~0u, hi[i], d);
        lo[i] = a + (upper ? -lo[i] : lo[i]);
        hi[i] = b + (upper ? -hi[i] : hi[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
      lo[i] *= 0.08838834764831845f;
      hi[i] *= 0.08838834764831845f;
    }
  }

  static DEVICE void butterfly(float& a, float& b) {
    float x = a + b;
    b = a - b;
    a = x;
  }

  DEVICE float absmax() const {
    float m = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) m = fmaxf(m, fmaxf(fabsf(lo[i]), fabsf(hi[i])));
#pragma unroll
    for (int d = 1; d < HEAD_LANES; d <<= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, d));
    return m;
  }

  // store_codes writes the 128 codes of the head at p, a multiple of 8 bytes.
  DEVICE void store_codes(e4m3* p, float scale) const {
    int l = threadIdx.x % HEAD_LANES;
    float inverse = inverse_scale(scale);
    store8_e4m3(p + 8 * l, lo, inverse);
    store8_e4m3(p + 64 + 8 * l, hi, inverse);
  }
};

// ---- any size: x [n] in shared memory, all lanes of one warp ----

DEVICE void rotate_any(float* x, const Rope& rope, i32 pos) {
  for (int i = lane_id(); i < rope.half; i += WARP) {
    int a, b;
    rope.pair(i, a, b);
    rotate(x[a], x[b], __ldg(rope.cos + (i64)pos * rope.half + i), __ldg(rope.sin + (i64)pos * rope.half + i));
  }
  __syncwarp();
}

// hadamard_any leaves sizes that are no power of two as they are.
DEVICE void hadamard_any(float* x, int n) {
  if (n & (n - 1)) return;
  for (int half = 1; half < n; half <<= 1) {
    for (int i = lane_id(); i < n / 2; i += WARP) {
      int a = (i & ~(half - 1)) * 2 + (i & (half - 1));
      Head::butterfly(x[a], x[a + half]);
    }
    __syncwarp();
  }
  float scale = (float)(1 / sqrt((double)n));
  for (int i = lane_id(); i < n; i += WARP) x[i] *= scale;
  __syncwarp();
}

DEVICE float absmax_any(const float* x, int n) {
  float m = 0;
  for (int i = lane_id(); i < n; i += WARP) m = fmaxf(m, fabsf(x[i]));
  return warp_max(m);
}
