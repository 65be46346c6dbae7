// Attention in latent space (absorbed MLA) for R = 512 and dr = 64: every head
// of a query row attends to the same cached records, of which the first 512
// elements are both key and value. It is not the kernel for other sizes: see
// mla_generic.cu.
//
//   qa    [n, H, 576] bf16, latent part first
//   cache records of one layer: CACHE_F8 0: 576 bf16; CACHE_F8 1: 512 e4m3,
//         4 float scales (powers of two), 64 bf16
//   z     [n, H, 512] bf16, lse [n, H] natural log-sum-exp
//
// A block works on a query row, 64 of its heads (fewer are padded with zeros)
// and one split of its keys, in blocks of 64 keys. Producer warps gather records
// into two buffers; two warp groups multiply. The accumulator of 64 x 512 floats
// fills the registers of both: group 0 holds columns 0..255 and group 1 columns
// 256..511. Group 0 computes the weights P of even key blocks, group 1 those of
// odd ones, and each hands P to the other through shared memory, with the
// running maximum; so one group's softmax runs under the other's products. (The
// idea is the seesaw of FlashMLA, DeepSeek 2025; here both groups take all key
// blocks in order.)
//
// Records of bfloat16 are copied asynchronously; FP8 records are expanded by the
// producers, twice as many, on the way. (To share the work in a cluster of the
// two blocks for 128 heads was slower: writes to the other block's shared memory
// took longer than expanding twice.)
//
// Shared memory holds Q, K and P as panels of 64 rows of 128 bytes, swizzled:
// K is the second operand of S = Q·Kᵀ as it stands and, read transposed, that
// of O = P·V.
//
//latent:unit mla_bf16 hot CACHE_F8=0
//latent:unit mla_f8 hot CACHE_F8=1

static constexpr int HEADS = 64;  // rows of a block's tile
static constexpr int KEYS = 64;   // keys of a block
static constexpr int LATENT = 512, ROPE = 64, WIDTH = LATENT + ROPE;
static constexpr u32 PANEL = 64 * 128;       // bytes of 64 rows of 64 elements
static constexpr u32 PANELS = WIDTH / 64;    // 8 latent panels, 1 of rope
static constexpr u32 TILE = PANELS * PANEL;  // Q, or a buffer of K
#if CACHE_F8
static constexpr int RECORD = LATENT + 4 * (LATENT / 128) + 2 * ROPE;
static constexpr int PRODUCERS = 256, PRODUCER_REGISTERS = 64, CONSUMER_REGISTERS = 192;
#else
static constexpr int RECORD = 2 * WIDTH;
static constexpr int PRODUCERS = 128, PRODUCER_REGISTERS = 72, CONSUMER_REGISTERS = 216;
#endif
static constexpr int THREADS = 256 + PRODUCERS;
// A group's 256 columns are the accumulators of one product or of two: with 512
// threads the compiler allows an instruction no more than 128 registers.
static constexpr int PARTS = THREADS > 384 ? 2 : 1, PART_COLUMNS = 256 / PARTS;
static constexpr int WARPS = PRODUCERS / 32, WARP_KEYS = KEYS / WARPS;  // of producers; a warp gathers WARP_KEYS keys

struct Params {
  const bf16* qa;
  const u8* cache;
  bf16* z;
  float* lse;
  float* part;      // [splits, n, H, 512] of each split, if splits > 1
  float* part_lse;  // [splits, n, H], to base 2
  const Row* rows;
  const i32* table;  // Pages
  const i32* first;
  const i32* sel;  // [rows, topk] positions, ascending, padded with -1
  i32 topk, n, heads, splits;
  float scale;   // of scores, times log2(e)
};

// Work is what a block does: key blocks [begin, end) of a query row.
struct Work {
  i32 row, head, split;  // row of qa, first head
  i32 from, to;          // visible positions
  const i32* sel;        // selected positions, or null: positions from `from` on
  const i32* table;      // pages of the sequence
  i32 begin, end;
};

