// Attention in latent space (absorbed MLA) for any sizes: the plain form that
// mla.cu is tested against. One block does one head of one query row, blocks of
// 128 keys one after the other: scores by warps, then sums by columns. Nothing
// is rounded below float.
//
//   qa    [n, H, R+dr] bf16, latent part first
//   cache records of one layer, pitch bytes apart: CACHE_F8 0: R+dr bf16;
//         CACHE_F8 1: R e4m3, one float scale for each min(128, R) of them, dr bf16
//   z     [n, H, R] bf16, lse [n, H] natural log-sum-exp
//
//latent:unit mla_generic_bf16 CACHE_F8=0
//latent:unit mla_generic_f8 CACHE_F8=1

static constexpr int KEYS = 128, THREADS = 256;

struct Params {
  const bf16* qa;
  const u8* cache;
  bf16* z;
  float* lse;
  const Row* rows;
  const i32* table;  // Pages
  const i32* first;
  const i32* sel;  // [rows, topk] positions, ascending, padded with -1
  i64 pitch;
  i32 topk, heads, latent, rope;
  float scale;   // of scores, times log2(e)
};

// Record reads the elements of a cached record as floats.
struct Record {
  const u8* at;
  int latent;
#if CACHE_F8
  DEVICE float value(int c) const {
    int block = min(128, latent);
    return e4m3_float(at[c]) * ((const float*)(at + latent))[c / block];
  }
  DEVICE float rope(int c) const {
    int block = min(128, latent), blocks = (latent + block - 1) / block;
    return bf16_float(((const bf16*)(at + latent + 4 * blocks))[c]);
  }
#else
  DEVICE float value(int c) const { return bf16_float(((const bf16*)at)[c]); }
  DEVICE float rope(int c) const { return value(latent + c); }
#endif
};

KERNEL __launch_bounds__(THREADS) mla_generic(const __grid_constant__ Params p) {
  extern __shared__ float memory[];
  __shared__ i32 slots[KEYS];
  __shared__ float weights[KEYS], tops[THREADS / 32];
  float* q = memory;               // [R+dr]
  float* z = q + p.latent + p.rope;  // [R]
  int tid = threadIdx.x, warp = warp_id(), lane = lane_id();
  i64 item = blockIdx.x;
  const Row* row = p.rows + item / p.heads;
  const i32* table = p.table + p.first[row->seq];
  const i32* sel = nullptr;
  i32 from = row->from, to = row->to, count = to - from;
  if (row->sel >= 0) {
    sel = p.sel + (i64)row->sel * p.topk;
    if (count > 0) count = min(p.topk, row->pos + 1);
  }
  int width = p.latent + p.rope;
  for (int c = tid; c < width; c += THREADS) q[c] = bf16_float(p.qa[item * width + c]);
  for (int c = tid; c < p.latent; c += THREADS) z[c] = 0.0f;
  float top = NEG_INF, sum = 0.0f;
  for (i32 begin = 0; begin < count; begin += KEYS) {
    int keys = min(KEYS, count - begin);
    __syncthreads();
    for (int i = tid; i < keys; i += THREADS) {
      i32 pos = sel ? sel[begin + i] : from + begin + i;
      slots[i] = pos >= from && pos < to ? table[pos >> 6] * PAGE_TOKENS + (pos & 63) : -1;
    }
    __syncthreads();
    float best = NEG_INF;
    for (int i = warp; i < keys; i += THREADS / 32) {
      float score = NEG_INF;
      if (slots[i] >= 0) {
        Record r{p.cache + slots[i] * p.pitch, p.latent};
        float dot = 0.0f;
        for (int c = lane; c < p.latent; c += 32) dot = fmaf(q[c], r.value(c), dot);
        for (int c = lane; c < p.rope; c += 32) dot = fmaf(q[p.latent + c], r.rope(c), dot);
        score = warp_sum(dot) * p.scale;
      }
      best = fmaxf(best, score);
      if (lane == 0) weights[i] = score;
    }
    if (lane == 0) tops[warp] = best;
    __syncthreads();
    float before = top;
    for (int i = 0; i < THREADS / 32; i++) top = fmaxf(top, tops[i]);
    if (top == NEG_INF) continue;
    float factor = exp2f(before - top);
    sum *= factor;
    __syncthreads();
    for (int i = tid; i < keys; i += THREADS) weights[i] = exp2f(weights[i] - top);
    __syncthreads();
    for (int i = 0; i < keys; i++) sum += weights[i];
    for (int c = tid; c < p.latent; c += THREADS) {
      float v = z[c] * factor;
      for (int i = 0; i < keys; i++)
        if (slots[i] >= 0) v = fmaf(weights[i], Record{p.cache + slots[i] * p.pitch, p.latent}.value(c), v);
      z[c] = v;
    }
  }
  float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  for (int c = tid; c < p.latent; c += THREADS) p.z[item * p.latent + c] = float_bf16(z[c] * inverse);
  if (tid == 0) p.lse[item] = sum > 0.0f ? (top + log2f(sum)) * LN2 : NEG_INF;
}
