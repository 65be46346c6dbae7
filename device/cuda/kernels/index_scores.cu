// Index scores on tensor cores: score[i, s] = scale_s · Σ_h w[i,h]·max(0, q[i,h]·k_s)
// for the query rows i of a list of runs and the keys s that each of them sees.
// For heads of 128 elements, a multiple of 4 of them and at most HEADS; other
// shapes are index_generic.cu's. It knows nothing of selections but that rows
// which see at most `skip` keys need no scores.
//
//   q        [n, heads, 128]  codes e4m3 with the rows 2·128·heads bytes apart (F8), or bf16
//   weights  [n, heads]       float32; for F8 with the scales of the heads of q in them
//   keys     F8:   pages of 64 keys e4m3 [64, 128], then their 64 scales float32
//            bf16: [slots, 128]
//   scores   [n, columns]     float32
//
// A block of threads keeps a segment of up to SEGMENT keys of a sequence in
// shared memory and lets groups of GROUP query rows pass by: a key is the row,
// a head of a query the column of a matrix product m64 n128, so that the sum over
// heads stays inside the four lanes that share a row. Reading L2 for each score
// costs 128·HEADS/SEGMENT bytes of queries and little for keys; with a few
// queries resident and keys passing by, the other way round, L2 was the limit.
//
// Who does what is computed on the device from the runs, so that a captured graph
// holds for all contexts: the work of all (run, segment, group) in this order is
// a line, and each block takes an equal part of it, see find.
//
// Two warp groups take alternate tiles of 64 keys, each with two sets of
// accumulators: the sums of one are taken while the product of the other runs.
// One warp loads pages of keys into a ring, one the groups of queries.
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
  i32 skip;
  i32 pad;
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
static constexpr int MAX_RUNS = 512;
static constexpr int MATH_WARPS = 8;
static constexpr int THREADS = (MATH_WARPS + 4) * WARP;
// What a group costs besides its keys, in keys: half a tile wasted at the end of
// what it sees, and fetching its queries.
static constexpr int GROUP_COST = 128;

// Work is a run, without the leading groups that need no scores. w.to is the
// number of keys that its last row sees.
struct Work {
  i32 row, rows, pos, to, table;
};

DEVICE i32 groups_of(const Work& w) { return (i32)((u32)(w.rows + GROUP - 1) / GROUP); }

// Position is a point on the line of all work.
struct Position {
  i32 run, segment, group;
};

struct Shared {
  u8 keys[RING][PAGE];  // at multiples of 1024
  u8 queries[STAGES][QUERIES];
  float scales[RING][TILE];
  float weights[STAGES][COLUMNS < 32 ? 32 : COLUMNS];
  i64 cost[MAX_RUNS + 1];  // of the runs before
  Work work[MAX_RUNS];
  Barrier keys_full[RING], keys_empty[RING], queries_full[STAGES], queries_empty[STAGES];
  i64 sums[THREADS / WARP];
  i32 row_sums[THREADS / WARP];
  Position range[2];
};
static_assert(sizeof(Shared) <= 232448, "more shared memory than a block can have");

extern __shared__ __align__(1024) u8 dynamic[];

// ---- the line of work ----

// seen is Σ over the first n groups of a run of min(limit, keys that the group
// sees); group g sees min(w.to, w.pos + GROUP·(g+1)).
DEVICE i64 seen(const Work& w, i32 limit, i32 n) {
  i32 h = min(limit, w.to);
  i32 fewer = h <= w.pos ? 0 : min((i32)((u32)(h - w.pos + GROUP - 1) / GROUP) - 1, n);
  return (i64)fewer * w.pos + (i64)fewer * (fewer + 1) / 2 * GROUP + (i64)(n - fewer) * h;
}

// blind is the number of leading groups that see nothing of a segment.
DEVICE i32 blind(const Work& w, i32 segment, i32 shift) {
  return (i32)((u32)max(0, (segment << shift) - w.pos) / GROUP);
}

// before is the cost of all segments of a run before this one.
DEVICE i64 before(const Work& w, i32 segment, i32 shift) {
  // Σ blind over these segments: an arithmetic progression from the first
  // segment on that begins behind the first row.
  i32 step = (1 << shift) / GROUP, skipped = (i32)((u32)(w.pos + GROUP - 1) / GROUP);
  i32 first = min(segment, (i32)((u32)(skipped + step - 1) / step)), n = segment - first;
  i32 blinds = n * (first + segment - 1) / 2 * step - skipped * n;
  i32 groups = groups_of(w);
  return seen(w, segment << shift, groups) + GROUP_COST * ((i64)segment * groups - blinds);
}

// within is the cost of the first n groups of a segment.
DEVICE i64 within(const Work& w, i32 segment, i32 shift, i32 n) {
  return seen(w, (segment + 1) << shift, n) - seen(w, segment << shift, n) +
         GROUP_COST * (i64)max(0, n - blind(w, segment, shift));
}

