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
// A block takes a row. A radix select on the numbers' order as integers finds the
// K-th best: 12 bits (sign, exponent, three of the mantissa), 12, and 8. The first
// pass reads the row and keeps the upper 16 bits of the keys in shared memory.
// Few keys share the K-th best's upper 12 bits as a rule: they make a list that
// the other digits are counted in. When they do not fit the list, whole rows are
// counted again. Then the row is gone through once more, in order of position:
// 16 bits decide except where they are the K-th best's.
//
//latent:unit topk_512 hot THREADS=512
//latent:unit topk_1024 hot THREADS=1024

struct TopKParams {
  const float* scores;
  const Row* rows;
  const Run* runs;
  i32* out;
  i32* extent;  // masks only
  i64 columns, pitch;
  i32 topk;
  i32 cached;  // keys kept in shared memory, a multiple of TILE
  i32 mask;    // form of out
  i32 skip;    // rows of indices that see at most so many keys are left alone
};

static constexpr int WARPS = THREADS / WARP;
static constexpr int BINS = 4096;
static constexpr int LIST = 2048;
static constexpr int TILE = 128;  // keys that a warp handles at a time, four a lane
static constexpr int BATCH = 4;   // loads in flight of a thread

struct Shared {
  u32 bins[BINS];
  u32 list[LIST];
  u32 sums[WARPS], equal[WARPS];
  u32 listed;                // keys in list
  u32 digit, above, inside;  // of the chosen bin; above counts the keys in higher bins

  DEVICE u16* upper() { return (u16*)(this + 1); }  // [cached]
};

extern __shared__ __align__(16) u8 dynamic[];

// order is greater for better scores, the same for −0 and +0, 0 for NaN.
DEVICE u32 order(float x) {
  u32 b = __float_as_uint(x + 0.0f);
  return x != x ? 0 : b ^ ((u32)((i32)b >> 31) | 0x80000000u);
}

DEVICE u32 reduce_add(u32 v) {
  u32 r;
  asm volatile("redux.sync.add.u32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(v));
  return r;
}

// Keys are the keys of one row. Four at a time are read, of which those from
// length on are 0 (as NaN; callers know).
struct Keys {
  const float* row;
  const u16* upper;
  i32 length, cached;
  bool aligned;

  DEVICE float4 scores(i32 i) const {
    if (aligned) return __ldg((const float4*)(row + i));
    float4 v = {0, 0, 0, 0};
    v.x = __ldg(row + i);
    if (i + 1 < length) v.y = __ldg(row + i + 1);
    if (i + 2 < length) v.z = __ldg(row + i + 2);
    if (i + 3 < length) v.w = __ldg(row + i + 3);
    return v;
  }
  // visit calls f(c, upper 16 bits, whole) for keys i+c, c < 4, in front of
  // length; i is less. whole() is the whole key.
  template <class F>
  DEVICE void visit(i32 i, F f) const {
    if (i < cached) {
      uint2 u = *(const uint2*)(upper + i);
      u32 v[4] = {u.x & 0xffff, u.x >> 16, u.y & 0xffff, u.y >> 16};
#pragma unroll
      for (int c = 0; c < 4; c++)
        if (i + c < length) f(c, v[c], [&] { return order(__ldg(row + i + c)); });
    } else {
      float4 x = scores(i);
      float v[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int c = 0; c < 4; c++) {
        u32 key = order(v[c]);
        if (i + c < length) f(c, key >> 16, [&] { return key; });
      }
    }
  }
};

DEVICE void clear_bins(Shared& s) {
  for (int i = threadIdx.x; i < BINS / 4; i += THREADS) ((uint4*)s.bins)[i] = make_uint4(0, 0, 0, 0);
  __syncthreads();
}

// read counts the first digit of all keys and keeps their upper halves.
DEVICE void read(Shared& s, const Keys& keys) {
  auto take = [&](i32 i, float x) {
    u32 key = order(x);
    atomicAdd(&s.bins[key >> 20], 1u);
    return key >> 16;
  };
  if (keys.aligned) {
    for (i32 base = threadIdx.x * 4; base < keys.length; base += THREADS * 4 * BATCH) {
      float4 v[BATCH];
#pragma unroll
      for (int b = 0; b < BATCH; b++)
        if (base + b * THREADS * 4 < keys.length) v[b] = __ldg((const float4*)(keys.row + base + b * THREADS * 4));
#pragma unroll
      for (int b = 0; b < BATCH; b++) {
        i32 i = base + b * THREADS * 4;
        if (i + 3 < keys.length) {
          u32 x = take(i, v[b].x), y = take(i + 1, v[b].y), z = take(i + 2, v[b].z), w = take(i + 3, v[b].w);
          if (i < keys.cached) *(uint2*)(s.upper() + i) = make_uint2(x | y << 16, z | w << 16);
        } else if (i < keys.length) {
          float tail[3] = {v[b].x, v[b].y, v[b].z};
#pragma unroll
          for (int c = 0; c < 3; c++) {
            if (i + c >= keys.length) break;
            u32 x = take(i + c, tail[c]);
            if (i < keys.cached) s.upper()[i + c] = (u16)x;
          }
        }
      }
    }
    return;
  }
  for (i32 base = threadIdx.x; base < keys.length; base += THREADS * BATCH) {
    float v[BATCH];
#pragma unroll
    for (int b = 0; b < BATCH; b++)
      if (base + b * THREADS < keys.length) v[b] = __ldg(keys.row + base + b * THREADS);
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      i32 i = base + b * THREADS;
      if (i >= keys.length) break;
      u32 x = take(i, v[b]);
      if (i < keys.cached) s.upper()[i] = (u16)x;
    }
  }
}

