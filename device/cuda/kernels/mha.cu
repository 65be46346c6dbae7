// Multi-head attention over expanded keys on Hopper's matrix unit, for fixed
// head sizes DN (keys without rope), DR = 64 (rope) and DV (values); SELECT 1
// is the variant that attends only to the keys of a selection mask. Any other
// size is mha_generic.cu's.
//
//   q     bf16 [T, H, DN+DR]
//   kv    bf16 [keys, H, DN | DV], read in place
//   rope  bf16 [keys, DR], one panel for all heads
//   out   bf16 [T, H, DV], lse f32 [T, H] (natural logarithm)
//
// A work item is a block of 128 query rows and a head. The grid is as large as
// the machine; its blocks draw items, longest first, from a counter. Of a block's
// three warp groups one copies queries, keys and values to shared memory, two
// compute, 64 rows each: while the scores of key tile j-1 and the values of tile
// j are in the matrix unit, only the scores are waited for, so that the softmax of
// j-1 runs under the values of j. Tiles are visited from the last one leftwards.
// Copies run ahead into the next item; queries move on to registers, where there
// is room for them, so that their buffer is free for the next item's.
//
//latent:unit mha_128 hot DN=128 DV=128 SELECT=0
//latent:unit mha_128_select hot DN=128 DV=128 SELECT=1
//latent:unit mha_192 hot DN=192 DV=256 SELECT=0
//latent:unit mha_192_select hot DN=192 DV=256 SELECT=1
#include "mha.cuh"

static constexpr int DR = 64, HEAD = DN + DR;
static constexpr int ROWS = 128, GROUP_ROWS = 64;
static constexpr int TILE = DV > 128 ? 64 : 128;  // keys
static constexpr int STAGES = 2;
static constexpr bool Q_REGISTERS = DV <= 128;

// Everything in shared memory is in panels of 64 columns, rows of 128 bytes.
static constexpr int Q_PANEL = ROWS * 128, KV_PANEL = TILE * 128;
static constexpr int Q_BYTES = HEAD / 64 * Q_PANEL;
static constexpr int K_BYTES = HEAD / 64 * KV_PANEL;
static constexpr int V_BYTES = DV / 64 * KV_PANEL;

struct Params {
  TensorMap q;     // {DN+DR, H, T}, boxes of {64, 1, 128}
  TensorMap kv;    // {DN+DV, H, keys}, boxes of {64, 1, TILE}
  TensorMap rope;  // {DR, keys}, boxes of {64, TILE}
  bf16* out;
  float* lse;
  const u32* mask;         // rows of pitch words
  const i32* items;        // [count] block*heads + head, longest first
  const MhaBlock* blocks;
  u32* ticket;             // items drawn beyond the first two of each block; 0 before and after
  i32 count, heads, pitch;
  float scale;
};

struct Item {
  MhaBlock block;
  i32 head;   // -1: no more work
  i32 tiles;  // of keys
  i32 key;    // of the expansion, the first of the last tile
};

struct Shared {
  Barrier item_full[2], item_empty[2];
  Barrier q_full, q_empty;
  Barrier k_full[STAGES], k_empty[STAGES];
  Barrier v_full[STAGES], v_empty[STAGES];
  Item item[2];
};

static constexpr int SHARED_BYTES = 1024 + Q_BYTES + STAGES * (K_BYTES + V_BYTES) + sizeof(Shared);
static_assert(SHARED_BYTES <= 232448, "shared memory of a block");

// Stage is a position in a ring of two buffers.
struct Stage {
  u32 count = 0;
  DEVICE int slot() const { return count & 1; }
  DEVICE u32 parity() const { return count >> 1 & 1; }
};

// tile_base is the position of the first key of the block's first tile. With a
// mask it is aligned to tiles, so that a tile is one word of the mask or half
// of one; keys before `from` are then masked.
DEVICE int tile_base(const MhaBlock& b) { return SELECT ? b.from & -TILE : b.from; }

