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
// and one split of its keys, in blocks of 64 keys. One warp group gathers
// records into two buffers; two warp groups multiply. The accumulator of
// 64 x 512 floats fills the registers of both: group 0 holds columns 0..255 and
// group 1 columns 256..511. Group 0 computes the weights P of even key blocks,
// group 1 those of odd ones, and each hands P to the other through shared
// memory, with the running maximum; so one group's softmax runs under the
// other's products. (The idea is the seesaw of FlashMLA, DeepSeek 2025; here
// both groups take all key blocks in order.)
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
static constexpr u32 PANEL = 64 * 128;             // bytes of 64 rows of 64 elements
static constexpr u32 PANELS = WIDTH / 64;          // 8 latent panels, 1 of rope
static constexpr u32 TILE = PANELS * PANEL;        // Q, or a buffer of K
#if CACHE_F8
static constexpr int RECORD = LATENT + 4 * (LATENT / 128) + 2 * ROPE;
static constexpr int PRODUCER_REGISTERS = 120, CONSUMER_REGISTERS = 192;
#else
static constexpr int RECORD = 2 * WIDTH;
static constexpr int PRODUCER_REGISTERS = 72, CONSUMER_REGISTERS = 216;
#endif

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
  i32 identity;  // rows that see at most so many keys take them all
};

// Shared is the dynamic shared memory.
struct Shared {
  u8 q[TILE];
  u8 k[2][TILE];
  u8 p[PANEL];
  float max[HEADS];     // running maximum after the last published key block
  float factor[HEADS];  // what that block multiplies older sums with
  float sum[2][HEADS];
  u16 valid[2][4];  // bit i of word w: key 16w+i of the buffer exists
  Barrier full[2][2], empty[2][2];  // [buffer][columns 0..255 | 256..575]
};

// Named barriers: P of group 0 and of group 1, one for each pair of warps, and
// all consumers.
static constexpr int P_READY = 1, CONSUMERS = 9;

// Work is what a block does: key blocks [begin, end) of a query row.
struct Work {
  i32 row, head, split;  // row of qa, first head
  i32 from, to;          // visible positions
  const i32* sel;        // selected positions, or null: positions from `from` on
  const i32* table;      // pages of the sequence
  i32 begin, end;
};

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
  if (r->sel >= 0 && r->pos >= p.identity) {
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

// The producers' warp w gathers keys 16w..16w+15 of a block; 8 lanes share a
// record, lanes 8s..8s+7 taking keys 4i+s, i = 0..3. Lane l looks up the slot of
// key l%16, one block ahead, and its position two blocks ahead.
struct Keys {
  i32 slot, next, after;
  DEVICE void start(const Params& p, const Work& w, i32 lane_key) {
    slot = slot_of(w, position(p, w, w.begin * KEYS + lane_key));
    next = slot_of(w, position(p, w, (w.begin + 1) * KEYS + lane_key));
    after = position(p, w, (w.begin + 2) * KEYS + lane_key);
  }
  DEVICE void step(const Params& p, const Work& w, i32 block, i32 lane_key) {
    slot = next;
    next = slot_of(w, after);
    after = position(p, w, (block + 3) * KEYS + lane_key);
  }
};

DEVICE void publish_mask(Shared* s, int buffer, int warp, int lane, i32 slot) {
  u32 mask = __ballot_sync(~0u, slot >= 0);
  if (lane == 0) s->valid[buffer][warp] = (u16)mask;
}

// copy16 is cp_async16 to an address in shared memory.
DEVICE void copy16(u32 dst, const void* src, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(valid ? 16 : 0) : "memory");
}

#if CACHE_F8

DEVICE uint4 load16(const u8* src, bool valid) {
  uint4 v = make_uint4(0, 0, 0, 0);
  if (valid)
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(src));
  return v;
}

DEVICE void store16(u32 dst, u32 x, u32 y, u32 z, u32 w) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(dst), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}

