// Weights from the types of checkpoints to bf16, as they arrive on the device.
// Loading waits for the copy from the host, so that these kernels are plain.
//
//latent:unit convert

enum { F32, BF16, F16, F8 };

// A weight [rows, cols] row-major becomes the sum of limbs bf16 matrices of the
// same shape, limb after limb: one limb rounds, two hold any f16, three hold
// any float32 exactly. Scales are those of f8's 128x128 blocks.
struct Convert {
  const void* src;      // [rows, cols] of type
  const float* scales;  // [ceil((row0 + rows)/128), ceil(cols/128)], f8 only
  bf16* dst;            // [limbs][rows, cols], limbs stride elements apart
  i64 stride;
  i32 rows, cols;
  i32 row0;  // row of the whole weight that src begins with
  i32 type;
  i32 limbs, pad;
};

DEVICE float stored(const Convert& p, i64 i, int row, int col) {
  switch (p.type) {
    case F32:
      return ((const float*)p.src)[i];
    case BF16:
      return bf16_float(((const bf16*)p.src)[i]);
    case F16:
      return half_float(((const u16*)p.src)[i]);
  }
  int blocks = (p.cols + 127) / 128;
  return e4m3_float(((const e4m3*)p.src)[i]) * p.scales[(i64)((p.row0 + row) / 128) * blocks + col / 128];
}

// One block a row.
KERNEL convert_weight(const __grid_constant__ Convert p) {
  int row = blockIdx.x;
  for (int col = threadIdx.x; col < p.cols; col += blockDim.x) {
    i64 i = (i64)row * p.cols + col;
    float rest = stored(p, i, row, col);
    for (int limb = 0; limb < p.limbs; limb++) {
      bf16 h = float_bf16(rest);
      p.dst[limb * p.stride + i] = h;
      rest -= bf16_float(h);
      // An infinite weight is all in the first limb.
      if (!(fabsf(rest) <= 3.4e38f)) rest = 0.0f;
    }
  }
}

// First place of a NaN among e4m3 codes.
struct FindNaN {
  const u8* codes;
  u64* place;  // the lowest index, untouched if there is none
  i64 n;
};

KERNEL find_nan(const __grid_constant__ FindNaN p) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < p.n; i += (i64)gridDim.x * blockDim.x)
    if ((p.codes[i] & 0x7f) == 0x7f) atomicMin(p.place, (u64)i);
}