// choose finds the bin that the need-th best of the counted keys is in.
DEVICE void choose(Shared& s, u32 need) {
  constexpr int EACH = BINS / THREADS;
  i32 lane = lane_id(), warp = threadIdx.x / WARP;
  i32 top = BINS - 1 - (i32)threadIdx.x * EACH;  // this thread's bins downwards
  u32 mine[EACH], sum = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) sum += mine[i] = s.bins[top - i];
  u32 upto = sum;
#pragma unroll
  for (int d = 1; d < WARP; d *= 2) {
    u32 v = __shfl_up_sync(~0u, upto, d);
    if (lane >= d) upto += v;
  }
  if (lane == WARP - 1) s.sums[warp] = upto;
  __syncthreads();
  u32 above = upto - sum + reduce_add(lane < warp ? s.sums[lane] : 0);
  if (above < need && need <= above + sum) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      if (above < need && need <= above + mine[i]) {
        s.digit = top - i;
        s.above = above;
        s.inside = mine[i];
      }
      above += mine[i];
    }
  }
  __syncthreads();
}

// Cut is what the best keys are: those above key, and the first ties keys equal
// to it, or all of them.
struct Cut {
  u32 key;
  u32 ties;  // ~0: all
};

// cut finds the K-th best of more than K keys.
DEVICE Cut cut(Shared& s, const Keys& keys, u32 need) {
  u32 prefix = 0, fixed = 0;  // the K-th best is prefix in the bits fixed
  bool listed = false;
#pragma unroll
  for (int level = 0; level < 3; level++) {
    constexpr int SHIFT[] = {20, 8, 0};
    constexpr u32 FIELD[] = {0xfff, 0xfff, 0xff};
    clear_bins(s);
    // everywhere calls f for all keys that are prefix in the bits fixed.
    auto everywhere = [&](auto f) {
      for (i32 i = threadIdx.x * 4; i < keys.length; i += THREADS * 4)
        keys.visit(i, [&](int, u32 upper, auto whole) {
          if ((upper << 16 & fixed) != (prefix & 0xffff0000u)) return;
          u32 key = whole();
          if ((key & fixed) == prefix) f(key);
        });
    };
    auto count = [&](u32 key) { atomicAdd(&s.bins[key >> SHIFT[level] & FIELD[level]], 1u); };
    if (level == 0) {
      read(s, keys);
    } else if (listed) {
      for (u32 i = threadIdx.x; i < s.listed; i += THREADS)
        if ((s.list[i] & fixed) == prefix) count(s.list[i]);
    } else {
      everywhere(count);
    }
    __syncthreads();
    choose(s, need);
    need -= s.above;
    prefix |= s.digit << SHIFT[level];
    fixed |= FIELD[level] << SHIFT[level];
    if (s.inside == need) return {prefix, ~0u};
    if (level < 2 && !listed && s.inside <= LIST) {
      if (threadIdx.x == 0) s.listed = 0;
      __syncthreads();
      everywhere([&](u32 key) { s.list[atomicAdd(&s.listed, 1u)] = key; });
      listed = true;
    }
    // Nobody changes the bins or the choice before all have read it.
    __syncthreads();
  }
  return {prefix, need};
}

// identity is word t of a tile of which the first n keys are selected.
DEVICE u32 identity(i32 n, i32 t) {
  if (n >= TILE) return ~0u;
  if (n <= 0) return 0;
  i32 rest = max(0, min(n % 8 - 2 * t, 2));
  return (1u << n / 8 * 2) - 1 | ((1u << rest) - 1) << n / 8 * 2;
}

