// The K best scores of each row, exactly: higher scores first, equal ones by lower
// position, −0 equal to +0, NaN below everything. Rows of any length; scores
// behind what a row sees are not looked at.
//
//   scores  [n, columns] float32
//   out     indices: [rows, pitch] int32, the selected positions ascending, then −1
//           mask:    [rows, pitch] u32: word t (0..3) of tile j of 128 keys has at bit
//                    2i+b key 128j + 8i + 2t + b, the order of wgmma's accumulators.
//                    All tiles up to the largest number of keys that a row of the
//                    run sees are written, and that number to extent [rows].
//
// A block takes a row; where there are few rows a cluster of blocks does, a slice
// each (CLUSTER=1). A sample of the row gives a score that a few more than K keys
// are likely to reach. Those are collected in one reading of the row, and the cut
// (what the K-th best is) is found among them, by counting digits of the scores'
// order as integers. If fewer than K reach it, or more than there is room for, the
// same counting goes over the whole row. What is selected is marked in a bitmap,
// which puts it in order.
//
// Counting digits of all keys of a row took 1.7 to 2.2 times as long for 4096 rows
// of 32768 keys, and as long for rows of 8192. Digits are those of the distance
// from the least key that is counted: the upper bits of the best keys of a row are
// much the same, and shared memory adds to one bin slowly.
//
//latent:unit topk hot THREADS=512 BLOCKS=3 CLUSTER=0
//latent:unit topk_cluster hot THREADS=1024 BLOCKS=1 CLUSTER=1

struct TopKParams {
  const float* scores;
  const Row* rows;
  const Run* runs;
  i32* out;
  i32* extent;  // masks only
  i64 columns, pitch;
  i32 topk;
  i32 mask;   // form of out
  i32 words;  // of a bitmap: a slice's keys by 32, a multiple of 4
};

static constexpr int WARPS = THREADS / WARP;
static constexpr int BINS = 4096;
static constexpr int LIST = 4096;
static constexpr int TILE = 128;  // keys of a tile of a mask
static constexpr int BATCH = 4;   // loads in flight of a thread

// Told is what a block tells the others of its cluster.
struct Told {
  u32 sum, best;
};

struct Shared {
  u32 bins[BINS];
  u32 keys[LIST];       // the order of collected scores
  i32 positions[LIST];  // in the slice
  u32 sums[2][WARPS];
  u32 listed, best;  // listed may count beyond LIST
  u32 digit, above, inside;  // of the chosen bin; above counts the keys in higher bins
  Told told[2];
  u32 pad[3];

  // marked holds a bit for each key of the slice above the cut, then one for
  // each at the cut.
  DEVICE u32* marked() { return (u32*)(this + 1); }
};
static_assert(sizeof(Shared) % 16 == 0, "bitmaps are read by 16 bytes");

extern __shared__ __align__(16) u8 dynamic[];

DEVICE u32 reduce_add(u32 v) {
  u32 r;
  asm volatile("redux.sync.add.u32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(v));
  return r;
}
DEVICE u32 reduce_max(u32 v) {
  u32 r;
  asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(v));
  return r;
}

// ---- blocks of a row ----

// Team is the blocks of a row, usually one. What is exchanged twice in a row lies
// in different places, so that one barrier between is enough.
struct Team {
  Shared& s;
  u32 size, rank;
  u32 scans, talks;  // so far