DEVICE i32 segments_of(const Work& w, i32 shift) { return (w.to + (1 << shift) - 1) >> shift; }

// last_true is the largest i of [0, n) with holds(i), which is true for 0 and
// then up to some i. All lanes of a warp search together.
template <class F>
DEVICE i32 last_true(i32 n, F holds) {
  i32 lo = 0, hi = n;
  while (hi - lo > 1) {
    i32 step = (i32)((u32)(hi - lo + WARP - 1) / WARP), i = lo + step * (lane_id() + 1);
    lo += step * __popc(__ballot_sync(~0u, i < hi && holds(i)));
    hi = min(hi, lo + step);
  }
  return lo;
}

// find is the first group that begins at cost x or behind it.
DEVICE Position find(const Shared& s, i32 runs, i32 shift, i64 x) {
  if (x >= s.cost[runs]) return {runs, 0, 0};
  Position p;
  p.run = last_true(runs, [&](i32 i) { return s.cost[i] <= x; });
  Work w = s.work[p.run];
  x -= s.cost[p.run];
  p.segment = last_true(segments_of(w, shift), [&](i32 i) { return before(w, i, shift) <= x; });
  x -= before(w, p.segment, shift);
  p.group = x == 0 ? 0 : 1 + last_true(groups_of(w), [&](i32 i) { return within(w, p.segment, shift, i) < x; });
  return p;
}

// Walk goes through a block's part of the line, an item at a time: groups
// [first, last) of a run and a segment of its keys from base on, of which the
// last group sees tiles tiles. All roles walk the same way.
struct Walk {
  const Shared& s;
  Position at, end;
  i32 shift;
  Work work;
  i32 base, first, last, tiles;

  DEVICE Walk(const Shared& s, i32 shift) : s(s), at(s.range[0]), end(s.range[1]), shift(shift) {}

  // limit is the number of keys of the sequence that a group sees.
  DEVICE i32 limit(i32 group) const { return min(work.to, work.pos + GROUP * (group + 1)); }
  DEVICE i32 tiles_of(i32 group) const { return (min(1 << shift, limit(group) - base) + TILE - 1) / TILE; }

  DEVICE bool next() {
    for (;;) {
      bool here = at.run == end.run && at.segment == end.segment;
      if (at.run > end.run || at.run == end.run && at.segment > end.segment || here && at.group >= end.group) return false;
      work = s.work[at.run];
      if (at.segment >= segments_of(work, shift)) {
        at = {at.run + 1, 0, 0};
        continue;
      }
      base = at.segment << shift;
      first = max(at.group, blind(work, at.segment, shift));
      last = here ? end.group : groups_of(work);
      at.segment++;
      at.group = 0;
      if (first < last) {
        tiles = tiles_of(last - 1);
        return true;
      }
    }
  }
};

// ---- preparation ----

// segment_shift chooses the keys of a segment, a power of two, from the work of
// a block in keys times groups. A run of one or two groups, in decoding, has
// nothing to gain from long segments but balance to lose. Otherwise a block
// reads 128·HEADS·GROUP bytes of queries for a group and 128 for each key of an
// item, which is least when both parts are equal.
DEVICE i32 segment_shift(i64 keys, i32 groups, i32 runs) {
  i64 share = keys / gridDim.x;
  i32 most = 31 - __clz(MAX_SEGMENT);
  if (groups <= 2 * runs) {
    i32 shift = 7;
    while (shift < min(most, 9) && share >= 16ll << shift) shift++;
    return shift;
  }
  i32 shift = 8;
  while (shift < most && share * COLUMNS >= 2ll << 2 * shift) shift++;
  return shift;
}

// prepare fills work, cost and range; it returns the shift of a segment.
DEVICE i32 prepare(Shared& s, const IndexScoresParams& p) {
  constexpr int EACH = (MAX_RUNS + THREADS - 1) / THREADS;
  i32 lane = lane_id(), warp = threadIdx.x / WARP;
  Work mine[EACH];
  i32 rows = 0, groups = 0;
  i64 keys = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    i32 r = (i32)threadIdx.x * EACH + i;
    mine[i] = {rows, 0, 0, 0, 0};
    if (r < p.num_runs) {
      Run run = p.runs[r];
      Work& w = mine[i];
      w.table = p.pages.first[run.seq];
      w.rows = run.rows;
      w.pos = run.pos;
      w.to = min(run.to, run.pos + run.rows);
      rows += run.rows;
      if (w.to <= p.skip || w.rows <= 0) {
        w.rows = w.to = 0;
      } else if (p.skip > w.pos) {
        i32 rows_left_out = (p.skip - w.pos) / GROUP * GROUP;
        w.row += rows_left_out, w.pos += rows_left_out, w.rows -= rows_left_out;
      }
      groups += groups_of(w);
      keys += seen(w, w.to, groups_of(w));
    }
  }
  // Where the rows of this thread's runs begin, and the sums over all runs.
  i32 begin = rows;
