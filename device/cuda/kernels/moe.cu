// What routed experts need round their products: where each row goes, the rows
// in that order, and the weighted sum of what comes back; and the layout of the
// weights. The products themselves are in grouped.cu and moe_generic.cu.
//
// A pair is one choice j of one token t, t·Ke + j. Pairs sorted by expert (then
// by t and j) are the rows of all intermediate results; place[pair] is the row.
// The rows of an expert begin at a multiple of 4, so there are rows without a
// pair, which nobody writes or reads.
// All of it stays on the device: nothing depends on counts that the host reads.
//
//latent:unit moe

// ---- order of the pairs ----

struct RouteParams {
  const i32* ids;  // [pairs] expert of each pair
  i32* place;      // [pairs]
  int4* tiles;     // {expert, first row, rows, first tile} of the group of each tile
  i32* count;      // of tiles
  i32 pairs, experts;
  i32 tileRows;   // rows of a tile at most
  i32 groupTiles; // tiles of a group at most
};

static constexpr int ROUTE_WARPS = 32;

extern __shared__ i32 next[];  // of route

// load_ids returns the experts of 8 times 32 pairs from base on, -1 behind to.
static constexpr int IDS = 8;
DEVICE void load_ids(i32 (&e)[IDS], const i32* ids, i32 base, i32 to) {
#pragma unroll
  for (int u = 0; u < IDS; u++) {
    i32 i = base + u * WARP + lane_id();
    e[u] = i < to ? __ldg(ids + i) : -1;
  }
}