// tiles_until is the number of tiles that the rows before `row` of the block
// see.
DEVICE int tiles_until(const MhaBlock& b, int row) {
  int to = min(b.to, b.pos + row);
  return to <= b.from ? 0 : (to - tile_base(b) + TILE - 1) / TILE;
}

// ---- copies ----

// schedule is run by one thread: it draws items and copies their queries. It is
// two items ahead of the computing groups: the first two items of a block are
// therefore fixed, and mha.go pairs long ones with short ones.
DEVICE void schedule(const Params& p, Shared& sh, u8* q) {
  prefetch_map(&p.q);
  u32 queries = 0;
  u32 next = blockIdx.x;
  for (u32 n = 0;; n++) {
    Item& item = sh.item[n & 1];
    barrier_wait(&sh.item_empty[n & 1], n >> 1 & 1 ^ 1);
    if (next >= p.count) {
      item.head = -1;
      barrier_arrive(&sh.item_full[n & 1]);
      return;
    }
    const i32 at = __ldg(p.items + next);
    const i32 block = at / p.heads, head = at - block * p.heads;
    const int4* source = (const int4*)(p.blocks + block);
    const int4 lo = __ldg(source), hi = __ldg(source + 1);
    const MhaBlock b = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
    const int tiles = tiles_until(b, b.rows);
    item = {b, head, tiles, b.keys - (b.from - tile_base(b)) + (tiles - 1) * TILE};
    barrier_arrive(&sh.item_full[n & 1]);
    if (tiles > 0) {
      barrier_wait(&sh.q_empty, queries++ & 1 ^ 1);
      barrier_expect(&sh.q_full, Q_BYTES);
#pragma unroll
      for (int i = 0; i < HEAD / 64; i++)
        tma_load_3d(q + i * Q_PANEL, &p.q, &sh.q_full, 64 * i, head, b.row, EVICT_FIRST);
    }
    if (n == 0) {
      next += gridDim.x;
    } else {
      u32 drawn = atomicAdd(p.ticket, 1);
      next = 2 * gridDim.x + drawn;
      // The last draw of all: every block that drew has found no more.
      if (drawn + 1 + gridDim.x == p.count) *p.ticket = 0;
    }
  }
}

// load is run by one thread: it copies keys and values, of item after item as
// one stream. Keys go one tile ahead of values, the order in which they are
// consumed.
DEVICE void load(const Params& p, Shared& sh, u8* k, u8* v) {
  prefetch_map(&p.kv);
  prefetch_map(&p.rope);
  Stage s;                      // of keys; values follow
  i32 value_head = -1, value_key;  // of the tile whose values come next
  auto load_values = [&] {
    if (value_head < 0) return;
    Stage at{s.count - 1};
    Barrier* full = &sh.v_full[at.slot()];
    barrier_wait(&sh.v_empty[at.slot()], at.parity() ^ 1);
    barrier_expect(full, V_BYTES);
#pragma unroll
    for (int i = 0; i < DV / 64; i++)
      tma_load_3d(v + at.slot() * V_BYTES + i * KV_PANEL, &p.kv, full, DN + 64 * i, value_head, value_key);
  };
  for (u32 n = 0;; n++) {
    barrier_wait(&sh.item_full[n & 1], n >> 1 & 1);
    const i32 head = sh.item[n & 1].head, tiles = sh.item[n & 1].tiles;
    i32 key = sh.item[n & 1].key;
    if (head < 0) break;
    if (tiles == 0) {  // do not keep values waiting for keys that may be far away
      load_values();
      value_head = -1;
    }
    barrier_arrive(&sh.item_empty[n & 1]);
    for (int j = 0; j < tiles; j++, key -= TILE) {
      Barrier* full = &sh.k_full[s.slot()];
      barrier_wait(&sh.k_empty[s.slot()], s.parity() ^ 1);
      barrier_expect(full, K_BYTES);
#pragma unroll
      for (int i = 0; i < DN / 64; i++)
        tma_load_3d(k + s.slot() * K_BYTES + i * KV_PANEL, &p.kv, full, 64 * i, head, key);
      tma_load_2d(k + s.slot() * K_BYTES + DN / 64 * KV_PANEL, &p.rope, full, 0, key);
      load_values();
      value_head = head, value_key = key;
      s.count++;
    }
  }
  load_values();
}

