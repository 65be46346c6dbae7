// Index scores on tensor cores: score[i, s] = scale_s · Σ_h w[i,h]·max(0, q[i,h]·k_s)
// for the query rows i of a list of runs and the keys s that each of them sees.
// For heads of 128 elements, a multiple of 4 of them and at most HEADS; other
// shapes are index_generic.cu's. It knows nothing of selections.
//
//   q        [n, heads, 128]  codes e4m3 with the rows 2·128·heads bytes apart (F8), or bf16
//   weights  [n, heads]       float32; for F8 with the scales of the heads of q in them
//   keys     F8:   pages of 64 keys e4m3 [64, 128], then their 64 scales float32
//            bf16: [slots, 128]
//   scores   [n, columns]     float32
//
// A block of threads keeps a segment of up to MAX_SEGMENT keys of a sequence in
// shared memory and lets groups of GROUP query rows pass by: a key is the row,
// a head of a query the column of a matrix product m64 nCOLUMNS, so that the sum
// over heads stays inside the four lanes that share a row. A score costs reading
// 128·HEADS/MAX_SEGMENT bytes of queries from L2, 8 at 64 heads, and little for
// keys; the other way round, a group of queries resident and keys passing by, it
// would be 128/GROUP bytes.
//
// Who does what is computed on the device from the runs, so that a captured graph
// holds for all contexts: the work of all (run, segment, group) in this order is
// a line, and each block takes an equal part of it, see find.
//
// Two warp groups take alternate tiles of 64 keys, each with two sets of
// accumulators: the sums of one are taken while the product of the other runs.
// One warp loads pages of keys into a ring, one the groups of queries.
//
// Measured with parts left out (H200, 4096 rows of 8192 keys, 64 heads), time is
// nearly the sum of the products' and of all other instructions': 417 us, 231
// without products, 299 without the sums over heads. Three warp groups, one set of
// accumulators, or letting the warp groups start their products by turns did not
// help; fewer instructions did.
//
//latent:unit index_scores_f8_64x2 hot F8=1 HEADS=64 GROUP=2
//latent:unit index_scores_f8_64x1 hot F8=1 HEADS=64 GROUP=1
//latent:unit index_scores_f8_32x4 hot F8=1 HEADS=32 GROUP=4
//latent:unit index_scores_f8_32x1 hot F8=1 HEADS=32 GROUP=1
//latent:unit index_scores_f8_8x16 hot F8=1 HEADS=8 GROUP=16
//latent:unit index_scores_f8_8x1 hot F8=1 HEADS=8 GROUP=1
//latent:unit index_scores_bf16_64x2 hot F8=0 HEADS=64 GROUP=2
//latent:unit index_scores_bf16_64x1 hot F8=0 HEADS=64 GROUP=1
//latent:unit index_scores_bf16_32x4 hot F8=0 HEADS=32 GROUP=4
//latent:unit index_scores_bf16_32x1 hot F8=0 HEADS=32 GROUP=1
//latent:unit index_scores_bf16_8x16 hot F8=0 HEADS=8 GROUP=16
//latent:unit index_scores_bf16_8x1 hot F8=0 HEADS=8 GROUP=1

struct IndexScoresParams {
  TensorMap queries;  // {128, heads, n}, box {128 bytes, HEADS, GROUP}, 128-byte swizzle
  TensorMap keys;     // F8: {128, 64, pages}, bf16: {128, slots}; box of 64 keys x 128 bytes, swizzle
  TensorMap weights;  // {heads, n}, box {HEADS, GROUP}
  Pages pages;
  const Run* runs;
  const u8* pool;  // the layer's index keys, for the scales
  float* scores;
  i64 columns;
  i32 num_runs;   // at most MAX_RUNS
  i32 first_row;  // row of q, weights and scores of the first run's first row
  i32 pad[2];
};