// Shared is the dynamic shared memory.
struct Shared {
  u8 q[TILE];
  u8 k[2][TILE];
  u8 p[PANEL];
  float max[HEADS];     // running maximum after the last published key block
  float factor[HEADS];  // what that block multiplies older sums with
  float sum[2][HEADS];
  u64 valid[2];  // bit i: key i of the buffer exists
  Work work;
  Barrier full[2][2], empty[2][2];  // [buffer][columns 0..255 | 256..575]
};

// Named barriers: P of group 0 and of group 1, one for each pair of warps; all
// consumers.
static constexpr int P_READY = 1, CONSUMERS = 9;

DEVICE Work work_of(const Params& p) {
  Work w;
  i32 groups = (p.heads + HEADS - 1) / HEADS;
  // Later rows of a run see more keys: first, so that the end is short.
  w.row = p.n - 1 - (i32)(blockIdx.x / groups);
  w.head = (i32)(blockIdx.x % groups) * HEADS;
  w.split = blockIdx.y;
  const Row* r = p.rows + w.row;
  w.from = r->from;
  w.to = r->to;
  w.table = p.table + p.first[r->seq];
  w.sel = nullptr;
  i32 keys = w.to - w.from;
  if (r->sel >= 0) {
    w.sel = p.sel + (i64)r->sel * p.topk;
    keys = keys > 0 ? min(p.topk, r->pos + 1) : 0;
  }
  i32 blocks = (keys + KEYS - 1) / KEYS;
  i32 each = (blocks + p.splits - 1) / p.splits;
  w.begin = min(w.split * each, blocks);
  w.end = min(w.begin + each, blocks);
  return w;
}

// ---- producer ----

// position of key i of the row, or -1.
DEVICE i32 position(const Params& p, const Work& w, i32 i) {
  i32 pos = w.from + i;
  if (w.sel) pos = i < p.topk ? __ldg(w.sel + i) : -1;
  return pos >= w.from && pos < w.to ? pos : -1;
}

DEVICE i32 slot_of(const Work& w, i32 pos) {
  return pos < 0 ? -1 : __ldg(w.table + (pos >> 6)) * PAGE_TOKENS + (pos & 63);
}

// The producers' warp w gathers keys WARP_KEYS·w + [0, WARP_KEYS) of a block, four
// at a time: 8 lanes share a record, those of s take keys 4i+s in rounds i. Lane l
// looks up the slot of the warp's key l one block ahead, and its position two.
static constexpr int ROUNDS = WARP_KEYS / 4;

struct Keys {
  i32 lane_key, slot, next, after;
  DEVICE void start(const Params& p, const Work& w, int warp, int lane) {
    lane_key = warp * WARP_KEYS + lane % WARP_KEYS;
    slot = slot_of(w, position(p, w, w.begin * KEYS + lane_key));
    next = slot_of(w, position(p, w, (w.begin + 1) * KEYS + lane_key));
    after = position(p, w, (w.begin + 2) * KEYS + lane_key);
  }
  DEVICE void step(const Params& p, const Work& w, i32 block) {
    slot = next;
    next = slot_of(w, after);
    after = position(p, w, (block + 3) * KEYS + lane_key);
  }
};

DEVICE void publish_mask(Shared* s, int buffer, int warp, int lane, i32 slot) {
  u32 mask = __ballot_sync(~0u, slot >= 0);
  if (lane != 0) return;
  if (WARP_KEYS == 16)
    ((u16*)(s->valid + buffer))[warp] = (u16)mask;
  else
    ((u8*)(s->valid + buffer))[warp] = (u8)mask;
}

// copy16 is cp_async16 to an address in shared memory.
DEVICE void copy16(u32 dst, const void* src, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(valid ? 16 : 0) : "memory");
}

#if CACHE_F8

template <int OFFSET>
DEVICE uint4 load16(const u8* src, bool valid) {
  uint4 v = make_uint4(0, 0, 0, 0);
  if (valid)
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4 + %5];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(src), "n"(OFFSET));
  return v;
}