// ---- softmax ----

// State is the running softmax of a thread's two rows, r and r+8 of its warp's
// 16. Scores are raw; top is finite from the start, so that rows without keys
// need no care: their exponentials are those of -inf.
struct State {
  float top[2], sum[2], factor[2];
};
static constexpr float NO_SCORE = -1e30f;

// softmax turns scores into exp(scale·(score − top)) with the new top, adds
// them to the sum, and leaves in factor what earlier sums are to be multiplied
// with. The sum is the thread's own part; the row's four threads share top.
DEVICE void softmax(float (&s)[TILE / 2], State& st, float scale2) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float a = st.top[h], b = NO_SCORE;
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) {
      a = fmaxf(a, s[4 * i + 2 * h]);
      b = fmaxf(b, s[4 * i + 2 * h + 1]);
    }
    float top = fmaxf(a, b);
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    st.factor[h] = exp2_fast((st.top[h] - top) * scale2);
    st.top[h] = top;
    float base = top * scale2, sum0 = 0, sum1 = 0;
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) {
      float& x = s[4 * i + 2 * h];
      float& y = s[4 * i + 2 * h + 1];
      x = exp2_fast(fmaf(x, scale2, -base));
      y = exp2_fast(fmaf(y, scale2, -base));
      sum0 += x;
      sum1 += y;
    }
    st.sum[h] = fmaf(st.sum[h], st.factor[h], sum0 + sum1);
  }
}

// below is the mask word of the tile's keys before n, for the thread's columns.
DEVICE u32 below(int n) {
  n = min(max(n, 0), TILE);
  int bits = n / 8 * 2 + min(max(n % 8 - lane_id() % 4 * 2, 0), 2);
  return bits >= 32 ? ~0u : (1u << bits) - 1;
}

// keep_bits sets the scores of a row (h 0) or of the row 8 further (h 1) to
// -inf where the word has no bit.
template <int h>
DEVICE void keep_bits(float (&s)[TILE / 2], u32 word) {
#pragma unroll
  for (int i = 0; i < TILE / 8; i++) {
#pragma unroll
    for (int b = 0; b < 2; b++) {
      float& x = s[4 * i + 2 * h + b];
      x = word >> (2 * i + b) & 1 ? x : NEG_INF;
    }
  }
}

// release tells the producer that this warp no longer needs a buffer.
DEVICE void release(Barrier* empty) {
  if (lane_id() == 0) barrier_arrive(empty);
}

// ---- matrix products ----

// Queries are a group's 64 query rows as an operand: in registers or, as a
// descriptor, in shared memory.
struct Queries {
  u32 w[Q_REGISTERS ? HEAD / 16 : 1][4];
  u64 desc;
};

// load_queries moves 16 rows, from `row` on, to a warp's registers.
DEVICE void load_queries(Queries& q, const u8* buffer, int row) {
  const int lane = lane_id();
#pragma unroll
  for (int i = 0; i < HEAD / 16; i++) {
    u32 at = smem_addr(buffer + i / 4 * Q_PANEL) + swizzle128(row + lane % 16, i % 4 * 32 + lane / 16 * 16);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(q.w[i][0]), "=r"(q.w[i][1]), "=r"(q.w[i][2]), "=r"(q.w[i][3])
                 : "r"(at)
                 : "memory");
  }
}

// begin_scores starts s = q·kᵀ, 64 rows by TILE keys.
DEVICE void begin_scores(float (&s)[TILE / 2], const Queries& q, u64 k) {
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < HEAD / 16; i++) {
    u64 b = desc_step(k, i / 4 * KV_PANEL + i % 4 * 32);
    if (Q_REGISTERS) wgmma_bf16_rs(s, q.w[i], b, i > 0);
    else wgmma_bf16_ss(s, desc_step(q.desc, i / 4 * Q_PANEL + i % 4 * 32), b, i > 0);
  }
  wgmma_commit();
}