static constexpr int TILE = 64;                   // keys of a product, tokens of a page
static constexpr int COLUMNS = HEADS * GROUP;     // N of a product
static constexpr int PANELS = F8 ? 1 : 2;         // a row of 128 elements is as many pieces of 128 bytes
static constexpr int PANEL = TILE * 128;          // bytes
static constexpr int PAGE = PANELS * PANEL;       // bytes of a page in shared memory
static constexpr int POOL_PAGE = PANEL + TILE * 4;  // F8: bytes of a page in the cache
static constexpr int RING = F8 ? 16 : 8;          // pages in shared memory: 128 KB
static constexpr int MAX_SEGMENT = RING * TILE;
static constexpr int QUERIES = PANELS * COLUMNS * 128;  // bytes of a group
static constexpr int STAGES = QUERIES > 16384 ? 2 : 4;  // groups in shared memory
static constexpr int MATH_WARPS = 8;
static constexpr int THREADS = (MATH_WARPS + 4) * WARP;

#include "index_line.cuh"

struct Shared {
  u8 keys[RING][PAGE];  // at multiples of 1024
  u8 queries[STAGES][QUERIES];
  float scales[RING][TILE];
  float weights[STAGES][COLUMNS < 32 ? 32 : COLUMNS];
  Line line;
  Barrier keys_full[RING], keys_empty[RING], queries_full[STAGES], queries_empty[STAGES];
};
static_assert(sizeof(Shared) <= 232448, "more shared memory than a block can have");

extern __shared__ __align__(1024) u8 dynamic[];

// ---- loading ----

DEVICE void load_keys(Shared& s, const IndexScoresParams& p, i32 shift) {
  constexpr u32 BYTES = PAGE + (F8 ? TILE * 4 : 0);
  i32 lane = lane_id();
  Walk walk(s.line, shift);
  bool more = walk.next();
  // The numbers of an item's pages, a lane each, are read while the pages of
  // the item before are loaded.
  i32 pages = 0;
  if (more && lane < walk.tiles) pages = __ldg(p.pages.table + walk.work.table + walk.base / TILE + lane);
  u32 count = 0;
  while (more) {
    i32 tiles = walk.tiles, now = pages;
    more = walk.next();
    if (more && lane < walk.tiles) pages = __ldg(p.pages.table + walk.work.table + walk.base / TILE + lane);
    for (i32 t = 0; t < tiles; t++, count++) {
      i32 page = __shfl_sync(~0u, now, t);
      u32 slot = count % RING;
      barrier_wait(&s.keys_empty[slot], count / RING & 1 ^ 1);
      if (lane == 0) {
        Barrier* full = &s.keys_full[slot];
        barrier_expect(full, BYTES);
        if constexpr (F8) {
          tma_load_3d(s.keys[slot], &p.keys, full, 0, 0, page);
          bulk_load(s.scales[slot], p.pool + (i64)page * POOL_PAGE + PANEL, TILE * 4, full);
        } else {
          tma_load_2d(s.keys[slot], &p.keys, full, 0, page * TILE);
          tma_load_2d(s.keys[slot] + PANEL, &p.keys, full, 64, page * TILE);
        }
      }
      __syncwarp();
    }
  }
}

DEVICE void load_queries(Shared& s, const IndexScoresParams& p, i32 shift) {
  i32 lane = lane_id();
  Walk walk(s.line, shift);
  u32 count = 0;
  while (walk.next()) {
    for (i32 g = walk.first; g < walk.last; g++, count++) {
      u32 stage = count % STAGES;
      barrier_wait(&s.queries_empty[stage], count / STAGES & 1 ^ 1);
      if (lane == 0) {
        Barrier* full = &s.queries_full[stage];
        i32 row = walk.work.row + g * GROUP;
        barrier_expect(full, QUERIES + COLUMNS * 4);
#pragma unroll
        for (int i = 0; i < PANELS; i++)
          tma_load_3d(s.queries[stage] + i * COLUMNS * 128, &p.queries, full, i * 64, 0, row);
        tma_load_2d(s.weights[stage], &p.weights, full, 0, row);
      }
      __syncwarp();
    }
  }
}

