// The copies beside the products of absorption and its inverse: rope parts of
// queries, rows that are not consecutive. See kvb.go.
//
//latent:unit absorb

struct Absorb {
  const bf16* q;    // [T, heads, nope + rope]
  bf16* qa;         // [n, heads, latent + rope]: the rope part is written
  bf16* gathered;   // [n, heads, nope], or null where the product reads q itself
  const Row* rows;  // [n]
  i32 heads, nope, rope, latent;
};

// copy_heads copies n elements of every head, elements of type V, in a block's
// share of a row. Strides are elements of bf16 between heads.
template <typename V>
DEVICE void copy_heads(bf16* dst, int dst_stride, const bf16* src, int src_stride, int heads, int n) {
  int per = n / (int)(sizeof(V) / 2);
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < heads * per; i += gridDim.y * blockDim.x) {
    int h = i / per, c = i % per;
    ((V*)(dst + (i64)h * dst_stride))[c] = ((const V*)(src + (i64)h * src_stride))[c];
  }
}

// Blocks (row, part of the heads).
template <typename V>
DEVICE void absorb(const Absorb& p) {
  i64 i = blockIdx.x;
  int width = p.nope + p.rope;
  const bf16* q = p.q + (i64)p.rows[i].row * p.heads * width;
  copy_heads<V>(p.qa + i * p.heads * (p.latent + p.rope) + p.latent, p.latent + p.rope, q + p.nope, width, p.heads, p.rope);
  if (p.gathered) copy_heads<V>(p.gathered + i * p.heads * p.nope, p.nope, q, width, p.heads, p.nope);
}

KERNEL absorb_rows(const __grid_constant__ Absorb p) {
  if ((p.nope | p.rope | p.latent) % 8 == 0)
    absorb<uint4>(p);
  else
    absorb<bf16>(p);
}

struct Scatter {
  const bf16* src;  // [n, cols]
  bf16* dst;        // [T, cols]
  const Row* rows;  // [n]
  i32 cols, pad;
};

// Row i of src becomes row rows[i].row of dst. Blocks (row, part of the columns).
KERNEL scatter_rows(const __grid_constant__ Scatter p) {
  const bf16* src = p.src + (i64)blockIdx.x * p.cols;
  bf16* dst = p.dst + (i64)p.rows[blockIdx.x].row * p.cols;
  if (p.cols % 8 == 0)
    copy_heads<uint4>(dst, 0, src, 0, 1, p.cols);
  else
    copy_heads<bf16>(dst, 0, src, 0, 1, p.cols);
}