// begin_values starts o += w·v, 64 rows by DV columns; weights come from
// registers.
DEVICE void begin_values(float (&o)[DV / 2], const u32 (&w)[TILE / 16][4], u64 v) {
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < TILE / 16; i++) wgmma_bf16_rs<1>(o, w[i], desc_step(v, i * 16 * 128), true);
  wgmma_commit();
}

// to_weights rounds exponentials to the operand of begin_values.
DEVICE void to_weights(u32 (&w)[TILE / 16][4], const float (&s)[TILE / 2]) {
#pragma unroll
  for (int i = 0; i < TILE / 4; i++) w[i / 4][i % 4] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

// keep_weights holds operands in their registers up to here.
DEVICE void keep_weights(u32 (&w)[TILE / 16][4]) {
#pragma unroll
  for (int i = 0; i < TILE / 4; i++) asm volatile("" : "+r"(w[i / 4][i % 4])::"memory");
}

// ---- computing warp groups ----

// uniform makes a value that is the same in all lanes of a warp so in the
// compiler's eyes: descriptors, loops and barriers then cost no vector registers.
DEVICE i32 uniform(i32 x) { return __shfl_sync(~0u, x, 0); }

// take_item reads the producer's next item.
DEVICE Item take_item(Shared& sh, u32 n) {
  barrier_wait(&sh.item_full[n & 1], n >> 1 & 1);
  const Item& w = sh.item[n & 1];
  const MhaBlock& b = w.block;
  Item u{{uniform(b.row), uniform(b.rows), uniform(b.pos), uniform(b.from), uniform(b.to), uniform(b.keys), uniform(b.sel)},
         uniform(w.head), uniform(w.tiles)};
  release(&sh.item_empty[n & 1]);
  return u;
}

// clear_values writes zeros to the rows of a value tile outside [from, to): a
// weight of zero does not remove a NaN, and nobody has written those rows. Both
// groups do it, each for itself.
DEVICE void clear_values(u8* v, int group, int from, int to) {
  int thread = threadIdx.x % 128;
  for (int i = thread; i < V_BYTES / 16; i += 128) {
    int row = i / 8 % TILE;
    if (row < from || row >= to) *(int4*)(v + i * 16) = make_int4(0, 0, 0, 0);
  }
  fence_async();
  named_sync(1 + group, 128);
}

// transpose_quad exchanges x[j] of the thread with lane%4 = i for x[i] of the
// thread with lane%4 = j.
DEVICE void transpose_quad(u32 (&x)[4]) {
#pragma unroll
  for (int d = 1; d <= 2; d *= 2) {
    bool up = lane_id() & d;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (i & d) continue;
      u32 other = __shfl_xor_sync(~0u, up ? x[i] : x[i + d], d);
      x[i] = up ? other : x[i];
      x[i + d] = up ? x[i + d] : other;
    }
  }
}

// finish writes the thread's two rows. Threads of a row exchange values so that
// each stores 16 bytes at a time.
DEVICE void finish(const Params& p, const Item& w, int row, const float (&o)[DV / 2], const State& st) {
  int t = lane_id() % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float sum = st.sum[h];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    float norm = sum == 0 ? 0 : 1 / sum;
    int r = row + 8 * h;
    i64 at = (i64)(w.block.row + r) * p.heads + w.head;
    bool mine = r < w.block.rows;
    if (mine && t == 0) p.lse[at] = sum == 0 ? NEG_INF : st.top[h] * p.scale + __logf(sum);
#pragma unroll
    for (int i = 0; i < DV / 8; i += 4) {
      u32 x[4];
#pragma unroll
      for (int j = 0; j < 4; j++)
        x[j] = pack_bf16(o[4 * (i + j) + 2 * h] * norm, o[4 * (i + j) + 2 * h + 1] * norm);
      transpose_quad(x);
      if (mine) *(uint4*)(p.out + at * DV + 8 * (i + t)) = make_uint4(x[0], x[1], x[2], x[3]);
    }
  }
}

