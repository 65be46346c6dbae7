// Grouped expert products for any dimensions, bf16 weights, without tensor
// cores: the same products as grouped.cu, whose layouts hold except that rows
// need no alignment. It serves models that are too odd for grouped.cu, and
// tests as a second opinion.
//
// A block computes 64 rows of an expert by 64 rows of its weights, 4x4 to a
// thread: outputs tx, tx+16, tx+32, tx+48 of rows 4ty..4ty+3.
//
//latent:unit moe_generic

static constexpr int ROWS = 64;  // of a tile: what moe_route is told
static constexpr int K_STEP = 16;

struct GenericParams {
  const bf16* weights;  // [E, weightRows, k]
  const bf16* tokens;   // [rows, k]
  const int4* tiles;    // of moe_route
  const i32* count;     // of tiles
  bf16* out;            // [rows, outputs]
  i32 k, weightRows;
  i32 outputs;  // gated: inner, half of the rows that are no padding
  i32 blocks;   // gated: of 32 outputs, plain: of 64
};

template <bool GATED>
DEVICE void generic(const GenericParams& p) {
  constexpr int OUT = GATED ? 32 : 64;
  __shared__ float x[K_STEP][ROWS + 1], w[K_STEP][64 + 1];
  grid_launch_dependents();
  grid_wait();
  int tid = threadIdx.x, tx = tid % 16, ty = tid / 16;
  i32 items = *p.count * p.blocks;
  for (i32 item = blockIdx.x; item < items; item += gridDim.x) {
    int4 g = p.tiles[item / p.blocks];
    i32 local = item - g.w * p.blocks, count = (g.z + ROWS - 1) / ROWS;
    i32 block = local / count, skip = (local - block * count) * ROWS;
    i32 row = g.y + skip, rows = min(ROWS, g.z - skip), first = block * OUT;
    const bf16* weights = p.weights + (i64)g.x * p.weightRows * p.k;

    float acc[4][4] = {};
    for (int k0 = 0; k0 < p.k; k0 += K_STEP) {
      for (int i = tid; i < 64 * K_STEP; i += blockDim.x) {
        int n = i / K_STEP, k = i % K_STEP;
        bool inside = k0 + k < p.k;
        x[k][n] = inside && n < rows ? bf16_float(p.tokens[(i64)(row + n) * p.k + k0 + k]) : 0.0f;
        // Gated: outputs 0..31 of the block are rows of gate, 32..63 those of up.
        i32 out = first + n % OUT;
        i32 from = GATED ? (2 * (out / 8) + n / OUT) * 8 + out % 8 : out;
        w[k][n] = inside && out < p.outputs ? bf16_float(weights[(i64)from * p.k + k0 + k]) : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < K_STEP; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < 4; j++) acc[i][j] += x[k][4 * ty + i] * w[k][tx + 16 * j];
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (4 * ty + i >= rows) continue;
      bf16* out = p.out + (i64)(row + 4 * ty + i) * p.outputs + first;
#pragma unroll
      for (int j = 0; j < OUT / 16; j++) {
        int n = tx + 16 * j;
        if (first + n >= p.outputs) continue;
        float v = acc[i][j];
        if constexpr (GATED) v = __fdividef(v, 1.0f + __expf(-v)) * acc[i][j + 2];
        out[n] = float_bf16(v);
      }
    }
  }
}

KERNEL __launch_bounds__(256) generic_gated(const GenericParams p) { generic<true>(p); }
KERNEL __launch_bounds__(256) generic_plain(const GenericParams p) { generic<false>(p); }
