// Tokens from float32 logits: the most likely one, or a random choice with
// temperature, top-k, top-p and min-p, by the rules of package sample on the
// host: the same order of operations, ties to the lower id, the same exponential,
// tokens drawn in order of their ids.
//
// A cluster of 8 blocks takes a row, each an eighth that it keeps in shared
// memory. A set of kept tokens is a prefix of the tokens ordered by falling
// logit, then rising id, and is described by its last member (Cut); cuts are
// found by histograms of the logits' bits, digit by digit. Probabilities are
// integers, multiples of 2^-44 of that of the most likely token: their sums do
// not depend on the order.
//
//latent:unit sample

static constexpr int PARTS = 8;  // blocks of a cluster
static constexpr int THREADS = 1024, WARPS = THREADS / WARP;
static constexpr int BINS = 2048;
static constexpr float UNIT = 17592186044416.0f;  // 2^44
static constexpr i32 LAST = 0x7fffffff;

// Choice says how the token of a row is chosen.
struct Choice {
  double top_p;    // 1 and more keep all
  double margin;   // ln(min_p)·temperature, -inf keeps all
  double uniform;  // [0, 1)
  float scale;     // 1/temperature, 0 takes the most likely token
  i32 top_k;       // 0 keeps all
  i32 vocabulary;  // ids from here on are padding
  i32 pad;
};

struct Sample {
  i32* ids;               // [rows]
  const float* logits;    // [rows, columns]
  const Choice* choices;  // [rows]
  i32 columns;
  i32 cached;  // whether an eighth of a row fits into shared memory
};

// ---- clusters ----

DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

DEVICE u32 cluster_rank() {
  u32 r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}

// peer reads what stands at p in the shared memory of another block.
DEVICE u32 peer(const u32* p, u32 rank) {
  u32 v;
  asm volatile("{\n.reg .b32 a;\nmapa.shared::cluster.u32 a, %1, %2;\nld.shared::cluster.u32 %0, [a];\n}\n"
               : "=r"(v)
               : "r"(smem_addr(p)), "r"(rank)
               : "memory");
  return v;
}

DEVICE u64 peer(const u64* p, u32 rank) {
  return (u64)peer((const u32*)p + 1, rank) << 32 | peer((const u32*)p, rank);
}

// ---- order ----

// order_key maps floats to integers in the same order: NaN is 0, below -inf, and
// +0 equals -0.
DEVICE u32 order_key(float x) {
  if (x != x) return 0;
  u32 bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return bits >> 31 ? ~bits : bits | 1u << 31;
}

