// Activations for products with FP8 weights: rows of bf16 become e4m3 with one
// power-of-two scale for each block of 128 columns (device.QuantScale).
//
//latent:unit quantize hot

struct Quantize {
  const bf16* src;  // [rows, cols], cols a multiple of 128, 16-byte aligned
  e4m3* codes;      // [rows, cols]
  float* scales;    // [cols/128][pitch]: rows are contiguous, as cuBLASLt wants them
  i32 rows, cols;
  i32 pitch;  // floats between the scales of consecutive blocks
  i32 pad;
};

// 16 lanes take a block of 128 columns, 8 values each; a thread block of 256
// takes 16 consecutive blocks of columns.
KERNEL quantize_rows(const __grid_constant__ Quantize p) {
  grid_launch_dependents();
  grid_wait();
  u32 blocks = p.cols / 128;
  u32 group = blockIdx.x * 16 + threadIdx.x / 16, lane = threadIdx.x % 16;
  bool valid = group < (u32)p.rows * blocks;
  i64 at = (i64)group * 128 + lane * 8;  // blocks of a row follow one another
  uint4 v = valid ? *(const uint4*)(p.src + at) : make_uint4(0, 0, 0, 0);
  float x[8] = {bf16_lo(v.x), bf16_hi(v.x), bf16_lo(v.y), bf16_hi(v.y), bf16_lo(v.z), bf16_hi(v.z), bf16_lo(v.w), bf16_hi(v.w)};
  float amax = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; i++) amax = fmaxf(amax, fabsf(x[i]));
#pragma unroll
  for (int d = 8; d > 0; d >>= 1) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, d));
  if (!valid) return;
  float scale = quant_scale(amax);
  float inverse = __uint_as_float((254u << 23) - __float_as_uint(scale));  // 1/scale, a power of two
  u32 lo = pack_e4m3(x[0] * inverse, x[1] * inverse) | (u32)pack_e4m3(x[2] * inverse, x[3] * inverse) << 16;
  u32 hi = pack_e4m3(x[4] * inverse, x[5] * inverse) | (u32)pack_e4m3(x[6] * inverse, x[7] * inverse) << 16;
  *(uint2*)(p.codes + at) = make_uint2(lo, hi);
  if (lane == 0) p.scales[(i64)(group % blocks) * p.pitch + group / blocks] = scale;
}
