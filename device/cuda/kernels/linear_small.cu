// Products of up to 128 rows with an FP8 weight, where reading the weight is what
// takes the time: decoding, short prompts, and the rows that cuBLASLt's scaled
// products leave over (it takes multiples of 4). For more rows its tiles are
// better.
//
// The weight is the M side of the product and the rows of src the N side. Blocks
// of a cluster share the columns, so that a weight with few outputs still keeps
// all multiprocessors reading; their sums are added in a fixed order through
// distributed shared memory. The kernel is launched dependent on the one that
// rounds src: it fills its stages with weights before it waits for that.
//
// One warp group multiplies 64 outputs, one thread of a further warp loads.
//
//latent:unit linear_small hot

struct LinearSmall {
  TensorMap weight;            // e4m3 {cols, outputs}, box {128, 64}
  TensorMap src;               // e4m3 {cols, rows}, box {128, N}
  const float* weight_scales;  // [ceil(outputs/128)][weight_pitch], one for each 128 columns
  const float* src_scales;     // [cols/128][src_pitch]
  void* dst;                   // [rows, outputs], float if f32, else bf16; 16-byte aligned
  i32 rows, cols, outputs;     // outputs a multiple of 8
  i32 weight_pitch, src_pitch;  // the latter a multiple of 4, at least N
  i32 f32;
  i32 add;  // to what dst holds
};

static constexpr int OUTPUTS = 64;  // of a block
static constexpr int CONSUMERS = 128;

template <int N, int STAGES>
struct alignas(1024) Shared {
  // Sums are stored by output within a row; the pitch spreads rows over banks.
  static constexpr int PITCH = OUTPUTS + 4;
  union {
    struct {
      u8 weight[STAGES][OUTPUTS * 128];
      u8 src[STAGES][N * 128];
    };
    float sums[N * PITCH];
  };
  float scales[STAGES][N];
  Barrier full[STAGES], empty[STAGES];
};

// ---- loads ----

template <int N, int STAGES>
DEVICE void load_weight(const LinearSmall& p, Shared<N, STAGES>& s, int stage, int block) {
  barrier_expect(&s.full[stage], sizeof(s.weight[0]) + sizeof(s.src[0]) + sizeof(s.scales[0]));
  tma_load_2d(s.weight[stage], &p.weight, &s.full[stage], block * 128, blockIdx.x * OUTPUTS, EVICT_FIRST);
}

template <int N, int STAGES>
DEVICE void load_src(const LinearSmall& p, Shared<N, STAGES>& s, int stage, int block) {
  tma_load_2d(s.src[stage], &p.src, &s.full[stage], block * 128, 0);
  bulk_load(s.scales[stage], p.src_scales + (i64)block * p.src_pitch, sizeof(s.scales[0]), &s.full[stage]);
}

// load brings blocks [from, to) of 128 columns, as stages become free.
template <int N, int STAGES>
DEVICE void load(const LinearSmall& p, Shared<N, STAGES>& s, int from, int to) {
  prefetch_map(&p.weight);
  prefetch_map(&p.src);
  int n = to - from, first = min(n, STAGES);
  for (int i = 0; i < first; i++) load_weight(p, s, i, from + i);
  grid_wait();
  for (int i = 0; i < first; i++) load_src(p, s, i, from + i);
  for (int i = first; i < n; i++) {
    int stage = i % STAGES;
    barrier_wait(&s.empty[stage], (i / STAGES & 1) ^ 1);
    load_weight(p, s, stage, from + i);
    load_src(p, s, stage, from + i);
  }
}

// ---- products ----

// multiply sums 64 outputs by N rows over blocks [from, to). Tensor cores keep
// too few bits to add all columns: every block goes to float registers, where
// the scales are applied.
template <int N, int STAGES>
DEVICE void multiply(float (&sum)[N / 2], const LinearSmall& p, Shared<N, STAGES>& s, int from, int to) {
  int lane = lane_id();
  const float* weight_scales = p.weight_scales + (i64)(blockIdx.x * OUTPUTS / 128) * p.weight_pitch;
  float next = __ldg(weight_scales + from);
#pragma unroll
  for (int i = 0; i < N / 2; i++) sum[i] = 0.0f;
  for (int i = 0; i < to - from; i++) {
    int stage = i % STAGES;
    float scale = next;
    next = __ldg(weight_scales + min(from + i + 1, to - 1));
    barrier_wait(&s.full[stage], i / STAGES & 1);
    u64 a = smem_desc(s.weight[stage]), b = smem_desc(s.src[stage]);
    float d[N / 2];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) wgmma_e4m3_ss(d, desc_step(a, 32 * k), desc_step(b, 32 * k), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_keep(d);
    const float* rows = s.scales[stage] + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
      float2 r = *(const float2*)(rows + 8 * j);
      float x = r.x * scale, y = r.y * scale;
      sum[4 * j] = fmaf(d[4 * j], x, sum[4 * j]);
      sum[4 * j + 1] = fmaf(d[4 * j + 1], y, sum[4 * j + 1]);
      sum[4 * j + 2] = fmaf(d[4 * j + 2], x, sum[4 * j + 2]);
      sum[4 * j + 3] = fmaf(d[4 * j + 3], y, sum[4 * j + 3]);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(&s.empty[stage]);
  }
}

