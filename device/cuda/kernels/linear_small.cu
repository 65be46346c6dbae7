// Products of up to 16 rows with an FP8 weight: decoding, and the rows that
// cuBLASLt's block-scaled products leave over (it takes multiples of 4). The
// weight is read once, at the speed of memory; activations stay bf16. It is no
// kernel for more rows: every multiprocessor reads all of src.
//
// A warp multiplies 16·MT outputs by 8·NT rows in steps of 64 columns with
// mma.sync, weights as the left operand. A lane takes 16 consecutive bytes of a
// row of the weight, so the columns of a step are multiplied in an order of
// their own, which the lane's part of src follows. The warps of a block, and the
// blocks of a cluster, share the columns; their sums are added in fixed order.
//
//latent:unit linear_small hot

struct LinearSmall {
  const bf16* src;      // [rows, cols], cols a multiple of 128
  const e4m3* weight;   // [outputs, cols], outputs a multiple of 16·MT
  const float* scales;  // [ceil(outputs/128)][pitch], one for each 128 columns
  void* dst;            // [rows, outputs], float if f32, else bf16
  i32 rows, cols, outputs, pitch;
  i32 f32;
  i32 add;  // to what dst holds
};

static constexpr int WARPS = 8;

// What a lane needs for a step.
template <int MT, int NT>
struct Step {
  uint4 w[MT][2];  // rows l/4 and l/4 + 8 of each 16, 16 columns
  uint4 x[NT][2];  // row l/4 of each 8 of src, the same 16 columns
  float scale;
};

DEVICE uint4 load_once(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// widen turns two e4m3 codes of a word into bf16, 2^-120 times their values: the
// bits of the exponent stay what they are. The selector names each code's byte
// and then, plus 8, eight times its sign.
template <u32 SELECT>
DEVICE u32 widen(u32 codes) {
  u32 r;
  asm("prmt.b32 %0, %1, 0, %2;" : "=r"(r) : "r"(codes), "n"(SELECT));
  return r << 4 & 0x87f087f0u;
}

// So src is multiplied by 2^100, to stay among normal numbers, and sums by 2^20.
DEVICE u32 lift(u32 pair) {
  u32 r;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(pair), "r"(0x71807180u));
  return r;
}
static constexpr float LIFT_SUMS = 1048576.0f;

DEVICE void mma_bf16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

DEVICE u32 word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

template <int MT, int NT>
DEVICE void multiply(float (&sum)[MT][NT][4], const Step<MT, NT>& s) {
  u32 x[NT][8];
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int i = 0; i < 8; i++) x[n][i] = lift(word(s.x[n][i / 4], i % 4));
#pragma unroll
  for (int m = 0; m < MT; m++) {
    float d[NT][4] = {};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      u32 upper = word(s.w[m][0], j), lower = word(s.w[m][1], j);
      u32 a0 = widen<0x9180>(upper), a1 = widen<0x9180>(lower), a2 = widen<0xb3a2>(upper), a3 = widen<0xb3a2>(lower);
#pragma unroll
      for (int n = 0; n < NT; n++) mma_bf16(d[n], a0, a1, a2, a3, x[n][2 * j], x[n][2 * j + 1]);
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sum[m][n][i] = fmaf(d[n][i], s.scale, sum[m][n][i]);
  }
}

DEVICE float read_cluster(const float* p, u32 rank) {
  u32 address;
  float v;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(smem_addr(p)), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(address));
  return v;
}
DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

DEVICE void store(const LinearSmall& p, int row, int output, float v) {
  i64 at = (i64)row * p.outputs + output;
  if (p.f32) {
    float* dst = (float*)p.dst + at;
    *dst = p.add ? *dst + v : v;
  } else {
    bf16* dst = (bf16*)p.dst + at;
    *dst = float_bf16(p.add ? bf16_float(*dst) + v : v);
  }
}

// Grid (outputs/(16·MT), split) of clusters (1, split). Kernels are named by the
// outputs of a block and the most rows. AHEAD steps are loaded
// before the first is used.
template <int MT, int NT, int AHEAD>
DEVICE void linear_small(const LinearSmall& p) {
  static constexpr int OUTPUTS = 16 * MT, ROWS = 8 * NT, SUMS = OUTPUTS * ROWS;
  __shared__ float partial[WARPS][SUMS];  // [rows][outputs] of each warp

  int lane = lane_id(), warp = warp_id(), split = gridDim.y, rank = blockIdx.y;
  int output0 = blockIdx.x * OUTPUTS;
  const e4m3* weight = p.weight + (i64)(output0 + lane / 4) * p.cols + lane % 4 * 16;
  const bf16* src = p.src + (i64)(lane / 4) * p.cols + lane % 4 * 16;
  const float* scales = p.scales + output0 / 128 * p.pitch;
  int blocks = p.cols / 128, stride = WARPS * split, first = rank * WARPS + warp;

  // Step i of the warp is half of a block of 128 columns.
  auto load = [&](Step<MT, NT>& s, int i) {
    int block = first + i / 2 * stride;
    if (block >= blocks) return;
    int col = block * 128 + i % 2 * 64;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int h = 0; h < 2; h++) s.w[m][h] = load_once(weight + (i64)(16 * m + 8 * h) * p.cols + col);
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        s.x[n][h] = 8 * n + lane / 4 < p.rows ? __ldg((const uint4*)(src + (i64)(8 * n) * p.cols + col) + h) : make_uint4(0, 0, 0, 0);
    s.scale = __ldg(scales + block);
  };

  float sum[MT][NT][4] = {};
  Step<MT, NT> steps[AHEAD];
  int n = first < blocks ? ((blocks - 1 - first) / stride + 1) * 2 : 0;
#pragma unroll
  for (int d = 0; d < AHEAD; d++) load(steps[d], d);
  for (int i = 0; i < n; i += AHEAD) {
#pragma unroll
    for (int d = 0; d < AHEAD; d++) {
      if (i + d < n) multiply<MT, NT>(sum, steps[d]);
      load(steps[d], i + d + AHEAD);
    }
  }

#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        partial[warp][(8 * t + lane % 4 * 2 + i % 2) * OUTPUTS + 16 * m + lane / 4 + i / 2 * 8] = sum[m][t][i] * LIFT_SUMS;
  __syncthreads();
  for (int e = threadIdx.x; e < SUMS; e += WARPS * WARP) {
    float v = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) v += partial[w][e];
    if (split > 1)
      partial[0][e] = v;
    else if (e / OUTPUTS < p.rows)
      store(p, e / OUTPUTS, output0 + e % OUTPUTS, v);
  }
  if (split == 1) return;
  cluster_sync();
  int share = SUMS / split;
  for (int e = rank * share + threadIdx.x; e < (rank + 1) * share; e += WARPS * WARP) {
    if (e / OUTPUTS >= p.rows) continue;
    float v = 0.0f;
    for (int r = 0; r < split; r++) v += read_cluster(&partial[0][e], r);
    store(p, e / OUTPUTS, output0 + e % OUTPUTS, v);
  }
  cluster_sync();  // no block ends while another reads its sums
}

KERNEL __launch_bounds__(WARPS* WARP, 2) linear_small_16_8(const __grid_constant__ LinearSmall p) { linear_small<1, 1, 4>(p); }
KERNEL __launch_bounds__(WARPS* WARP, 2) linear_small_32_8(const __grid_constant__ LinearSmall p) { linear_small<2, 1, 3>(p); }
KERNEL __launch_bounds__(WARPS* WARP, 1) linear_small_64_16(const __grid_constant__ LinearSmall p) { linear_small<4, 2, 2>(p); }