  DEVICE Team(Shared& s) : s(s), size(1), rank(0), scans(0), talks(0) {
    if (CLUSTER) {
      asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(size));
      asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    }
  }
  // sync is a barrier of all threads of the row.
  DEVICE void sync() {
    if (CLUSTER)
      asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    else
      __syncthreads();
  }
  // at is the address of p in the shared memory of another block.
  DEVICE u32 at(const void* p, u32 block) {
    u32 a;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(a) : "r"(smem_addr(p)), "r"(block));
    return a;
  }
  DEVICE u32 load(const void* p, u32 block) {
    u32 v;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(at(p, block)) : "memory");
    return v;
  }
  // store writes to this place in all blocks.
  DEVICE void store(u32* p, u32 v) {
    if constexpr (CLUSTER) {
      for (u32 b = 0; b < size; b++) asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(at(p, b)), "r"(v) : "memory");
    } else {
      *p = v;
    }
  }
  // exchange makes mine the sum and the maximum over all blocks, and returns the
  // sum over those of lower rank.
  DEVICE u32 exchange(Told& mine) {
    if (!CLUSTER) return 0;
    Told* told = &s.told[talks++ % 2];
    if (threadIdx.x == 0) *told = mine;
    sync();
    u32 before = 0;
    mine = {0, 0};
    for (u32 b = 0; b < size; b++) {
      Told other = {load(&told->sum, b), load(&told->best, b)};
      if (b < rank) before += other.sum;
      mine = {mine.sum + other.sum, max(mine.best, other.best)};
    }
    return before;
  }
  // scan is the sum of v over the block's threads before this one; *total that
  // over all of them.
  DEVICE u32 scan(u32 v, u32* total) {
    i32 lane = lane_id(), warp = threadIdx.x / WARP;
    u32* sums = s.sums[scans++ % 2];
    u32 upto = v;
#pragma unroll
    for (int d = 1; d < WARP; d *= 2) {
      u32 u = __shfl_up_sync(~0u, upto, d);
      if (lane >= d) upto += u;
    }
    if (lane == WARP - 1) sums[warp] = upto;
    __syncthreads();
    u32 sum = lane < WARPS ? sums[lane] : 0;
    *total = reduce_add(sum);
    return reduce_add(lane < warp ? sum : 0) + upto - v;
  }
};

// ---- scores ----

// order is greater for better scores, the same for −0 and +0, 0 for NaN.
DEVICE u32 order(float x) {
  u32 b = __float_as_uint(x + 0.0f);
  return x != x ? 0 : b ^ ((u32)((i32)b >> 31) | 0x80000000u);
}
// Keys up to that of −∞ and NaN; above, threshold is order's inverse.
static constexpr u32 LOWEST = 0x007fffff;
DEVICE float threshold(u32 key) { return __uint_as_float(key >> 31 ? key ^ 0x80000000u : ~key); }

// Slice is a block's part of a row.
struct Slice {
  const float* scores;
  i32 length;
  bool aligned;  // to 16 bytes

  // four reads the scores i..i+3 in front of length; those behind are undefined.
  DEVICE float4 four(i32 i) const {
    float4 v = {0, 0, 0, 0};
    if (i >= length) return v;
    if (aligned) return __ldg((const float4*)(scores + i));
    v.x = __ldg(scores + i);
    if (i + 1 < length) v.y = __ldg(scores + i + 1);
    if (i + 2 < length) v.z = __ldg(scores + i + 2);
    if (i + 3 < length) v.w = __ldg(scores + i + 3);
    return v;
  }
};

// ---- cuts ----

// choose finds the bin that the need-th best of the counted keys is in, and
// clears the bins. The blocks of a cluster add up a part of the bins each.
DEVICE void choose(Team& team, u32 need) {
  Shared& s = team.s;
  constexpr int MOST = BINS / THREADS;
  const i32 part = BINS / team.size, each = max(1, part / THREADS);
  // This thread's bins, from the best bin of the part downwards.
  i32 low = (i32)(team.rank + 1) * part - each * ((i32)threadIdx.x + 1);
  bool has = low >= (i32)team.rank * part;
  u32 mine[MOST], sum = 0, total;
  if (CLUSTER) team.sync();
#pragma unroll
  for (int i = 0; i < MOST; i++) {
    mine[i] = 0;
    if (!has || i >= each) continue;
    if (!CLUSTER) mine[i] = s.bins[low + i];
    if (CLUSTER)
      for (u32 b = 0; b < team.size; b++) mine[i] += team.load(s.bins + low + i, b);
    sum += mine[i];
  }
  u32 above = team.scan(sum, &total);
  Told all = {total, 0};
  u32 before = team.exchange(all);
  if (CLUSTER) above += all.sum - before - total;
  if (above < need && need <= above + sum) {
#pragma unroll
    for (int i = MOST - 1; i >= 0; i--) {
      if (above < need && need <= above + mine[i]) {
        team.store(&s.digit, low + i);
        team.store(&s.above, above);
        team.store(&s.inside, mine[i]);
      }
      above += mine[i];
    }
  }
  team.sync();
  for (i32 i = threadIdx.x; i < BINS / 4; i += THREADS) ((uint4*)s.bins)[i] = make_uint4(0, 0, 0, 0);
}