DEVICE float key_float(u32 key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// Cut is the last token of a prefix.
struct Cut {
  u32 key;
  i32 id;
  DEVICE bool keeps(u32 k, i32 i) const { return k > key || (k == key && i <= id); }
  DEVICE Cut shorter(Cut o) const { return keeps(o.key, o.id) ? o : *this; }
};

DEVICE Cut everything() { return {0, LAST}; }

// ---- a row ----

struct Shared {
  u32 lo[BINS], hi[BINS];  // histogram
  u64 sums[WARPS];
  u64 total;      // of this block, for the others
  u64 found[2];   // of a histogram: bin, sum before it
  i32 id;         // that locate found, -1 in the other blocks
  float exp2_steps[64];
};

// Part is the eighth of a row that this block holds.
struct Part {
  Shared& sh;
  const float* x;  // its logits
  i32 from, count;
  u32 rank;
  float top, scale;

  // weight is the token's probability but for a factor: e^((x-top)·scale) as
  // package sample computes it, in units of 2^-44.
  DEVICE u64 weight(float logit) const {
    float d = __fmul_rn(__fsub_rn(logit, top), scale);
    if (!(d >= -87.0f)) return 0;
    constexpr float STEPS = 64 / 0.693147180559945309, HI = 0.010833740234375f, LO = 0.693147180559945309 / 64 - 0.010833740234375;
    i32 n = (i32)__fsub_rn(__fmul_rn(d, STEPS), 0.5f);
    float r = __fsub_rn(__fsub_rn(d, __fmul_rn((float)n, HI)), __fmul_rn((float)n, LO));
    float y = sh.exp2_steps[n & 63];
    y = __fadd_rn(y, __fmul_rn(y, __fadd_rn(r, __fmul_rn(0.5f, __fmul_rn(r, r)))));
    y = __fmul_rn(y, __uint_as_float((u32)((n >> 6) + 127) << 23));
    return __float2ull_rn(__fmul_rn(y, UNIT));
  }

  // bucket spreads the tokens by their distance from the largest logit, 16 to a
  // unit: a first digit in the order of the logits that has few collisions.
  DEVICE u32 bucket(float logit) const { return (u32)fminf((top - logit) * 16.0f, 1023.0f); }

  DEVICE void add(u32 bin, u64 v) {
    u32 low = (u32)v, old = atomicAdd(&sh.lo[bin], low);
    u32 high = (u32)(v >> 32) + (old + low < old);
    if (high) atomicAdd(&sh.hi[bin], high);
  }

  // block_scan returns the sum over the threads up to and with this one.
  DEVICE u64 block_scan(u64 v, u64& total) {
    int lane = lane_id(), warp = threadIdx.x / WARP;
#pragma unroll
    for (int d = 1; d < WARP; d <<= 1) {
      u64 o = __shfl_up_sync(~0u, v, d);
      if (lane >= d) v += o;
    }
    __syncthreads();
    if (lane == WARP - 1) sh.sums[warp] = v;
    __syncthreads();
    u64 before = 0;
    total = 0;
    for (int w = 0; w < WARPS; w++) {
      if (w < warp) before += sh.sums[w];
      total += sh.sums[w];
    }
    return before + v;
  }

  // find_bin adds up the histograms of all blocks and returns the first bin with
  // which the sum reaches the target; target becomes what is left for that bin.
  // target_of(total) is the target of a first histogram.
  template <class F>
  DEVICE u32 find_bin(u64& target, F target_of) {
    cluster_sync();
    u64 v[2] = {0, 0}, total;
    for (int b = 0; b < 2; b++) {
      u32 bin = threadIdx.x * 2 + b;
      for (u32 r = 0; r < PARTS; r++) v[b] += (u64)peer(sh.hi + bin, r) << 32 | peer(sh.lo + bin, r);
    }
    u64 to = block_scan(v[0] + v[1], total), from = to - v[0] - v[1];
    target = target_of(total);
    if (from < target && target <= to) {
      bool second = from + v[0] < target;
      sh.found[0] = threadIdx.x * 2 + second;
      sh.found[1] = second ? from + v[0] : from;
    }
    cluster_sync();  // also: nobody reads the histograms any more
    target -= sh.found[1];
    return sh.found[0];
  }

  DEVICE void clear_bins() {
    for (int i = threadIdx.x; i < BINS; i += THREADS) sh.lo[i] = sh.hi[i] = 0;
    __syncthreads();
  }

  // select returns the shortest prefix of the kept tokens whose measure reaches
  // the target. measure(x) is what a token counts.
  template <class M, class F>
  DEVICE Cut select(Cut kept, M measure, F target_of) {
    u64 target;
    clear_bins();
    for (i32 i = threadIdx.x; i < count; i += THREADS) {
      float logit = x[i];
      if (kept.keeps(order_key(logit), from + i)) add(bucket(logit), measure(logit));
    }
    u32 first = find_bin(target, target_of);
    u32 prefix = 0;
    for (int shift = 21, bits = 11; shift >= 0; bits = shift == 10 ? 10 : 11, shift -= bits) {
      clear_bins();
      u32 mask = (1u << bits) - 1;
      for (i32 i = threadIdx.x; i < count; i += THREADS) {
        float logit = x[i];
        u32 key = order_key(logit);
        if (bucket(logit) != first || (u64)key >> (shift + bits) != prefix || !kept.keeps(key, from + i)) continue;
        add(mask - (key >> shift & mask), measure(logit));
      }
      u32 digit = mask - find_bin(target, [&](u64) { return target; });
      prefix = prefix << bits | digit;
    }
    // Some of the tokens with this logit belong to the prefix, the lowest ids.
    u64 each = measure(key_float(prefix)), n = (target + each - 1) / each;
    auto tied = [&](float logit, i32 id) -> u64 { return order_key(logit) == prefix && kept.keeps(prefix, id); };
    return {prefix, locate(tied, [&](u64) { return n; })};
  }

  // locate returns the first token, in order of ids, with which the sum of
  // measure(logit, id) reaches the target.
  template <class M, class F>
  DEVICE i32 locate(M measure, F target_of) {
    int lane = lane_id(), warp = threadIdx.x / WARP;
    i32 chunk = (count + THREADS - 1) / THREADS * WARP;
    i32 begin = min(warp * chunk, count), end = min(begin + chunk, count);
    u64 sum = 0, total;
    for (i32 i = begin + lane; i < end; i += WARP) sum += measure(x[i], from + i);
    u64 warp_to = block_scan(sum, total);
    // The last lane's prefix sum ends the warp's, the last of the warp before begins it.
    warp_to = __shfl_sync(~0u, warp_to, WARP - 1);
    u64 warp_from = warp == 0 ? 0 : warp_to - warp_total(sum);
    if (threadIdx.x == 0) {
      sh.total = total;
      sh.id = -1;
    }
    cluster_sync();
    u64 before = 0, all = 0;
    for (u32 r = 0; r < PARTS; r++) {
      u64 t = peer(&sh.total, r);
      if (r < rank) before += t;
      all += t;
    }
    u64 target = target_of(all);
    if (before + warp_from < target && target <= before + warp_to) {
      u64 at = before + warp_from;
      for (i32 i = begin; i < end; i += WARP) {
        u64 v = i + lane < end ? measure(x[i + lane], from + i + lane) : 0;
#pragma unroll
        for (int d = 1; d < WARP; d <<= 1) {
          u64 o = __shfl_up_sync(~0u, v, d);
          if (lane >= d) v += o;
        }
        u32 reached = __ballot_sync(~0u, at + v >= target);
        if (reached) {
          if (lane == 0) sh.id = from + i + __ffs(reached) - 1;
          break;
        }
        at += __shfl_sync(~0u, v, WARP - 1);
      }
    }
    cluster_sync();
    i32 id = -1;
    for (u32 r = 0; r < PARTS; r++) id = max(id, (i32)peer((const u32*)&sh.id, r));
    cluster_sync();
    return id;
  }

  static DEVICE u64 warp_total(u64 v) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    return v;
  }
};