DEVICE u32 multiply_bf16(u32 a, u32 b) {
  u32 r;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

// expand2 spreads two of the four codes in v to bf16: sign, exponent and mantissa
// move to their places, which leaves the value times 2^-120. (A NaN, which
// StoreLatent writes for NaN only, comes out as ±480.)
template <int HIGH>
DEVICE u32 expand2(u32 v) {
  u32 r;
  asm("prmt.b32 %0, %1, %1, %2;" : "=r"(r) : "r"(v), "n"(HIGH ? 0xB3A2 : 0x9180));
  return (r << 4) & 0x87F087F0u;
}

// A scale as two bf16 factors, low half first: what expand2 needs times the
// scale, up to a scale of 2^7, over which that is out of range; and the rest.
DEVICE u32 factors_of(float scale) {
  u32 low = __float_as_uint(fminf(scale, 128.0f) * __uint_as_float((127 + 120) << 23)) >> 16;
  return low | (__float_as_uint(fmaxf(scale * 0.0078125f, 1.0f)) & 0xffff0000u);
}

DEVICE void store16(u32 at, u32 x, u32 y, u32 z, u32 w) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}

DEVICE void produce(const Params& p, const Work& w, Shared* s) {
  int warp = warp_id() - 8, lane = lane_id();
  // Lane (q, h, c') has key 4i + 2(q%2)+h and part c = 4(q/2)+c' of it: of each 128
  // codes 16, two chunks of 8 bf16 in panel c/4. So the 8 lanes that store at a
  // time write every other chunk of an even and of an odd row, to all banks.
  int sub = lane >> 2 & 3, c = lane & 3 | lane >> 2 & 4;
  Keys keys;
  keys.start(p, w, warp, lane);
  u32 part = c * 16;
  u32 row = smem_addr(s->k[0]) + (u32)(warp * WARP_KEYS + sub) * 128;
  u32 first = row + (u32)((2 * (c & 3) ^ sub) << 4) + (u32)(c >> 2) * PANEL;
  u32 rope = row + (u32)((c ^ sub) << 4) + 8 * PANEL;

  uint4 raw[ROUNDS][4];  // this lane's codes of each 128 of its keys
  float scales[ROUNDS];  // scale c%4 of its keys
  // record returns the codes of this lane in the record, as an opaque pointer.
  auto record = [&](i32 slot) {
    const u8* at = p.cache + (i64)max(slot, 0) * RECORD + part;
    asm volatile("" : "+l"(at));
    return at;
  };
  auto scale_of = [&](const u8* at, bool valid) {
    return valid ? __ldg((const float*)(at - part + LATENT + (part >> 2 & 12))) : 0.0f;
  };
#pragma unroll
  for (int i = 0; i < ROUNDS; i++) {
    i32 slot = __shfl_sync(~0u, keys.slot, 4 * i + sub);
    const u8* at = record(slot);
    raw[i][0] = load16<0>(at, slot >= 0);
    raw[i][1] = load16<128>(at, slot >= 0);
    raw[i][2] = load16<256>(at, slot >= 0);
    raw[i][3] = load16<384>(at, slot >= 0);
    scales[i] = scale_of(at, slot >= 0);
  }
  for (i32 block = w.begin; block < w.end; block++) {
    i32 n = block - w.begin;
    int buffer = n & 1;
    u32 parity = (u32)(n >> 1 & 1) ^ 1;
    u32 k = buffer * TILE;
    // Opaque, or the compiler keeps (and spills) all addresses made from them.
    asm volatile("" : "+r"(first), "+r"(rope), "+r"(sub), "+r"(part));
    u32 factors[ROUNDS];
    bool large = false;
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
      factors[i] = factors_of(scales[i]);
      large |= scales[i] > 128.0f;
    }
    large = __any_sync(~0u, large);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      barrier_wait(&s->empty[buffer][half], parity);
      if (half == 0) {
        publish_mask(s, buffer, warp, lane, keys.slot);
      } else {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
          i32 slot = __shfl_sync(~0u, keys.slot, 4 * i + sub);
          copy16(k + (rope ^ (i & 1) << 6) + i * 512, record(slot) + LATENT + 16, slot >= 0);
        }
        cp_async_arrive(&s->full[buffer][1]);
      }