// ---- products and sums ----

// Operand describes shared memory to a product, in 16 bytes: rows of 128 bytes,
// swizzled. The upper half of a descriptor is the same for all.
struct Operand {
  u32 low;
  DEVICE Operand(const void* p) : low((u32)smem_desc(p)) {}
  DEVICE u64 at(u32 bytes) const { return (u64)0x40000040u << 32 | low + (bytes >> 4); }
};

// multiply starts the product of a page with a group of queries.
DEVICE void multiply(float (&acc)[COLUMNS / 2], Operand keys, Operand queries) {
#pragma unroll
  for (int i = 0; i < PANELS; i++) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      u64 x = keys.at(i * PANEL + k * 32), y = queries.at(i * COLUMNS * 128 + k * 32);
      if constexpr (F8)
        wgmma_e4m3_ss(acc, x, y, i > 0 || k > 0);
      else
        wgmma_bf16_ss(acc, x, y, i > 0 || k > 0);
    }
  }
  wgmma_commit();
}

// A lane's columns of a product are 8i + 2(lane%4) + {0, 1}, of two rows. After
// the sums over the four lanes of a row it stores the scores of the KEPT query
// rows of its half of the group for the key lane/4 + 8·(lane%2) of the warp's 16.
static constexpr int KEPT = GROUP == 1 ? 1 : GROUP / 2;

// Target is where a lane's scores go, for a group of queries and a segment.
struct Target {
  float* out;    // of the first kept row and the lane's key in tile 0
  i64 columns;
  i32 rows;      // kept rows that exist
  i32 see, all;  // what the first of them sees, what all see at most, in keys from there on
};

// finish sums a product over heads and stores the scores of the tile that begins
// at offset. Each column has its weight in w.
DEVICE void finish(const float (&acc)[COLUMNS / 2], const float (&w)[COLUMNS / 4], const Target& t, i32 offset, float scale) {
  float sum[GROUP][2];
#pragma unroll
  for (int i = 0; i < COLUMNS / 8; i++) {
    constexpr int EACH = HEADS / 8;
    float(&d)[2] = sum[i / EACH];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      float x = fmaxf(acc[4 * i + 2 * j], 0.0f), y = fmaxf(acc[4 * i + 2 * j + 1], 0.0f);
      d[j] = i % EACH == 0 ? w[2 * i] * x : fmaf(w[2 * i], x, d[j]);
      d[j] = fmaf(w[2 * i + 1], y, d[j]);
    }
  }
  bool upper = lane_id() & 2, second = lane_id() & 1;
#pragma unroll
  for (int i = 0; i < KEPT; i++) {
    float both[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      float keep = sum[i][j], give = keep;
      if constexpr (GROUP > 1) {
        keep = upper ? sum[i + KEPT][j] : sum[i][j];
        give = upper ? sum[i][j] : sum[i + KEPT][j];
      }
      both[j] = keep + __shfl_xor_sync(~0u, give, 2);
    }
    float give = second ? both[0] : both[1];
    float score = ((second ? both[1] : both[0]) + __shfl_xor_sync(~0u, give, 1)) * scale;
    if (i < t.rows && offset < min(t.see + i, t.all)) t.out[i * t.columns + offset] = score;
  }
}