// Cut is what the best keys are: those above key, and the first ties keys equal
// to it; if ties is ~0 all from key on.
struct Cut {
  u32 key, ties;
};

// cut finds the need-th best of the keys that visit goes through, of which there
// are as many or more; their distance from least is below 2^bits. It may be below
// the need-th best if no more than enough keys reach it. visit(f) calls f for each
// key of the block. The bins are clear before and after.
template <class Visit>
DEVICE Cut cut(Team& team, u32 need, u32 enough, u32 least, i32 bits, Visit visit) {
  Shared& s = team.s;
  u32 reached = 0;  // keys from least + 2^bits on
  for (;;) {
    i32 shift = max(0, bits - 12);
    u32 last = bits == 32 ? ~0u : (1u << bits) - 1;
    visit([&](u32 key) {
      u32 distance = key - least;
      if (distance <= last) atomicAdd(&s.bins[distance >> shift], 1u);
    });
    __syncthreads();
    choose(team, need - reached);
    reached += s.above;
    least += s.digit << shift;
    bits = shift;
    u32 inside = s.inside;
    __syncthreads();  // the bins are clear; the choice may change
    if (reached + inside <= enough) return {least, ~0u};
    if (bits == 0) return {least, need - reached};
  }
}

// guess returns a key that probably somewhat more than need of the row's length
// keys reach, or 0 if lists cannot hold so many. It takes up to LIST keys of each
// block as a sample, in pieces of 8 that are spread at random over equal parts of
// the slice. The r-th best of a sample of m stands for r·length/m keys, give or
// take sqrt(r)·length/m; r is chosen so that three times that is to spare.
DEVICE u32 guess(Team& team, const Slice& slice, u32 need, i32 length) {
  Shared& s = team.s;
  float wanted = fmaxf(need, 1024.0f), room = LIST * team.size;
  float size = fminf(fmaxf(128.0f * length / wanted, 1024.0f), room);
  i32 pieces = (i32)size / (i32)(8 * team.size);
  float each = length / (8.0f * pieces * team.size);  // keys of the row for one of the sample
  float root = 1.5f + sqrtf(2.25f + wanted / each), most = 0.9f * room / each;
  if (root * root > most) return 0;
  i32 part = slice.length / 8 / pieces;  // in pieces; the last slice of a row may be too short for all
  for (i32 i = threadIdx.x; i < 2 * pieces; i += THREADS) {
    u32 piece = i / 2;
    piece = part > 0 ? piece * part + piece * 2654435761u % (u32)part : piece % (u32)max(slice.length / 8, 1);
    float4 v = slice.four(piece * 8 + i % 2 * 4);
    *(uint4*)(s.keys + 4 * i) = make_uint4(order(v.x), order(v.y), order(v.z), order(v.w));
  }
  __syncthreads();
  u32 rank = (u32)(root * root), enough = (u32)fmaxf(rank, most - 3 * sqrtf(most));
  return cut(team, rank, enough, 0, 32, [&](auto f) {
           for (i32 i = threadIdx.x; i < 8 * pieces; i += THREADS) f(s.keys[i]);
         }).key;
}