// ---- sums of a cluster ----

DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

DEVICE float4 read_cluster(const float* p, u32 rank) {
  u32 address;
  float4 v;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(smem_addr(p)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

DEVICE void add_to(float4& sum, const float4& v) {
  sum.x += v.x;
  sum.y += v.y;
  sum.z += v.z;
  sum.w += v.w;
}

// store writes four outputs.
DEVICE void store(const LinearSmall& p, int row, int output, float4 v) {
  i64 at = (i64)row * p.outputs + output;
  if (p.f32) {
    float4* dst = (float4*)((float*)p.dst + at);
    if (p.add) add_to(v, *dst);
    *dst = v;
  } else {
    uint2* dst = (uint2*)((bf16*)p.dst + at);
    if (p.add) add_to(v, make_float4(bf16_lo(dst->x), bf16_hi(dst->x), bf16_lo(dst->y), bf16_hi(dst->y)));
    *dst = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
  }
}

// Grid (ceil(outputs/64), split) of clusters (1, split), split up to 8.
template <int N, int STAGES>
DEVICE void linear_small(const LinearSmall& p) {
  using S = Shared<N, STAGES>;
  static_assert(sizeof(S) <= 232448 && sizeof(S::sums) <= STAGES * (OUTPUTS + N) * 128, "shared memory");
  extern __shared__ __align__(1024) u8 memory[];
  S& s = *reinterpret_cast<S*>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], CONSUMERS / WARP);
    }
    barrier_init_done();
  }
  __syncthreads();
  grid_launch_dependents();

  int split = gridDim.y, rank = blockIdx.y, blocks = p.cols / 128;
  int from = rank * blocks / split, to = (rank + 1) * blocks / split;
  if (warp_id() == CONSUMERS / WARP) {
    if (elect_one()) load(p, s, from, to);
    __syncwarp();
  } else {
    float sum[N / 2];
    multiply(sum, p, s, from, to);
    named_sync(1, CONSUMERS);  // the stages are free for sums
    int lane = lane_id(), output = threadIdx.x / WARP * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < N / 2; i++)
      s.sums[(i / 4 * 8 + lane % 4 * 2 + i % 2) * S::PITCH + output + i % 4 / 2 * 8] = sum[i];
  }
  grid_wait();  // before dst, for threads that loaded nothing
  cluster_sync();
  static constexpr int FOURS = OUTPUTS / 4;
  for (int e = rank * blockDim.x + threadIdx.x; e < p.rows * FOURS; e += split * blockDim.x) {
    int row = e / FOURS, output = e % FOURS * 4;
    if (blockIdx.x * OUTPUTS + output >= p.outputs) continue;
    const float* sum = &s.sums[row * S::PITCH + output];
    float4 parts[8], v = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int r = 0; r < 8; r++) parts[r] = r < split ? read_cluster(sum, r) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int r = 0; r < 8; r++) add_to(v, parts[r]);
    store(p, row, blockIdx.x * OUTPUTS + output, v);
  }
  cluster_sync();  // no block ends while another reads its sums
}

// By rows at most. Up to 64 rows three blocks share a multiprocessor, else two.
KERNEL __launch_bounds__(160, 3) linear_small_8(const __grid_constant__ LinearSmall p) { linear_small<8, 8>(p); }
KERNEL __launch_bounds__(160, 3) linear_small_16(const __grid_constant__ LinearSmall p) { linear_small<16, 7>(p); }
KERNEL __launch_bounds__(160, 3) linear_small_32(const __grid_constant__ LinearSmall p) { linear_small<32, 5>(p); }
KERNEL __launch_bounds__(160, 3) linear_small_64(const __grid_constant__ LinearSmall p) { linear_small<64, 4>(p); }
KERNEL __launch_bounds__(160, 2) linear_small_128(const __grid_constant__ LinearSmall p) { linear_small<128, 4>(p); }