// Blocks of a cluster, of which a kernel launched without clusters is one.
DEVICE u32 cluster_rank() {
  u32 r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
DEVICE u32 cluster_size() {
  u32 n;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
  return n;
}
DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// load_from reads a variable in shared memory of a block of the cluster.
DEVICE i32 load_from(const i32* p, u32 rank) {
  i32 v;
  asm volatile("{\n.reg .b32 a;\nmapa.shared::cluster.u32 a, %1, %2;\nld.shared::cluster.s32 %0, [a];\n}\n"
               : "=r"(v)
               : "r"(smem_addr(p)), "r"(rank)
               : "memory");
  return v;
}

static constexpr int MAX_EXPERTS = ROUTE_WARPS * WARP;

// route sorts the pairs by expert and cuts each expert's rows into tiles. It
// takes a cluster of blocks of ROUTE_WARPS warps; each warp owns consecutive
// pairs. Shared memory next is i32 [ROUTE_WARPS, experts]: first the pairs of
// each warp for each expert, then the next row of each. Places are written for
// the pairs [first, last) only, tiles if asked. An expert that does not exist
// stops the device.
DEVICE void route(const RouteParams& p, i32 first, i32 last, bool tilesToo) {
  __shared__ u64 sums[WARP];
  __shared__ i32 counts[MAX_EXPERTS];  // of the block's pairs
  int tid = threadIdx.x, lane = lane_id(), warp = warp_id();
  i32 rank = cluster_rank(), blocks = cluster_size(), warps = blocks * ROUTE_WARPS;
  for (int i = tid; i < ROUTE_WARPS * p.experts; i += blockDim.x) next[i] = 0;
  __syncthreads();

  i32* own = next + warp * p.experts;
  i32 share = ((p.pairs + warps - 1) / warps + WARP - 1) / WARP * WARP;
  i32 from = min((rank * ROUTE_WARPS + warp) * share, p.pairs), to = min(from + share, p.pairs);
  i32 e[IDS];
  for (i32 base = from; base < to; base += IDS * WARP) {
    load_ids(e, p.ids, base, to);
#pragma unroll
    for (int u = 0; u < IDS; u++) {
      if (base + u * WARP + lane >= to) continue;
      if ((u32)e[u] >= (u32)p.experts) __trap();
      atomicAdd(own + e[u], 1);
    }
  }
  __syncthreads();

  // Thread e holds expert e.
  i32 count = 0, before = 0, rows = 0;
  if (tid < p.experts)
    for (int w = 0; w < ROUTE_WARPS; w++) count += next[w * p.experts + tid];
  counts[tid] = count;
  cluster_sync();
  for (i32 b = 0; b < blocks; b++) {
    i32 n = load_from(&counts[tid], b);
    rows += n;
    if (b < rank) before += n;
  }
  cluster_sync();

  // Rows in the low half of the scanned value, tiles in the high half. The copy
  // engine wants to begin at 16 bytes of the scales.
  i32 tiles = (rows + p.tileRows - 1) / p.tileRows;
  u64 value = (u64)tiles << 32 | (u32)(rows + 3 & ~3), scan = value;
#pragma unroll
  for (int d = 1; d < WARP; d <<= 1) {
    u64 v = __shfl_up_sync(~0u, scan, d);
    if (lane >= d) scan += v;
  }
  if (lane == WARP - 1) sums[warp] = scan;
  __syncthreads();
  for (int w = 0; w < warp; w++) scan += sums[w];
  if (tilesToo && tid == blockDim.x - 1) *p.count = (i32)(scan >> 32);
  i32 row = (i32)(u32)(scan - value), tile = (i32)((scan - value) >> 32);
  if (tid < p.experts) {
    for (int w = 0, r = row + before; w < ROUTE_WARPS; w++) {
      i32 n = next[w * p.experts + tid];
      next[w * p.experts + tid] = r;
      r += n;
    }
    for (int i = 0; tilesToo && i < tiles; i++) {
      i32 begin = i / p.groupTiles * p.groupTiles, skip = begin * p.tileRows;
      p.tiles[tile + i] = make_int4(tid, row + skip, min(rows - skip, p.groupTiles * p.tileRows), tile + begin);
    }
  }
  __syncthreads();

  for (i32 base = from; base < to; base += IDS * WARP) {
    load_ids(e, p.ids, base, to);
#pragma unroll
    for (int u = 0; u < IDS; u++) {
      i32 i = base + u * WARP + lane;
      if (i - lane >= to) break;
      u32 same = __match_any_sync(~0u, e[u]);
      i32 at = e[u] >= 0 ? own[e[u]] : 0;
      __syncwarp();
      if (e[u] >= 0) {
        if (i >= first && i < last) p.place[i] = at + __popc(same & ((1u << lane) - 1));
        if ((same >> lane) == 1) own[e[u]] = at + __popc(same);
      }
      __syncwarp();
    }
  }
}

// moe_route is route for all pairs, by one cluster.
KERNEL __launch_bounds__(ROUTE_WARPS* WARP, 1) moe_route(const RouteParams p) {
  grid_launch_dependents();
  route(p, 0, p.pairs, cluster_rank() == 0);
}

// ---- rows in that order ----

struct PermuteParams {
  const bf16* src;   // [T, cols]
  const i32* place;  // [T, choose]
  void* rows;        // [rows, cols] bf16 or e4m3
  float* scales;     // e4m3: [cols/128, scalePitch]
  i32 choose, cols, scalePitch, pad;
};

// permute copies row t of src to the rows of its pairs, by one block.
DEVICE void permute(const PermuteParams& p, i64 t) {
  const bf16* src = p.src + t * p.cols;
  const i32* place = p.place + t * p.choose;
  bf16* rows = (bf16*)p.rows;
  if (p.cols % 8 == 0) {
    for (int c = threadIdx.x * 8; c < p.cols; c += blockDim.x * 8) {
      uint4 v = *reinterpret_cast<const uint4*>(src + c);
#pragma unroll 8
      for (int j = 0; j < p.choose; j++) *reinterpret_cast<uint4*>(rows + (i64)place[j] * p.cols + c) = v;
    }
    return;
  }
  for (int c = threadIdx.x; c < p.cols; c += blockDim.x)
    for (int j = 0; j < p.choose; j++) rows[(i64)place[j] * p.cols + c] = src[c];
}

// permute_f8 also rounds it to e4m3 in blocks of 128 columns: 8 lanes a block,
// 16 columns a lane.
DEVICE void permute_f8(const PermuteParams& p, i64 t) {
  const bf16* src = p.src + t * p.cols;
  const i32* place = p.place + t * p.choose;
  u8* rows = (u8*)p.rows;
  u32 group = 0xffu << (lane_id() & 24);
  for (int c = threadIdx.x * 16; c < p.cols; c += blockDim.x * 16) {
    const uint4* from = reinterpret_cast<const uint4*>(src + c);
    uint4 a = from[0], b = from[1];
    u32 pairs[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}, codes[8];
    float most = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) most = fmaxf(most, fmaxf(fabsf(bf16_lo(pairs[i])), fabsf(bf16_hi(pairs[i]))));
#pragma unroll
    for (int d = 4; d > 0; d >>= 1) most = fmaxf(most, __shfl_xor_sync(group, most, d));
    float scale = quant_scale(most), inverse = 1.0f / scale;
#pragma unroll
    for (int i = 0; i < 8; i++) codes[i] = pack_e4m3(bf16_lo(pairs[i]) * inverse, bf16_hi(pairs[i]) * inverse);
    uint4 out = make_uint4(codes[0] | codes[1] << 16, codes[2] | codes[3] << 16, codes[4] | codes[5] << 16,
                           codes[6] | codes[7] << 16);
#pragma unroll 8
    for (int j = 0; j < p.choose; j++) {
      *reinterpret_cast<uint4*>(rows + (i64)place[j] * p.cols + c) = out;
      if (c % 128 == 0) p.scales[(i64)(c / 128) * p.scalePitch + place[j]] = scale;
    }
  }
}

// One block a token.
KERNEL __launch_bounds__(512) moe_permute(const PermuteParams p) {
  grid_launch_dependents();
  grid_wait();
  permute(p, blockIdx.x);
}
KERNEL __launch_bounds__(512) moe_permute_f8(const PermuteParams p) {
  grid_launch_dependents();
  grid_wait();
  permute_f8(p, blockIdx.x);
}

// ---- both at once ----

struct ArrangeParams {
  RouteParams route;
  PermuteParams permute;
};