#pragma unroll
      for (int i = 0; i < ROUNDS; i++) {
        i32 next = __shfl_sync(~0u, keys.next, 4 * i + sub);
        const u8* src = record(next);
#pragma unroll
        for (int g = 2 * half; g < 2 * half + 2; g++) {
          u32 pair = __shfl_sync(~0u, factors[i], sub << 2 | g);
          u32 factor = __byte_perm(pair, 0, 0x1010);
          uint4 v = raw[i][g];
          // The registers are free for the same codes of the next block.
          if (g == 0) raw[i][g] = load16<0>(src, next >= 0);
          if (g == 1) raw[i][g] = load16<128>(src, next >= 0);
          if (g == 2) raw[i][g] = load16<256>(src, next >= 0);
          if (g == 3) raw[i][g] = load16<384>(src, next >= 0);
          u32 e[8] = {expand2<0>(v.x), expand2<1>(v.x), expand2<0>(v.y), expand2<1>(v.y),
                      expand2<0>(v.z), expand2<1>(v.z), expand2<0>(v.w), expand2<1>(v.w)};
#pragma unroll
          for (int x = 0; x < 8; x++) e[x] = multiply_bf16(e[x], factor);
          if (large) {
            factor = __byte_perm(pair, 0, 0x3232);
#pragma unroll
            for (int x = 0; x < 8; x++) e[x] = multiply_bf16(e[x], factor);
          }
          u32 at = k + (first ^ (i & 1) << 6) + i * 512 + 2 * g * PANEL;
          store16(at, e[0], e[1], e[2], e[3]);
          store16(at ^ 16, e[4], e[5], e[6], e[7]);
        }
        if (half == 1) scales[i] = scale_of(src, next >= 0);
      }
      fence_async();
      __syncwarp();
      if (lane == 0) barrier_arrive(&s->full[buffer][half]);
    }
    keys.step(p, w, block);
  }
}

#else

DEVICE void produce(const Params& p, const Work& w, Shared* s) {
  int warp = warp_id() - 8, lane = lane_id(), sub = lane >> 3, c = lane & 7;
  Keys keys;
  keys.start(p, w, warp, lane);
  u32 base = smem_addr(s->k[0]);
  u32 offset = (u32)((c ^ sub) << 4) + (u32)(warp * WARP_KEYS + sub) * 128;
  for (i32 block = w.begin; block < w.end; block++) {
    i32 n = block - w.begin;
    int buffer = n & 1;
    u32 parity = (u32)(n >> 1 & 1) ^ 1;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      barrier_wait(&s->empty[buffer][half], parity);
      if (half == 0) publish_mask(s, buffer, warp, lane, keys.slot);
#pragma unroll
      for (int i = 0; i < ROUNDS; i++) {
        i32 slot = __shfl_sync(~0u, keys.slot, 4 * i + sub);
        const u8* src = p.cache + (i64)max(slot, 0) * RECORD + c * 16;
        u32 dst = base + buffer * TILE + (offset ^ (i & 1) << 6) + i * 512;
#pragma unroll
        for (int panel = 4 * half; panel < (half ? 9 : 4); panel++)
          copy16(dst + panel * PANEL, src + panel * 128, slot >= 0);
      }
      cp_async_arrive(&s->full[buffer][half]);
      if (half == 0 && lane == 0) barrier_arrive(&s->full[buffer][0]);
    }
    keys.step(p, w, block);
  }
}

#endif

// ---- consumers ----

// load_queries copies the heads of the row to shared memory, zeros for padding.
DEVICE void load_queries(const Params& p, const Work& w, Shared* s) {
  const bf16* q = p.qa + ((i64)w.row * p.heads + w.head) * WIDTH;
  int heads = p.heads - w.head;
  for (int i = threadIdx.x; i < HEADS * WIDTH / 8; i += 256) {
    int h = i / (WIDTH / 8), chunk = i % (WIDTH / 8);
    bool valid = h < heads;
    cp_async16(s->q + (chunk >> 3) * PANEL + swizzle128(h, (chunk & 7) * 16), q + (valid ? i * 8 : 0), valid);
  }
  cp_async_commit();
  cp_async_wait<0>();
  fence_async();
  named_sync(CONSUMERS, 256);
}