#pragma unroll
  for (int d = 1; d < WARP; d *= 2) {
    i32 v = __shfl_up_sync(~0u, begin, d);
    if (lane >= d) begin += v;
  }
#pragma unroll
  for (int d = WARP / 2; d > 0; d /= 2) {
    keys += __shfl_xor_sync(~0u, keys, d);
    groups += __shfl_xor_sync(~0u, groups, d);
  }
  if (lane == WARP - 1) s.row_sums[warp] = begin;
  if (lane == 0) s.sums[warp] = keys << 24 | groups;
  __syncthreads();
  begin += p.first_row - rows;
  keys = 0;
#pragma unroll
  for (int i = 0; i < THREADS / WARP; i++) {
    if (i < warp) begin += s.row_sums[i];
    keys += s.sums[i];
  }
  i32 shift = segment_shift(keys >> 24, (i32)(keys & 0xffffff), p.num_runs);
  __syncthreads();

  i64 cost[EACH], sum = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    mine[i].row += begin;
    cost[i] = sum;
    sum += before(mine[i], segments_of(mine[i], shift), shift);
  }
  i64 upto = sum;
#pragma unroll
  for (int d = 1; d < WARP; d *= 2) {
    i64 v = __shfl_up_sync(~0u, upto, d);
    if (lane >= d) upto += v;
  }
  if (lane == WARP - 1) s.sums[warp] = upto;
  __syncthreads();
  upto -= sum;
#pragma unroll
  for (int i = 0; i < THREADS / WARP; i++)
    if (i < warp) upto += s.sums[i];
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    i32 r = (i32)threadIdx.x * EACH + i;
    if (r < p.num_runs) {
      s.work[r] = mine[i];
      s.cost[r] = upto + cost[i];
      if (r == p.num_runs - 1) s.cost[r + 1] = upto + sum;
    }
  }
  __syncthreads();
  if (warp < 2) {
    Position at = find(s, p.num_runs, shift, s.cost[p.num_runs] * (blockIdx.x + warp) / gridDim.x);
    if (lane == 0) s.range[warp] = at;
  }
  __syncthreads();
  return shift;
}

// ---- loading ----

DEVICE void load_keys(Shared& s, const IndexScoresParams& p, i32 shift) {
  constexpr u32 BYTES = PAGE + (F8 ? TILE * 4 : 0);
  i32 lane = lane_id();
  Walk walk(s, shift);
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
  Walk walk(s, shift);
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

// Turns let the two warp groups start their products alternately, the next one
// when the other's first product is done: left alone they fall into step, and the
// tensor cores wait while both take sums. One row's products are too short for
// that to matter.
static constexpr bool TURNS = GROUP > 1;
DEVICE void await_turn(i32 half) {
  if (TURNS) named_sync(1 + half, MATH_WARPS * WARP);
}
DEVICE void pass_turn(i32 half) {
  if (TURNS) named_arrive(2 - half, MATH_WARPS * WARP);
}

// score takes the tiles of one of two warp groups, two at a time: the first is
// summed during the product of the second, the second during the products of the
// other warp group. (ptxas serialises products that stay in flight round a loop.)
DEVICE void score(Shared& s, const IndexScoresParams& p, i32 shift, i32 half) {
  i32 lane = lane_id(), row = (threadIdx.x / WARP & 3) * 16 + lane / 4 + 8 * (lane & 1);
  bool upper = lane & 2;
  float x[COLUMNS / 2], y[COLUMNS / 2], w[COLUMNS / 4];
  Target t = {nullptr, p.columns, 0, 0, 0};
  Walk walk(s, shift);
  u32 pages = 0, count = 0;  // of the items and groups before
  if (half == 1) pass_turn(half);
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
        await_turn(half);
        wgmma_fence();
        multiply(x, keys_a, queries);
        multiply(y, keys_b, queries);
        wgmma_wait<1>();
        wgmma_keep(x);
        pass_turn(half);
        release(a);
        finish(x, w, t, tile * TILE, scale_a);
        wgmma_wait<0>();
        wgmma_keep(y);
        release(b);
        finish(y, w, t, tile * TILE + 2 * TILE, scale_b);
      }
      // Both warp groups take as many turns, be it without a tile.
      if (tile - half < tiles) {
        if (tile < tiles) {
          u32 a = ready(tile);
          float scale_a = scale(a);
          await_turn(half);
          wgmma_fence();
          multiply(x, Operand(s.keys[a]), queries);
          wgmma_wait<0>();
          wgmma_keep(x);
          pass_turn(half);
          release(a);
          finish(x, w, t, tile * TILE, scale_a);
        } else {
          await_turn(half);
          pass_turn(half);
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(&s.queries_empty[stage]);
    }
    pages += walk.tiles;
  }
  if (half == 0) await_turn(half);
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
  i32 shift = prepare(s, p);
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