// Rows is what masking needs to know of the rows of a thread.
struct Rows {
  int base;            // position of the first key of tile 0
  int from;            // first visible key, from base on
  int limit[2];        // first key that the row does not see, from base on
  const u32* mask[2];  // the rows' words of the thread
};

DEVICE void load_mask(u32 (&word)[2], const Rows& r, int tile) {
  if (!SELECT) return;
  int pos = r.base + tile * TILE;
#pragma unroll
  for (int h = 0; h < 2; h++) word[h] = __ldg(r.mask[h] + pos / MASK_KEYS * MASK_WORDS);
  if (TILE < MASK_KEYS && pos & TILE) word[0] >>= 16, word[1] >>= 16;
}

// apply_mask removes what the rows do not see of a tile.
DEVICE void apply_mask(float (&s)[TILE / 2], const u32 (&word)[2], const Rows& r, int tile) {
  u32 bits[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    bits[h] = below(r.limit[h] - tile * TILE);
    if (SELECT) bits[h] &= word[h] & ~below(r.from - tile * TILE);
  }
  keep_bits<0>(s, bits[0]);
  keep_bits<1>(s, bits[1]);
}

DEVICE void compute(const Params& p, Shared& sh, u8* q, u8* k, u8* v, int group) {
  const int row = group * GROUP_ROWS + warp_id() % 4 * 16 + lane_id() / 4;  // and row+8
  const float scale2 = p.scale * LOG2E;
  Queries queries;
  queries.desc = smem_desc(q + group * GROUP_ROWS * 128);
  const u64 k_desc = smem_desc(k), v_desc = smem_desc(v, 1024, KV_PANEL);
  float s[TILE / 2], o[DV / 2];
  u32 weights[TILE / 16][4];
  State st;
  Stage c;  // of the tile whose scores come next
  u32 loads = 0;  // of queries

  for (u32 n = 0;; n++) {
    const Item w = take_item(sh, n);
    if (w.head < 0) return;
    const MhaBlock& b = w.block;
    const int base = tile_base(b);
    // What this group's rows see; tiles to the right are the other group's.
    const int first = group * GROUP_ROWS;
    const int mine = first < b.rows ? tiles_until(b, min(first + GROUP_ROWS, b.rows)) : 0;
    // Tiles before `whole` are seen by all rows of the group.
    const int whole = SELECT ? 0 : max(0, min(b.to, b.pos + first + 1) - base) / TILE;
    Rows r;
    r.base = base, r.from = b.from - base;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      r.limit[h] = min(b.to, b.pos + row + 8 * h + 1) - base;
      if (SELECT) r.mask[h] = p.mask + (i64)(b.sel + min(row + 8 * h, b.rows - 1)) * p.pitch + lane_id() % 4;
      st.top[h] = NO_SCORE, st.sum[h] = 0, st.factor[h] = 1;
    }
#pragma unroll
    for (int i = 0; i < DV / 2; i++) o[i] = 0;

    // start_values starts the values of the tile before c.
    auto start_values = [&] {
      Stage at{c.count - 1};
#pragma unroll
      for (int i = 0; i < DV / 2; i++) o[i] *= st.factor[i / 2 % 2];
      barrier_wait(&sh.v_full[at.slot()], at.parity());
      begin_values(o, weights, desc_step(v_desc, at.slot() * V_BYTES));
    };
    auto wait_values = [&](Stage at) {
      wgmma_wait<0>();
      wgmma_keep(o);
      keep_weights(weights);
      release(&sh.v_empty[at.slot()]);
    };
    // step takes the scores of tile j, whose keys have arrived, under the values
    // of tile j+1. The wait for the next keys also keeps the assembler from
    // moving the wait for the values up before the exponentials.
    auto step = [&](int j, bool masked) {
      u32 word[2];
      if (masked) load_mask(word, r, j);
      begin_scores(s, queries, desc_step(k_desc, c.slot() * K_BYTES));
      start_values();
      wgmma_wait<1>();
      wgmma_keep(s);
      release(&sh.k_empty[c.slot()]);
      if (!Q_REGISTERS && j == 0) release(&sh.q_empty);
      if (masked) apply_mask(s, word, r, j);
      softmax(s, st, scale2);
      wgmma_keep(s);
      c.count++;
      if (j > 0) barrier_wait(&sh.k_full[c.slot()], c.parity());
      wait_values({c.count - 2});
      to_weights(weights, s);
    };

    if (w.tiles > 0) {
      barrier_wait(&sh.q_full, loads++ & 1);
      if (Q_REGISTERS) load_queries(queries, q, first + warp_id() % 4 * 16);
    }
    // Tiles that only the other group sees. With rows to compute there is one at
    // most, and its values may wait; without, values must go as keys do, or the
    // producer would never come to the next keys.
    Stage passed = c;
    for (int j = w.tiles; j > mine; j--, c.count++) {
      barrier_wait(&sh.k_full[c.slot()], c.parity());
      release(&sh.k_empty[c.slot()]);
      if (mine > 0) continue;
      barrier_wait(&sh.v_full[c.slot()], c.parity());
      release(&sh.v_empty[c.slot()]);
      passed.count++;
    }
    int j = mine - 1;
    if (mine > 0) {
      u32 word[2];
      load_mask(word, r, j);
      barrier_wait(&sh.k_full[c.slot()], c.parity());
      begin_scores(s, queries, desc_step(k_desc, c.slot() * K_BYTES));
      wgmma_wait<0>();
      wgmma_keep(s);
      release(&sh.k_empty[c.slot()]);
      // Queries have arrived in registers only now that a product has used them.
      if (Q_REGISTERS || j == 0) release(&sh.q_empty);
      apply_mask(s, word, r, j);
      softmax(s, st, scale2);
      to_weights(weights, s);
    } else if (w.tiles > 0) {
      release(&sh.q_empty);
    }
    for (; passed.count < c.count; passed.count++) {
      barrier_wait(&sh.v_full[passed.slot()], passed.parity());
      release(&sh.v_empty[passed.slot()]);
    }
    if (mine > 0) {
      int end = b.to - base - j * TILE;  // of the keys that have been expanded
      if (end < TILE) {
        barrier_wait(&sh.v_full[c.slot()], c.parity());
        clear_values(v + c.slot() * V_BYTES, group, 0, end);
      }
      c.count++;
      if (j > 0) barrier_wait(&sh.k_full[c.slot()], c.parity());
      for (j--; j >= whole; j--) step(j, true);
      if (!SELECT) {
        for (; j >= 0; j--) step(j, false);
      }
      Stage at{c.count - 1};
      if (SELECT && r.from > 0) {
        barrier_wait(&sh.v_full[at.slot()], at.parity());
        clear_values(v + at.slot() * V_BYTES, group, r.from, TILE);
      }
      start_values();
      wait_values(at);
    }
    finish(p, w, row, o, st);
  }
}