DEVICE u32 multiply_bf16(u32 a, u32 b) {
  u32 r;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

// expand2 spreads two of the four codes in v to bf16: sign, exponent and mantissa
// move to their places, which leaves the value times 2^-120.
template <int HIGH>
DEVICE u32 expand2(u32 v) {
  u32 r;
  asm("prmt.b32 %0, %1, %1, %2;" : "=r"(r) : "r"(v), "n"(HIGH ? 0xB3A2 : 0x9180));
  return (r << 4) & 0x87F087F0u;
}

// power_bf16 is the power of two as a packed pair.
DEVICE u32 power_bf16(float power) {
  u32 h = __float_as_uint(power) >> 16;
  return h | h << 16;
}

DEVICE void produce(const Params& p, const Work& w, Shared* s) {
  int warp = warp_id() & 3, lane = lane_id(), sub = lane >> 3, c = lane & 7, lane_key = warp * 16 + (lane & 15);
  Keys keys;
  keys.start(p, w, lane_key);
  // Of each 128 codes lane c takes 16: two chunks of 8 bf16 in panel c/4. The
  // upper lanes store the second chunk first, to meet other banks.
  u32 first = (u32)(((2 * (c & 3) + (c >> 2)) ^ sub) << 4) + (u32)(warp * 16 + sub) * 128 + (u32)(c >> 2) * PANEL;
  u32 base = smem_addr(s->k[0]);
  u32 rope = (u32)((c ^ sub) << 4) + (u32)(warp * 16 + sub) * 128 + 8 * PANEL;

  uint4 raw[16];              // [i][g]: of 128 codes g of key 4i+sub
  float scales[4], ahead[4];  // scale c%4 of key 4i+sub
  auto record = [&](i32 slot, int i) { return p.cache + (i64)slot * RECORD; };
  auto load = [&](i32 slots, int i, int g) {
    i32 slot = __shfl_sync(~0u, slots, 4 * i + sub);
    raw[4 * i + g] = load16(record(slot, i) + g * 128 + c * 16, slot >= 0);
  };
  auto load_scale = [&](i32 slots, int i) {
    i32 slot = __shfl_sync(~0u, slots, 4 * i + sub);
    ahead[i] = slot >= 0 ? __ldg((const float*)(record(slot, i) + LATENT) + (c & 3)) : 0.0f;
  };
#pragma unroll
  for (int i = 0; i < 4; i++) {
    load_scale(keys.slot, i);
#pragma unroll
    for (int g = 0; g < 4; g++) load(keys.slot, i, g);
  }
  for (i32 block = w.begin; block < w.end; block++) {
    i32 n = block - w.begin;
    int buffer = n & 1;
    u32 parity = (u32)(n >> 1 & 1) ^ 1;
    u32 k = base + buffer * TILE;
#pragma unroll
    for (int i = 0; i < 4; i++) scales[i] = ahead[i];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      barrier_wait(&s->empty[buffer][half], parity);
      if (half == 0) {
        publish_mask(s, buffer, warp, lane, keys.slot);
      } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          i32 slot = __shfl_sync(~0u, keys.slot, 4 * i + sub);
          copy16(k + (rope ^ (i & 1) << 6) + i * 512, record(max(slot, 0), i) + LATENT + 16 + c * 16, slot >= 0);
        }
        cp_async_arrive(&s->full[buffer][1]);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int g = 2 * half; g < 2 * half + 2; g++) {
          float scale = __shfl_sync(~0u, scales[i], (lane & 24) | g);
          uint4 v = raw[4 * i + g];
          if (c >= 4) v = make_uint4(v.z, v.w, v.x, v.y);
          u32 e[8] = {expand2<0>(v.x), expand2<1>(v.x), expand2<0>(v.y), expand2<1>(v.y),
                      expand2<0>(v.z), expand2<1>(v.z), expand2<0>(v.w), expand2<1>(v.w)};
          // Scales over 2^7 times 2^120 are out of range: in two steps.
          u32 power = power_bf16(fminf(scale, 128.0f) * __uint_as_float((127 + 120) << 23));
#pragma unroll
          for (int x = 0; x < 8; x++) e[x] = multiply_bf16(e[x], power);
          if (__any_sync(~0u, scale > 128.0f)) {
            power = power_bf16(fmaxf(scale * 0.0078125f, 1.0f));
#pragma unroll
            for (int x = 0; x < 8; x++) e[x] = multiply_bf16(e[x], power);
          }
          u32 dst = k + (first ^ (i & 1) << 6) + i * 512 + 2 * g * PANEL;
          store16(dst, e[0], e[1], e[2], e[3]);
          store16(dst ^ 16, e[4], e[5], e[6], e[7]);
          // The registers are free for the same codes of the next block.
          load(keys.next, i, g);
          if (g == 0) load_scale(keys.next, i);
        }
      }
      fence_async();
      __syncwarp();
      if (lane == 0) barrier_arrive(&s->full[buffer][half]);
    }
    keys.step(p, w, block, lane_key);
  }
}

#else

DEVICE void produce(const Params& p, const Work& w, Shared* s) {
  int warp = warp_id() & 3, lane = lane_id(), sub = lane >> 3, c = lane & 7, lane_key = warp * 16 + (lane & 15);
  Keys keys;
  keys.start(p, w, lane_key);
  u32 base = smem_addr(s->k[0]);
  u32 offset = (u32)((c ^ sub) << 4) + (u32)(warp * 16 + sub) * 128;
  for (i32 block = w.begin; block < w.end; block++) {
    i32 n = block - w.begin;
    int buffer = n & 1;
    u32 parity = (u32)(n >> 1 & 1) ^ 1;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      barrier_wait(&s->empty[buffer][half], parity);
      if (half == 0) publish_mask(s, buffer, warp, lane, keys.slot);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        i32 slot = __shfl_sync(~0u, keys.slot, 4 * i + sub);
        const u8* src = p.cache + (i64)max(slot, 0) * RECORD + c * 16;
        u32 dst = base + buffer * TILE + (offset ^ (i & 1) << 6) + i * 512;
#pragma unroll
        for (int panel = 4 * half; panel < (half ? 9 : 4); panel++) {
          copy16(dst + panel * PANEL, src + panel * 128, slot >= 0);
        }
      }
      cp_async_arrive(&s->full[buffer][half]);
      if (half == 0 && lane == 0) barrier_arrive(&s->full[buffer][0]);
    }
    keys.step(p, w, block, lane_key);
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