// For few tokens every block, one a token, does all of route by itself and needs
// nobody's places but its own.
DEVICE void route_token(const ArrangeParams& p) {
  grid_launch_dependents();
  i32 first = blockIdx.x * p.permute.choose;
  route(p.route, first, first + p.permute.choose, blockIdx.x == 0);
  __syncthreads();
}
KERNEL __launch_bounds__(ROUTE_WARPS* WARP, 1) moe_arrange(const ArrangeParams p) {
  route_token(p);
  permute(p.permute, blockIdx.x);
}
KERNEL __launch_bounds__(ROUTE_WARPS* WARP, 1) moe_arrange_f8(const ArrangeParams p) {
  route_token(p);
  permute_f8(p.permute, blockIdx.x);
}

// ---- sum ----

struct CombineParams {
  bf16* dst;             // [T, dstCols]
  const bf16* y;         // [rows, cols]: columns [first, first+cols) of the experts' results
  const i32* place;      // [T, choose]
  const float* weights;  // [T, choose]
  i32 choose, dstCols, first, cols;
};

// moe_combine adds Σ_j weights[t,j]·y[place[t,j]] to row t of dst, in order of j
// and rounded once. Grid: tokens, pieces of 8·blockDim columns.
KERNEL __launch_bounds__(128) moe_combine(const CombineParams p) {
  grid_launch_dependents();
  grid_wait();
  i64 t = blockIdx.x;
  const i32* place = p.place + t * p.choose;
  const float* weights = p.weights + t * p.choose;
  bf16* dst = p.dst + t * p.dstCols + p.first;
  int c = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (c >= p.cols) return;
  if (p.cols % 8 != 0 || p.dstCols % 8 != 0) {
    for (int end = min(c + 8, p.cols); c < end; c++) {
      float sum = bf16_float(dst[c]);
      for (int j = 0; j < p.choose; j++) sum += weights[j] * bf16_float(p.y[(i64)place[j] * p.cols + c]);
      dst[c] = float_bf16(sum);
    }
    return;
  }
  uint4 d = *reinterpret_cast<uint4*>(dst + c);
  float sum[8] = {bf16_lo(d.x), bf16_hi(d.x), bf16_lo(d.y), bf16_hi(d.y),
                  bf16_lo(d.z), bf16_hi(d.z), bf16_lo(d.w), bf16_hi(d.w)};
#pragma unroll 8
  for (int j = 0; j < p.choose; j++) {
    float w = weights[j];
    uint4 y = *reinterpret_cast<const uint4*>(p.y + (i64)place[j] * p.cols + c);
    sum[0] += w * bf16_lo(y.x), sum[1] += w * bf16_hi(y.x);
    sum[2] += w * bf16_lo(y.y), sum[3] += w * bf16_hi(y.y);
    sum[4] += w * bf16_lo(y.z), sum[5] += w * bf16_hi(y.z);
    sum[6] += w * bf16_lo(y.w), sum[7] += w * bf16_hi(y.w);
  }
  *reinterpret_cast<uint4*>(dst + c) = make_uint4(pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]),
                                                  pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7]));
}

// ---- layout of the weights ----

// Types of stored weights, as device.DType counts them.
enum { STORED_F32 = 1, STORED_BF16 = 2, STORED_F16 = 3, STORED_F8 = 4 };

struct ExpertRowsParams {
  const void* src;      // [rows, cols] of type
  const float* scales;  // STORED_F8: [ceil(rows/128), ceil(cols/128)]
  void* dst;            // the expert's matrix, rows of cols elements
  i32* bad;             // if 0, set to matrix+1 when src has a NaN code
  i32 type, rows, cols, matrix;
  i32 keep;      // 1: dst holds the e4m3 codes, 0: bf16
  i32 alternate; // 0: row r goes to row r; 1, 2: to row r%8 of group 2(r/8) or 2(r/8)+1 of 8 rows
};

// expert_rows stores one projection. Grid: pieces of blockDim columns, rows.
KERNEL __launch_bounds__(256) expert_rows(const ExpertRowsParams p) {
  int c = blockIdx.x * blockDim.x + threadIdx.x, r = blockIdx.y;
  if (c >= p.cols) return;
  i64 from = (i64)r * p.cols + c;
  i64 to = (i64)(p.alternate == 0 ? r : (2 * (r / 8) + p.alternate - 1) * 8 + r % 8) * p.cols + c;
  float v;
  switch (p.type) {
    case STORED_F32: v = ((const float*)p.src)[from]; break;
    case STORED_BF16: v = bf16_float(((const bf16*)p.src)[from]); break;
    case STORED_F16: v = half_float(((const u16*)p.src)[from]); break;
    default: {
      e4m3 code = ((const e4m3*)p.src)[from];
      if ((code & 0x7f) == 0x7f) atomicCAS(p.bad, 0, p.matrix + 1);
      if (p.keep) {
        ((e4m3*)p.dst)[to] = code;
        return;
      }
      v = e4m3_float(code) * p.scales[(i64)(r / 128) * ((p.cols + 127) / 128) + c / 128];
    }
  }
  ((bf16*)p.dst)[to] = float_bf16(v);
}