extern "C" __global__ void __launch_bounds__(384, 1) mha(const __grid_constant__ Params p) {
  extern __shared__ u8 raw[];
  u8* q = (u8*)(((u64)raw + 1023) & ~1023ull);
  u8* k = q + Q_BYTES;
  u8* v = k + STAGES * K_BYTES;
  Shared& sh = *(Shared*)(v + STAGES * V_BYTES);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; i++) {
      barrier_init(&sh.item_full[i], 1);
      barrier_init(&sh.item_empty[i], 9);
    }
    barrier_init(&sh.q_full, 1);
    barrier_init(&sh.q_empty, 8);
    for (int i = 0; i < STAGES; i++) {
      barrier_init(&sh.k_full[i], 1);
      barrier_init(&sh.k_empty[i], 8);
      barrier_init(&sh.v_full[i], 1);
      barrier_init(&sh.v_empty[i], 8);
    }
    barrier_init_done();
  }
  __syncthreads();
  int group = warp_id() / 4;
  if (group == 0) {
    register_dealloc<24>();
    if (warp_id() == 0 && elect_one()) load(p, sh, k, v);
    if (warp_id() == 1 && elect_one()) schedule(p, sh, q);
  } else {
    register_alloc<240>();
    compute(p, sh, q, k, v, group - 1);
  }
}