// State is what a thread keeps for its rows lane/4 and lane/4+8 of its warp's 16.
struct State {
  float max[2] = {NEG_INF, NEG_INF};  // scaled
  float sum[2] = {0.0f, 0.0f};        // of the group's own key blocks, of this thread's columns
};

DEVICE void rescale(float (&o)[128], float f0, float f1) {
  if (__any_sync(~0u, f0 != 1.0f || f1 != 1.0f)) {
#pragma unroll
    for (int i = 0; i < 128; i += 4) {
      o[i] *= f0;
      o[i + 1] *= f0;
      o[i + 2] *= f1;
      o[i + 3] *= f1;
    }
  }
}

// weigh turns scores into weights, as the fragments of P, and moves the
// maximum. f returns the factors for what was summed before.
DEVICE void weigh(float (&s)[32], u32 (&frag)[4][4], State& st, float (&f)[2], float scale, const u16* valid) {
  int q = lane_id() & 3;
  u64 mask = *(const u64*)valid;
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
DEVICE void take_over(Shared* s, float (&o)[128], State& st, int barrier) {
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
DEVICE void issue_values(float (&o)[128], const u32 (&frag)[4][4], u64 v) {
#pragma unroll
  for (int k = 0; k < 4; k++) wgmma_bf16_rs<1>(o, frag[k], desc_step(v, k * 2048), true);
}
DEVICE void issue_values(float (&o)[128], u64 p, u64 v) {
#pragma unroll
  for (int k = 0; k < 4; k++) wgmma_bf16_ss<1>(o, desc_step(p, k * 32), desc_step(v, k * 2048), true);
}

DEVICE void release(Barrier* b) {
  if (lane_id() == 0) barrier_arrive(b);
}

// store writes the group's half of z (or of the split's part) and the lse.
template <int GROUP>
DEVICE void store(const Params& p, const Work& w, Shared* s, float (&o)[128], State& st) {
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
        *(float2*)(dst + 8 * i) = make_float2(o[4 * i + 2 * r] * inverse[r], o[4 * i + 2 * r + 1] * inverse[r]);
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
          pack_bf16(o[4 * i + 2 * r] * inverse[r], o[4 * i + 2 * r + 1] * inverse[r]);
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
DEVICE void own_values(float (&o)[128], const u32 (&frag)[4][4], const float (&f)[2], u64 v, Barrier* done) {
  rescale(o, f[0], f[1]);
  wgmma_keep(o);
  wgmma_fence();
  issue_values(o, frag, v);
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_keep(o);
  release(done);
}

template <int GROUP>
DEVICE void consume(const Params& p, const Work& w, Shared* s) {
  float o[128];
#pragma unroll
  for (int i = 0; i < 128; i++) o[i] = 0.0f;
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
    if (GROUP == 0) {
      start_scores(s, scores, q, k, 0, parity);
      wgmma_wait<0>();
      wgmma_keep(scores);
      weigh(scores, frag, st, f, p.scale, s->valid[0]);
      hand_over(s, frag, st, f, P_READY);
      own_values(o, frag, f, own, &s->empty[0][0]);
      if (j + 1 < n) {
        take_over(s, o, st, P_READY + 4);
        wgmma_keep(o);
        wgmma_fence();
        issue_values(o, pd, other);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_keep(o);
        release(&s->empty[1][0]);
      }
    } else if (j + 1 < n) {
      start_scores(s, scores, q, k, 1, parity);
      wgmma_wait<0>();
      wgmma_keep(scores);
      take_over(s, o, st, P_READY);
      wgmma_keep(o);
      wgmma_fence();
      issue_values(o, pd, other);
      wgmma_commit();
      weigh(scores, frag, st, f, p.scale, s->valid[1]);
      wgmma_wait<0>();
      wgmma_keep(o);
      release(&s->empty[0][1]);
      hand_over(s, frag, st, f, P_READY + 4);
      own_values(o, frag, f, own, &s->empty[1][1]);
    } else {
      take_over(s, o, st, P_READY);
      wgmma_keep(o);
      wgmma_fence();
      issue_values(o, pd, other);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_keep(o);
    }
  }
  store<GROUP>(p, w, s, o, st);
}

KERNEL __launch_bounds__(384, 1) mla(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared* s = (Shared*)memory;
  Work w = work_of(p);
  if (threadIdx.x == 0) {
    for (int b = 0; b < 2; b++) {
      barrier_init(&s->full[b][0], CACHE_F8 ? 4 : 132);
      barrier_init(&s->full[b][1], CACHE_F8 ? 132 : 128);
      for (int half = 0; half < 2; half++) barrier_init(&s->empty[b][half], 4);
    }
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x >= 256) {
    register_dealloc<PRODUCER_REGISTERS>();
    produce(p, w, s);
  } else {
    register_alloc<CONSUMER_REGISTERS>();
    if (threadIdx.x < 128)
      consume<0>(p, w, s);
    else
      consume<1>(p, w, s);
  }
}
