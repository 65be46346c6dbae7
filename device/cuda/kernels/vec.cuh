// Rows of bf16 and float32 in pieces of 8 elements, one 16-byte access (two for
// float32), for kernels that stream through memory. Pointers are multiples of 16
// bytes. Data that is read once stays out of L1, which then keeps the norms'
// weights and the rotations.
#pragma once

// load8_bits reads 8 bf16 that nothing will read again through L1.
DEVICE uint4 load8_bits(const bf16* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}

DEVICE void unpack8(float (&x)[8], uint4 v) {
  x[0] = bf16_lo(v.x), x[1] = bf16_hi(v.x), x[2] = bf16_lo(v.y), x[3] = bf16_hi(v.y);
  x[4] = bf16_lo(v.z), x[5] = bf16_hi(v.z), x[6] = bf16_lo(v.w), x[7] = bf16_hi(v.w);
}

DEVICE void load8(float (&x)[8], const bf16* p) { unpack8(x, load8_bits(p)); }

DEVICE void load8(float (&x)[8], const float* p) {
  float4 a = __ldg((const float4*)p), b = __ldg((const float4*)p + 1);
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
  x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

DEVICE void store8(bf16* p, const float (&x)[8]) {
  *(uint4*)p = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

// store8_e4m3 rounds x·inverse to 8 codes; p is a multiple of 8 bytes.
DEVICE void store8_e4m3(e4m3* p, const float (&x)[8], float inverse) {
  u32 c[4];
#pragma unroll
  for (int i = 0; i < 4; i++) c[i] = pack_e4m3(x[2 * i] * inverse, x[2 * i + 1] * inverse);
  *(uint2*)p = make_uint2(c[0] | c[1] << 16, c[2] | c[3] << 16);
}

// inverse_scale is 1/scale for a power of two that quant_scale returns.
DEVICE float inverse_scale(float scale) { return __uint_as_float((254u << 23) - __float_as_uint(scale)); }

// inverse_root is 1/sqrt(x), two correct roundings.
DEVICE float inverse_root(float x) { return __fdiv_rn(1.0f, __fsqrt_rn(x)); }

// Rope is device.Rope: cos and sin are float32 [positions, half].
struct Rope {
  const float* __restrict__ cos;
  const float* __restrict__ sin;
  i32 half, interleaved;

  // pair finds the elements that rotation i turns.
  DEVICE void pair(int i, int& a, int& b) const {
    a = interleaved ? 2 * i : i;
    b = interleaved ? 2 * i + 1 : i + half;
  }
};

DEVICE void rotate(float& a, float& b, float c, float s) {
  float x = a * c - b * s;
  b = b * c + a * s;
  a = x;
}