// read_row finds the part of the row that this block has, keeps it, and returns
// the best token of the row as key << 32 | ~id. irregular becomes whether the
// row holds a NaN.
DEVICE u64 read_row(Part& part, const Sample& p, i32 vocabulary, float* kept, bool& irregular) {
  i32 row = blockIdx.x / PARTS, each = (vocabulary + PARTS * WARP - 1) / (PARTS * WARP) * WARP;
  part.rank = cluster_rank();
  part.from = min((i32)part.rank * each, vocabulary);
  part.count = min(each, vocabulary - part.from);
  part.x = p.logits + (i64)row * p.columns + part.from;
  u64 best = 0;
  bool nan = false;
#pragma unroll 8
  for (i32 i = threadIdx.x; i < part.count; i += THREADS) {
    float x = part.x[i];
    if (p.cached) kept[i] = x;
    nan |= x != x;
    u64 v = (u64)order_key(x) << 32 | ~(u32)(part.from + i);
    best = v > best ? v : best;
  }
  if (p.cached) part.x = kept;
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) {
    u64 o = __shfl_xor_sync(~0u, best, d);
    best = o > best ? o : best;
  }
  if (lane_id() == 0) part.sh.sums[threadIdx.x / WARP] = best;
  nan = __syncthreads_or(nan);
  for (int w = 0; w < WARPS; w++) best = max(best, part.sh.sums[w]);
  if (threadIdx.x == 0) {
    part.sh.total = best;
    part.sh.id = nan;
  }
  cluster_sync();
  irregular = false;
  for (u32 r = 0; r < PARTS; r++) {
    best = max(best, peer(&part.sh.total, r));
    irregular |= peer((const u32*)&part.sh.id, r) != 0;
  }
  cluster_sync();
  return best;
}

// sample chooses a token; -1 where package sample reports an error: a NaN, +inf,
// or no finite logit.
KERNEL __cluster_dims__(PARTS, 1, 1) __launch_bounds__(THREADS) sample(const Sample p) {
  extern __shared__ float kept_logits[];
  __shared__ Shared shared;
  if (threadIdx.x < 64) shared.exp2_steps[threadIdx.x] = (float)exp2(threadIdx.x / 64.0);
  grid_wait();
  Part part = {shared};
  i32 row = blockIdx.x / PARTS;
  Choice c = p.choices[row];
  bool irregular;
  u64 best = read_row(part, p, c.vocabulary, kept_logits, irregular);
  i32 id = (i32)~(u32)best;
  part.top = key_float((u32)(best >> 32));
  part.scale = c.scale;
  if (irregular || !(fabsf(part.top) <= 3.402823466e38f)) {
    id = -1;
  } else if (c.scale > 0) {
    Cut kept = everything();
    if (c.top_k > 0 && c.top_k < c.vocabulary)
      kept = part.select(kept, [](float) -> u64 { return 1; }, [&](u64) { return (u64)c.top_k; });
    if (c.top_p < 1) {
      auto weight = [&](float x) { return part.weight(x); };
      kept = kept.shorter(part.select(kept, weight, [&](u64 total) { return max((u64)ceil(c.top_p * (double)total), 1ull); }));
    }
    kept = kept.shorter({order_key((float)((double)part.top + c.margin)), LAST});
    auto weight = [&](float x, i32 i) -> u64 { return kept.keeps(order_key(x), i) ? part.weight(x) : 0; };
    id = part.locate(weight, [&](u64 total) { return min((u64)(c.uniform * (double)total), total - 1) + 1; });
  }
  if (part.rank == 0 && threadIdx.x == 0) p.ids[row] = id;
}