// collect lists the keys from least on. listed counts those beyond LIST too.
DEVICE void collect(Shared& s, const Slice& slice, u32 least) {
  i32 lane = lane_id();
  float low = threshold(least);
  bool all = least <= LOWEST;
  u32 best = 0;
  constexpr i32 STEP = THREADS * 4;
  for (i32 base = (threadIdx.x - lane) * 4; base < slice.length; base += STEP * BATCH) {
    float4 v[BATCH];
#pragma unroll
    for (int b = 0; b < BATCH; b++) v[b] = slice.four(base + b * STEP + lane * 4);
    u32 found = 0;
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      float x[4] = {v[b].x, v[b].y, v[b].z, v[b].w};
#pragma unroll
      for (int c = 0; c < 4; c++) {
        bool in = base + b * STEP + lane * 4 + c < slice.length;
        if (in && (all || x[c] >= low)) found |= 1u << (4 * b + c);
      }
    }
    u32 count = __popc(found), upto = count;
#pragma unroll
    for (int d = 1; d < WARP; d *= 2) {
      u32 u = __shfl_up_sync(~0u, upto, d);
      if (lane >= d) upto += u;
    }
    u32 at = 0;
    if (lane == WARP - 1 && upto > 0) at = atomicAdd(&s.listed, upto);
    at = __shfl_sync(~0u, at, WARP - 1) + upto - count;
    for (; found != 0; found &= found - 1, at++) {
      u32 bit = __ffs(found) - 1;
      i32 i = base + bit / 4 * STEP + lane * 4 + bit % 4;
      u32 key = order(__ldg(slice.scores + i));
      best = max(best, key);
      if (at < LIST) s.keys[at] = key, s.positions[at] = i;
    }
  }
  best = reduce_max(best);
  if (lane == 0) atomicMax(&s.best, best);
  __syncthreads();
}

// mark puts what visit goes through and the cut selects into the bitmaps.
template <class Visit>
DEVICE void mark(Shared& s, Cut cut, i32 words, Visit visit) {
  u32 *above = s.marked(), *at = above + words;
  visit([&](u32 key, i32 position) {
    if (key < cut.key) return;
    u32* map = key == cut.key && cut.ties != ~0u ? at : above;
    atomicOr(map + position / WARP, 1u << position % WARP);
  });
  __syncthreads();
}

// ---- output ----

// permuted is word t of a mask's tile, from the tile's bits in order.
DEVICE u32 permuted(uint4 bits, u32 t) {
  u32 x[4] = {bits.x, bits.y, bits.z, bits.w}, word = 0;
#pragma unroll
  for (int m = 0; m < 4; m++) {
    u32 pairs = x[m] >> 2 * t & 0x03030303u;
    word |= ((pairs | pairs >> 6 | pairs >> 12 | pairs >> 18) & 0xff) << 8 * m;
  }
  return word;
}

// identity is word t of a tile of which the first n keys are selected.
DEVICE u32 identity(i32 n, i32 t) {
  if (n >= TILE) return ~0u;
  if (n <= 0) return 0;
  i32 rest = max(0, min(n % 8 - 2 * t, 2));
  return (1u << n / 8 * 2) - 1 | ((1u << rest) - 1) << n / 8 * 2;
}

// take adds the first ties of the keys at the cut to those above.
DEVICE void take(Team& team, u32 ties, i32 words, i32 from, i32 to) {
  u32 *above = team.s.marked(), *at = above + words, mine = 0;
  for (i32 i = from; i < to; i++) mine += __popc(at[i]);
  Told all = {0, 0};
  u32 rank = team.scan(mine, &all.sum);
  rank += team.exchange(all);
  for (i32 i = from; i < to && rank < ties; i++) {
    u32 bits = at[i], rest = bits;
    for (; rest != 0 && rank < ties; rank++) rest &= rest - 1;
    above[i] |= bits ^ rest;
  }
  __syncthreads();
}