// score takes the tiles of one of two warp groups, two at a time: the first is
// summed during the product of the second, the second during the products of the
// other warp group. (ptxas serialises products that stay in flight round a loop.)
DEVICE void score(Shared& s, const IndexScoresParams& p, i32 shift, i32 half) {
  i32 lane = lane_id(), row = (threadIdx.x / WARP & 3) * 16 + lane / 4 + 8 * (lane & 1);
  bool upper = lane & 2;
  float x[COLUMNS / 2], y[COLUMNS / 2], w[COLUMNS / 4];
  Target t = {nullptr, p.columns, 0, 0, 0};
  Walk walk(s.line, shift);
  u32 pages = 0, count = 0;  // of the items and groups before
  while (walk.next()) {
    const Work& run = walk.work;
    for (i32 g = walk.first; g < walk.last; g++, count++) {
      u32 stage = count % STAGES;
      i32 tiles = walk.tiles_of(g), first = g * GROUP + (upper ? KEPT : 0);
      t.out = p.scores + (i64)(run.row + first) * p.columns + walk.base + row;
      t.rows = GROUP == 1 && upper ? 0 : run.rows - first;
      t.all = run.to - walk.base - row;
      t.see = run.pos + first + 1 - walk.base - row;
      Operand queries(s.queries[stage]);
      barrier_wait(&s.queries_full[stage], count / STAGES & 1);
#pragma unroll
      for (int i = 0; i < COLUMNS / 8; i++) {
        float2 v = *(const float2*)&s.weights[stage][8 * i + 2 * (lane & 3)];
        w[2 * i] = v.x, w[2 * i + 1] = v.y;
      }
      auto ready = [&](i32 tile) {
        u32 page = pages + tile, slot = page % RING;
        barrier_wait(&s.keys_full[slot], page / RING & 1);
        return slot;
      };
      auto scale = [&](u32 slot) { return F8 ? s.scales[slot][row] : 1.0f; };
      // release gives a page back that the last group of the item is done with.
      auto release = [&](u32 slot) {
        if (g < walk.last - 1) return;
        __syncwarp();
        if (lane == 0) barrier_arrive(&s.keys_empty[slot]);
      };
      i32 tile = half;
      for (; tile + 2 < tiles; tile += 4) {
        u32 a = ready(tile), b = ready(tile + 2);
        Operand keys_a(s.keys[a]), keys_b(s.keys[b]);
        float scale_a = scale(a), scale_b = scale(b);
        wgmma_fence();
        multiply(x, keys_a, queries);
        multiply(y, keys_b, queries);
        wgmma_wait<1>();
        wgmma_keep(x);
        release(a);
        finish(x, w, t, tile * TILE, scale_a);
        wgmma_wait<0>();
        wgmma_keep(y);
        release(b);
        finish(y, w, t, tile * TILE + 2 * TILE, scale_b);
      }
      if (tile < tiles) {
        u32 a = ready(tile);
        float scale_a = scale(a);
        wgmma_fence();
        multiply(x, Operand(s.keys[a]), queries);
        wgmma_wait<0>();
        wgmma_keep(x);
        release(a);
        finish(x, w, t, tile * TILE, scale_a);
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(&s.queries_empty[stage]);
    }
    pages += walk.tiles;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    index_scores(const __grid_constant__ IndexScoresParams p) {
  Shared& s = *(Shared*)dynamic;
  if (threadIdx.x == 0) {
    prefetch_map(&p.queries);
    prefetch_map(&p.keys);
    prefetch_map(&p.weights);
    for (int i = 0; i < RING; i++) {
      barrier_init(&s.keys_full[i], 1);
      barrier_init(&s.keys_empty[i], 4);
    }
    for (int i = 0; i < STAGES; i++) {
      barrier_init(&s.queries_full[i], 1);
      barrier_init(&s.queries_empty[i], MATH_WARPS);
    }
    barrier_init_done();
  }
  grid_wait();
  i32 shift = prepare(s.line, {p.runs, p.pages, p.num_runs, p.first_row});
  i32 warp = warp_id();
  if (warp < MATH_WARPS) {
    register_alloc<232>();
    score(s, p, shift, warp / 4);
  } else {
    register_dealloc<40>();
    if (warp == MATH_WARPS) load_keys(s, p, shift);
    if (warp == MATH_WARPS + 1) load_queries(s, p, shift);
  }
}
