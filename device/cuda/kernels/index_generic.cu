// Index scores for any number of heads and any head size up to MAX_DIM, plainly:
// score[i, s] = scale_s · Σ_h w[i,h]·max(0, q[i,h]·k_s). What index_scores.cu
// does for the sizes it knows; arguments are as there.
//
// A block takes a row and a page of keys, four threads share a key's heads.
//
//latent:unit index_generic_f8 F8=1
//latent:unit index_generic_bf16 F8=0

struct IndexGenericParams {
  const u8* queries;     // rows 2·heads·dim bytes apart
  const float* weights;  // [n, heads]
  const u8* pool;        // the layer's index keys
  float* scores;         // [n, columns]
  const Row* rows;
  Pages pages;
  i64 columns;
  i32 heads, dim;
};

static constexpr int MAX_DIM = 256;
static constexpr int SHARES = 4;

KERNEL index_generic(IndexGenericParams p) {
  // Keys as bf16, which holds e4m3 exactly; an odd number of words apart.
  __shared__ bf16 keys[PAGE_TOKENS][MAX_DIM + 2];
  __shared__ float parts[SHARES][PAGE_TOKENS];
  grid_wait();
  Row r = p.rows[blockIdx.x];
  i32 base = blockIdx.y * PAGE_TOKENS;
  if (base >= r.to) return;
  i64 page = p.pages.slot(r.seq, base) / PAGE_TOKENS;
  i32 size = PAGE_TOKENS * p.dim;
  const u8* src = p.pool + page * (F8 ? size + PAGE_TOKENS * 4 : size * 2);
  for (i32 i = threadIdx.x; i < size; i += blockDim.x)
    keys[i / p.dim][i % p.dim] = F8 ? float_bf16(e4m3_float(src[i])) : ((const bf16*)src)[i];
  __syncthreads();

  i32 key = threadIdx.x % PAGE_TOKENS, share = threadIdx.x / PAGE_TOKENS;
  const u8* query = p.queries + (i64)blockIdx.x * p.heads * p.dim * 2;
  float score = 0;
  for (i32 h = share; h < p.heads; h += SHARES) {
    float dot = 0;
    for (i32 d = 0; d < p.dim; d++) {
      i32 at = h * p.dim + d;
      float q = F8 ? e4m3_float(query[at]) : bf16_float(((const bf16*)query)[at]);
      dot = fmaf(q, bf16_float(keys[key][d]), dot);
    }
    score = fmaf(p.weights[(i64)blockIdx.x * p.heads + h], fmaxf(dot, 0.0f), score);
  }
  parts[share][key] = score;
  __syncthreads();
  if (share > 0 || base + key >= r.to) return;
  for (int i = 1; i < SHARES; i++) score += parts[i][key];
  if (F8) score *= ((const float*)(src + size))[key];
  p.scores[(i64)blockIdx.x * p.columns + base + key] = score;
}