// issue_scores queues S = Q·Kᵀ over the panels of one half of the columns.
template <int HALF>
DEVICE void issue_scores(float (&scores)[32], u64 q, u64 k) {
#pragma unroll
  for (int panel = 4 * HALF; panel < (HALF ? 9 : 4); panel++)
#pragma unroll
    for (int step = 0; step < 4; step++) {
      u32 at = panel * PANEL + step * 32;
      wgmma_bf16_ss(scores, desc_step(q, at), desc_step(k, at), panel + step > 0);
    }
}

// Output is a group's half of O: 64 rows of 256 columns.
struct Output {
  float part[PARTS][PART_COLUMNS / 2];
  DEVICE void clear() {
#pragma unroll
    for (int x = 0; x < PARTS; x++)
#pragma unroll
      for (int i = 0; i < PART_COLUMNS / 2; i++) part[x][i] = 0.0f;
  }
  DEVICE void scale(float f0, float f1) {
#pragma unroll
    for (int x = 0; x < PARTS; x++)
#pragma unroll
      for (int i = 0; i < PART_COLUMNS / 2; i++) part[x][i] *= i & 2 ? f1 : f0;
  }
  DEVICE void keep() {
#pragma unroll
    for (int x = 0; x < PARTS; x++) wgmma_keep(part[x]);
  }
  // at returns columns 8i + 2(lane%4) and the next in row lane/4 + 8r of the warp's 16.
  DEVICE float2 at(int i, int r) const {
    constexpr int n = PART_COLUMNS / 8;
    return make_float2(part[i / n][4 * (i % n) + 2 * r], part[i / n][4 * (i % n) + 2 * r + 1]);
  }
};

// State is what a thread keeps for its rows lane/4 and lane/4+8 of its warp's 16.
struct State {
  float max[2] = {NEG_INF, NEG_INF};  // scaled
  float sum[2] = {0.0f, 0.0f};        // of the group's own key blocks, of this thread's columns
};

DEVICE void rescale(Output& o, float f0, float f1) {
  if (__any_sync(~0u, f0 != 1.0f || f1 != 1.0f)) o.scale(f0, f1);
}

// weigh turns scores into weights, as the fragments of P, and moves the
// maximum. f returns the factors for what was summed before.
DEVICE void weigh(float (&s)[32], u32 (&frag)[4][4], State& st, float (&f)[2], float scale, u64 mask) {
  int q = lane_id() & 3;
  if (mask != ~0ull) {
    u64 own = mask >> (2 * q);
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int b = 0; b < 2; b++)
        if (!(own >> (8 * i + b) & 1)) s[4 * i + b] = s[4 * i + 2 + b] = NEG_INF;
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float top = s[2 * r];
#pragma unroll
    for (int i = 0; i < 8; i++) top = fmaxf(top, fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    top = fmaxf(st.max[r], top * scale);
    float base = top == NEG_INF ? 0.0f : top;
    f[r] = exp2_fast(st.max[r] - base);
    st.max[r] = top;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float a = exp2_fast(fmaf(s[4 * i + 2 * r], scale, -base)), b = exp2_fast(fmaf(s[4 * i + 2 * r + 1], scale, -base));
      sum += a + b;
      frag[i >> 1][2 * (i & 1) + r] = pack_bf16(a, b);
    }
    st.sum[r] = st.sum[r] * f[r] + sum;
  }
}

// hand_over writes P, the maximum and the factors for the other group.
DEVICE void hand_over(Shared* s, const u32 (&frag)[4][4], const State& st, const float (&f)[2], int barrier) {
  int warp = warp_id() & 3, lane = lane_id();
  int row = warp * 16 + (lane & 15);
#pragma unroll
  for (int k = 0; k < 4; k++)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     smem_addr(s->p + swizzle128(row, (2 * k + (lane >> 4)) * 16))),
                 "r"(frag[k][0]), "r"(frag[k][1]), "r"(frag[k][2]), "r"(frag[k][3])
                 : "memory");
  if ((lane & 3) == 0) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      s->max[warp * 16 + 8 * r + (lane >> 2)] = st.max[r];
      s->factor[warp * 16 + 8 * r + (lane >> 2)] = f[r];
    }
  }
  fence_async();
  named_arrive(barrier + warp, 64);
}