// write writes what is selected of a slice that begins at position start.
DEVICE void write(Team& team, const TopKParams& p, Cut cut, i32* out, i32 start, i32 length) {
  i32 words = (length + TILE - 1) / TILE * (TILE / WARP), each = (words + THREADS - 1) / THREADS;
  i32 from = min((i32)threadIdx.x * each, words), to = min(from + each, words);  // of this thread
  if (cut.ties != ~0u) take(team, cut.ties, p.words, from, to);
  const u32* marked = team.s.marked();
  if (p.mask) {
    out += start / WARP;
    for (i32 i = threadIdx.x; i < words; i += THREADS) out[i] = (i32)permuted(((const uint4*)marked)[i / 4], i % 4);
    return;
  }
  u32 mine = 0;
  for (i32 i = from; i < to; i++) mine += __popc(marked[i]);
  Told all = {0, 0};
  out += team.scan(mine, &all.sum);
  out += team.exchange(all);
  for (i32 i = from; i < to; i++)
    for (u32 bits = marked[i]; bits != 0; bits &= bits - 1) *out++ = start + i * WARP + __ffs(bits) - 1;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) topk(TopKParams p) {
  Team team(*(Shared*)dynamic);
  Shared& s = team.s;
  grid_wait();
  u32 index = blockIdx.x / team.size;
  Row r = p.rows[index];
  i32* out = p.out + (i64)r.sel * p.pitch;
  bool all = r.to <= p.topk;
  if (team.rank == 0) {
    if (p.mask) {
      Run run = p.runs[r.run];
      i32 extent = max(0, min(run.to, run.pos + run.rows));
      if (threadIdx.x == 0) p.extent[r.sel] = extent;
      i32 words = (extent + TILE - 1) / TILE * 4, seen = all ? 0 : (r.to + TILE - 1) / TILE * 4;
      for (i32 i = seen + threadIdx.x; i < words; i += THREADS)
        out[i] = all ? (i32)identity(r.to - i / 4 * TILE, i % 4) : 0;
    } else if (r.to > 0) {
      for (i32 i = threadIdx.x + (all ? 0 : p.topk); i < p.pitch; i += THREADS) out[i] = i < r.to && all ? i : -1;
    }
  }
  if (all) return;

  i32 most = (i32)((u32)(r.to + team.size * TILE - 1) / (team.size * TILE)) * TILE;  // keys of a slice
  i32 start = min((i32)team.rank * most, r.to), length = min(most, r.to - start);
  Slice slice = {p.scores + (i64)index * p.columns + start, length, p.columns % 4 == 0 && (u64)p.scores % 16 == 0};
  for (i32 i = threadIdx.x; i < p.words / 2; i += THREADS) ((uint4*)s.marked())[i] = make_uint4(0, 0, 0, 0);
  for (i32 i = threadIdx.x; i < BINS / 4; i += THREADS) ((uint4*)s.bins)[i] = make_uint4(0, 0, 0, 0);
  if (threadIdx.x == 0) s.listed = s.best = 0;
  __syncthreads();

  u32 least = most <= LIST ? 0 : guess(team, slice, p.topk, r.to);
  Told listed = {0, 0};
  if (most <= LIST || least > 0) {
    constexpr u32 TOO_MANY = 1 << 24;
    collect(s, slice, least);
    listed = {s.listed <= LIST ? s.listed : TOO_MANY, s.best};
    team.exchange(listed);
    if (listed.sum >= TOO_MANY) listed.sum = 0;
  }
  Cut found;
  if (listed.sum >= p.topk) {
    i32 bits = 32 - __clz(listed.best - least);
    found = cut(team, p.topk, p.topk, least, bits, [&](auto f) {
      for (u32 i = threadIdx.x; i < s.listed; i += THREADS) f(s.keys[i]);
    });
    mark(s, found, p.words, [&](auto f) {
      for (u32 i = threadIdx.x; i < s.listed; i += THREADS) f(s.keys[i], s.positions[i]);
    });
  } else {
    auto whole = [&](auto f) {
      for (i32 i = threadIdx.x * 4; i < length; i += THREADS * 4) {
        float4 v = slice.four(i);
        float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int c = 0; c < 4; c++)
          if (i + c < length) f(order(x[c]), i + c);
      }
    };
    found = cut(team, p.topk, p.topk, 0, 32, [&](auto f) { whole([&](u32 key, i32) { f(key); }); });
    mark(s, found, p.words, whole);
  }
  write(team, p, found, out, start, length);
  if (CLUSTER) team.sync();  // nobody reads this block's memory any more
}
