// Merges the splits of mla.cu into z [n, H, 512] bf16 and lse [n, H]: a weighted
// mean of the parts by their log-sum-exps. A block does one head of one row,
// four columns a thread. Parts without keys (-inf) are not read.
//
//latent:unit mla_combine hot

static constexpr int LATENT = 512, MAX_SPLITS = 128;

struct Params {
  const float* part;      // [splits, n, H, 512]
  const float* part_lse;  // [splits, n, H], to base 2
  bf16* z;
  float* lse;
  i32 items, splits;  // n·H
};

KERNEL __launch_bounds__(128) mla_combine(const __grid_constant__ Params p) {
  __shared__ float weights[MAX_SPLITS];
  grid_wait();
  i64 item = blockIdx.x;
  int tid = threadIdx.x;
  if (tid < 32) {
    float lse[MAX_SPLITS / 32], top = NEG_INF, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / 32; i++) {
      int s = tid + 32 * i;
      lse[i] = s < p.splits ? p.part_lse[(i64)s * p.items + item] : NEG_INF;
      top = fmaxf(top, lse[i]);
    }
    top = warp_max(top);
    float base = top == NEG_INF ? 0.0f : top;
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / 32; i++) {
      lse[i] = exp2_fast(lse[i] - base);
      sum += lse[i];
    }
    sum = warp_sum(sum);
    float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / 32; i++) weights[tid + 32 * i] = lse[i] * inverse;
    if (tid == 0) p.lse[item] = (base + log2f(sum)) * LN2;  // log2f(0) is -inf
  }
  __syncthreads();
  const float4* part = (const float4*)(p.part + item * LATENT) + tid;
  i64 pitch = (i64)p.items * (LATENT / 4);
  float4 z = make_float4(0, 0, 0, 0);
#pragma unroll 4
  for (int s = 0; s < p.splits; s++) {
    float w = weights[s];
    if (w == 0.0f) continue;
    float4 v = part[s * pitch];
    z.x = fmaf(w, v.x, z.x);
    z.y = fmaf(w, v.y, z.y);
    z.z = fmaf(w, v.z, z.z);
    z.w = fmaf(w, v.w, z.w);
  }
  *(uint2*)(p.z + item * LATENT + 4 * tid) = make_uint2(pack_bf16(z.x, z.y), pack_bf16(z.z, z.w));
}