// emit writes the row's selection. Each warp takes consecutive tiles.
DEVICE void emit(Shared& s, const TopKParams& p, const Keys& keys, Cut cut, i32* out) {
  i32 lane = lane_id(), warp = threadIdx.x / WARP;
  i32 tiles = (keys.length + TILE - 1) / TILE, each = (tiles + WARPS - 1) / WARPS;
  i32 from = warp * each, to = min(from + each, tiles);
  bool ties = cut.ties != ~0u;
  u32 border = cut.key >> 16;
  // Of four keys from i on: bit c of above for those above the cut (or at it, if
  // all of those are selected), and bit c of equal for those at it.
  auto compare = [&](i32 i, u32& above, u32& equal) {
    above = equal = 0;
    if (i >= keys.length) return;
    keys.visit(i, [&](int c, u32 upper, auto whole) {
      if (upper > border) {
        above |= 1 << c;
      } else if (upper == border) {
        u32 key = whole();
        if (key > cut.key || !ties && key == cut.key) above |= 1 << c;
        if (ties && key == cut.key) equal |= 1 << c;
      }
    });
  };
  u32 chosen = 0, tied = 0;  // in front of this warp
  if (!p.mask || ties) {
    u32 n = 0, m = 0;
    for (i32 j = from; j < to; j++) {
      u32 above, equal;
      compare(j * TILE + lane * 4, above, equal);
      n += __popc(above);
      m += __popc(equal);
    }
    n = reduce_add(n);
    m = reduce_add(m);
    if (lane == 0) s.sums[warp] = n, s.equal[warp] = m;
    __syncthreads();
    chosen = reduce_add(lane < warp ? s.sums[lane] : 0);
    tied = reduce_add(lane < warp ? s.equal[lane] : 0);
  }
  u32 before = (1u << lane) - 1;
  for (i32 j = from; j < to; j++) {
    u32 above, equal;
    compare(j * TILE + lane * 4, above, equal);
    u32 a[4];
#pragma unroll
    for (int c = 0; c < 4; c++) a[c] = __ballot_sync(~0u, above >> c & 1);
    u32 e[4] = {0, 0, 0, 0};
    u32 rank = tied;  // of this lane's next equal key
    if (ties) {
#pragma unroll
      for (int c = 0; c < 4; c++) {
        e[c] = __ballot_sync(~0u, equal >> c & 1);
        rank += __popc(e[c] & before);
        tied += __popc(e[c]);
      }
    }
    if (p.mask) {
      if (ties) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
          bool is = equal >> c & 1;
          a[c] |= __ballot_sync(~0u, is && rank < cut.ties);
          rank += is;
        }
      }
      // A lane's keys are i = lane/2, and t, b = lane%2·2 + c/2, c%2.
      constexpr u32 EVEN = 0x55555555u;
      u32 word = lane & 1 ? a[2] & EVEN | (a[3] & EVEN) << 1 : a[0] & EVEN | (a[1] & EVEN) << 1;
      if (lane & 2) word = lane & 1 ? a[2] >> 1 & EVEN | a[3] & ~EVEN : a[0] >> 1 & EVEN | a[1] & ~EVEN;
      if (lane < 4) out[j * 4 + lane] = (i32)word;
      continue;
    }
    u32 at = chosen;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      at += __popc(a[c] & before);
      chosen += __popc(a[c]);
    }
#pragma unroll
    for (int c = 0; c < 4; c++) {
      bool is = equal >> c & 1;
      if (above >> c & 1 || is && rank < cut.ties) out[at + min(rank, ties ? cut.ties : 0)] = j * TILE + lane * 4 + c;
      at += above >> c & 1;
      rank += is;
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) topk(TopKParams p) {
  Shared& s = *(Shared*)dynamic;
  grid_wait();
  Row r = p.rows[blockIdx.x];
  i32* out = p.out + (i64)r.sel * p.pitch;
  bool all = r.to <= p.topk;
  if (p.mask) {
    Run run = p.runs[r.run];
    i32 extent = max(0, min(run.to, run.pos + run.rows));
    if (threadIdx.x == 0) p.extent[r.sel] = extent;
    i32 words = (extent + TILE - 1) / TILE * 4, seen = all ? 0 : (r.to + TILE - 1) / TILE * 4;
    for (i32 i = seen + threadIdx.x; i < words; i += THREADS)
      out[i] = all ? (i32)identity(r.to - i / 4 * TILE, i % 4) : 0;
  } else if (!all || r.to > p.skip) {
    for (i32 i = threadIdx.x + (all ? 0 : p.topk); i < p.pitch; i += THREADS) out[i] = i < r.to && all ? i : -1;
  }
  if (all) return;
  const float* row = p.scores + (i64)blockIdx.x * p.columns;
  Keys keys = {row, s.upper(), r.to, p.cached, p.columns % 4 == 0 && (u64)p.scores % 16 == 0};
  emit(s, p, keys, cut(s, keys, p.topk), out);
}