// take_over waits for the other group's P and applies its factors.
DEVICE void take_over(Shared* s, Output& o, State& st, int barrier) {
  int warp = warp_id() & 3, row = warp * 16 + (lane_id() >> 2);
  named_sync(barrier + warp, 64);
  st.max[0] = s->max[row];
  st.max[1] = s->max[row + 8];
  float f0 = s->factor[row], f1 = s->factor[row + 8];
  st.sum[0] *= f0;
  st.sum[1] *= f1;
  rescale(o, f0, f1);
}

// issue_values queues O += P·V for the group's half of the columns, with P from
// registers or from shared memory.
DEVICE void issue_values(Output& o, const u32 (&frag)[4][4], u64 v) {
  o.keep();
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int x = 0; x < PARTS; x++)
      wgmma_bf16_rs<1>(o.part[x], frag[k], desc_step(v, k * 2048 + x * (PART_COLUMNS / 64) * PANEL), true);
  wgmma_commit();
}
DEVICE void issue_values(Output& o, u64 p, u64 v) {
  o.keep();
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int x = 0; x < PARTS; x++)
      wgmma_bf16_ss<1>(o.part[x], desc_step(p, k * 32), desc_step(v, k * 2048 + x * (PART_COLUMNS / 64) * PANEL), true);
  wgmma_commit();
}
DEVICE void finish_values(Output& o) {
  wgmma_wait<0>();
  o.keep();
}

// release gives half of a buffer back to the producers.
DEVICE void release(Barrier* b) {
  if (lane_id() == 0) barrier_arrive(b);
}

// store writes the group's half of z (or of the split's part) and the lse.
template <int GROUP>
DEVICE void store(const Params& p, const Work& w, Shared* s, Output& o, State& st) {
  int warp = warp_id() & 3, lane = lane_id();
  int row = warp * 16 + (lane >> 2);
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float sum = st.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if ((lane & 3) == 0) s->sum[GROUP][row + 8 * r] = sum;
  }
  named_sync(CONSUMERS, 256);  // all products with Q are done, too
  int heads = p.heads - w.head;
  i64 at = (i64)w.row * p.heads + w.head;
  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int h = row + 8 * r;
    float sum = s->sum[0][h] + s->sum[1][h];
    inverse[r] = sum > 0.0f ? 1.0f / sum : 0.0f;
    if (GROUP == 0 && (lane & 3) == 0 && h < heads) {
      float lse = sum > 0.0f ? st.max[r] + log2f(sum) : NEG_INF;
      if (p.splits == 1)
        p.lse[at + h] = lse * LN2;
      else
        p.part_lse[(i64)w.split * p.n * p.heads + at + h] = lse;
    }
  }
  if (p.splits > 1) {
    if (w.begin == w.end) return;  // the merge skips it
    float* part = p.part + ((i64)w.split * p.n * p.heads + at) * LATENT + GROUP * 256 + 2 * (lane & 3);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      if (row + 8 * r >= heads) continue;
      float* dst = part + (row + 8 * r) * LATENT;
#pragma unroll
      for (int i = 0; i < 32; i++)
        *(float2*)(dst + 8 * i) = make_float2(o.at(i, r).x * inverse[r], o.at(i, r).y * inverse[r]);
    }
    return;
  }
  // Through Q's panels of this warp's rows, to store whole lines.
  u8* panels = s->q + GROUP * 4 * PANEL;
#pragma unroll
  for (int i = 0; i < 32; i++)
#pragma unroll
    for (int r = 0; r < 2; r++)
      *(u32*)(panels + (i >> 3) * PANEL + swizzle128(row + 8 * r, (i & 7) * 16 + 4 * (lane & 3))) =
          pack_bf16(o.at(i, r).x * inverse[r], o.at(i, r).y * inverse[r]);
  __syncwarp();
  bf16* z = p.z + at * LATENT + GROUP * 256;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    int h = warp * 16 + i;
    uint4 v = *(const uint4*)(panels + (lane >> 3) * PANEL + swizzle128(h, (lane & 7) * 16));
    if (h < heads) *(uint4*)(z + h * LATENT + lane * 8) = v;
  }
}

// start_scores waits for the halves of a buffer and queues S.
DEVICE void start_scores(Shared* s, float (&scores)[32], u64 q, u64 k, int buffer, u32 parity) {
  barrier_wait(&s->full[buffer][0], parity);
  fence_async();
  wgmma_fence();
  issue_scores<0>(scores, q, k);
  barrier_wait(&s->full[buffer][1], parity);
  fence_async();
  wgmma_fence();
  issue_scores<1>(scores, q, k);
  wgmma_commit();
}

// own_values adds the product of the group's own weights.
DEVICE void own_values(Output& o, const u32 (&frag)[4][4], const float (&f)[2], u64 v, Barrier* done) {
  rescale(o, f[0], f[1]);
  issue_values(o, frag, v);
  finish_values(o);
  release(done);
}

template <int GROUP>
DEVICE void consume(const Params& p, const Work& w, Shared* s) {
  Output o;
  o.clear();
  State st;
  float scores[32];
  u32 frag[4][4];
  float f[2];
  u64 q = smem_desc(s->q), pd = smem_desc(s->p);
  u64 k = smem_desc(s->k[GROUP]);                                     // own buffer: [keys][columns]
  u64 own = smem_desc(s->k[GROUP] + GROUP * 4 * PANEL, 1024, PANEL);  // the same, transposed
  u64 other = smem_desc(s->k[1 - GROUP] + GROUP * 4 * PANEL, 1024, PANEL);
  i32 n = w.end - w.begin;
  load_queries(p, w, s);
  for (i32 j = 0; j < n; j += 2) {
    u32 parity = (u32)(j >> 1 & 1);
    bool odd = j + 1 < n;
    if (GROUP == 0) {
      start_scores(s, scores, q, k, 0, parity);
      wgmma_wait<0>();
      wgmma_keep(scores);
      weigh(scores, frag, st, f, p.scale, s->valid[0]);
      hand_over(s, frag, st, f, P_READY);
      own_values(o, frag, f, own, &s->empty[0][0]);
      if (odd) {
        take_over(s, o, st, P_READY + 4);
        issue_values(o, pd, other);
        finish_values(o);
        release(&s->empty[1][0]);
      }
    } else if (odd) {
      start_scores(s, scores, q, k, 1, parity);
      wgmma_wait<0>();
      wgmma_keep(scores);
      take_over(s, o, st, P_READY);
      issue_values(o, pd, other);
      weigh(scores, frag, st, f, p.scale, s->valid[1]);
      finish_values(o);
      release(&s->empty[0][1]);
      hand_over(s, frag, st, f, P_READY + 4);
      own_values(o, frag, f, own, &s->empty[1][1]);
    } else {
      take_over(s, o, st, P_READY);
      issue_values(o, pd, other);
      finish_values(o);
    }
  }
  store<GROUP>(p, w, s, o, st);
}

KERNEL __launch_bounds__(THREADS, 1) mla(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared* s = (Shared*)memory;
  if (threadIdx.x == 0) {
    s->work = work_of(p);
    for (int b = 0; b < 2; b++) {
      // Warps arrive, and threads when what they copied is there.
      barrier_init(&s->full[b][0], CACHE_F8 ? WARPS : WARPS + PRODUCERS);
      barrier_init(&s->full[b][1], (CACHE_F8 ? WARPS : 0) + PRODUCERS);
      for (int half = 0; half < 2; half++) barrier_init(&s->empty[b][half], 4);
    }
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x >= 256) {
    register_dealloc<PRODUCER_REGISTERS>();
    produce(p, s->work, s);  // which saves registers
  } else {
    register_alloc<CONSUMER_REGISTERS>();
    Work w = s->work;
    if (threadIdx.x < 128)
      consume<0>(p, w, s);
    else
      consume<1>(p, w, s);
  }
}
