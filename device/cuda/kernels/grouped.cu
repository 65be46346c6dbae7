// Grouped expert products on tensor cores, for weights in bf16 (F8=0) or in
// e4m3 with 128x128 scales (F8=1): for every expert, its weights [outputs, k]
// times the rows of the tokens that chose it. grouped_gated is the first
// product of an expert, with SwiGLU (and the rounding to e4m3) behind it;
// grouped_plain is the second.
// Not here: which token goes where (moe.cu), other dimensions (moe_generic.cu).
//
// A tile is 256 outputs by up to 128 tokens. Up to 64 tokens are the N side of
// the product and the weights its M side, so that N follows the number of tokens
// and one token costs little more than streaming the weights ("few"). More than
// 64 are the M side and the weights the N side ("many"): scales of tokens then
// belong to rows, which takes half of the instructions for adding up e4m3.
//
// weights  [E, outputs, k]; gated: groups of 8 gate rows and the same 8 up rows
//          alternate, so that both land in one thread
// tokens   [rows, k], sorted by expert, those of an expert from a multiple of 4
// scales   F8: f32 [k/128, pitch], one for each row and 128 inputs
// out      gated: [rows, inner] in the type of tokens, F8 with outScales;
//          plain: bf16 [rows, outPitch], columns from outFirst on
//
// One producer warp loads for two warp groups, which multiply: of few tokens 128
// outputs each, of many 64 tokens each.
//
//latent:unit grouped_bf16 hot F8=0
//latent:unit grouped_f8 hot F8=1

static constexpr int OUTPUTS = 256;  // of a tile
static constexpr int TOKENS = 128;   // of a tile, at most
static constexpr int BOX = 16;       // tokens of one copy
static constexpr int STAGES = 4;
static constexpr int ROW = 128;  // bytes of a row in a stage
static constexpr int K_BLOCK = F8 ? 128 : 64;
static constexpr int CONSUMERS = 256;
static constexpr int HALF = 64;           // tokens of a panel; where few ends
static constexpr int PANEL = HALF * ROW;  // [64 tokens][64 outputs] of bf16, swizzled, on the way out

struct GroupedParams {
  TensorMap weights;           // {k, outputs, E}, box {K_BLOCK, OUTPUTS, 1}
  TensorMap tokens;            // {k, rows}, box {K_BLOCK, BOX}
  TensorMap scales;            // F8: {rows, k/128}, box {TOKENS, 1}
  const int4* tiles;           // see Tile
  const i32* count;            // of tiles
  const float2* weightScales;  // F8: [E, outputs/256, k/128]; gated: of gate and up; plain: of the two 128 rows
  void* out;
  float* outScales;  // F8 and gated: [inner/128, scalePitch]
  i32 kBlocks;
  i32 blocks;       // tiles of OUTPUTS that this launch computes, from firstBlock on
  i32 firstBlock;
  i32 scaleBlocks;  // tiles of OUTPUTS in weightScales
  i32 outputs;      // columns of out that exist: inner, or those of the weights
  i32 outFirst;     // column of the weights in column 0 of out
  i32 outPitch;     // elements
  i32 scalePitch;
};

struct alignas(1024) Shared {
  u8 weights[STAGES][OUTPUTS * ROW];
  u8 tokens[STAGES][TOKENS * ROW];
  u8 out[2][2][PANEL];  // two panels of each warp group, written by that only
#if F8
  float scales[STAGES][TOKENS];
#endif
  Barrier full[STAGES], empty[STAGES];
};
static_assert(sizeof(Shared) <= 232448, "shared memory of a multiprocessor");

// Tile is one piece of work. The list of moe_route has one entry for each tile
// of tokens, {expert, first row, rows, first tile} of a group of tiles of the
// same expert. Within a group the tiles of tokens run fastest: those that share
// weights are computed at the same time.
struct Tile {
  i32 expert, row, rows, block;
};

DEVICE Tile tile_of(const GroupedParams& p, i32 item) {
  int4 g = p.tiles[item / p.blocks];
  i32 local = item - g.w * p.blocks;
  i32 count = (g.z + TOKENS - 1) / TOKENS;
  i32 block = local / count, t = local - block * count;
  return {g.x, g.y + t * TOKENS, min(TOKENS, g.z - t * TOKENS), p.firstBlock + block};
}

// ---- producer ----

DEVICE void produce(const GroupedParams& p, Shared& s, i32 items) {
  u32 step = 0;
  for (i32 item = blockIdx.x; item < items; item += gridDim.x) {
    Tile t = tile_of(p, item);
    int boxes = (t.rows + BOX - 1) / BOX;
    u32 bytes = OUTPUTS * ROW + boxes * BOX * ROW + F8 * TOKENS * sizeof(float);
    for (int kb = 0; kb < p.kBlocks; kb++, step++) {
      u32 stage = step % STAGES;
      Barrier* full = &s.full[stage];
      barrier_wait(&s.empty[stage], (step / STAGES & 1) ^ 1);
      barrier_expect(full, bytes);
      tma_load_3d(s.weights[stage], &p.weights, full, kb * K_BLOCK, t.block * OUTPUTS, t.expert);
      for (int i = 0; i < boxes; i++)
        tma_load_2d(s.tokens[stage] + i * BOX * ROW, &p.tokens, full, kb * K_BLOCK, t.row + i * BOX);
#if F8
      tma_load_2d(s.scales[stage], &p.scales, full, t.row, kb);
#endif
    }
  }
}

// ---- products ----

// multiply_stage adds the four k steps of 32 bytes of a stage to d [64, N]: rows
// of a times rows of b.
template <int N>
DEVICE void multiply_stage(float (&d)[N / 2], u64 a, u64 b, bool accumulate) {
#pragma unroll
  for (int k = 0; k < 4; k++) {
#if F8
    wgmma_e4m3_ss(d, desc_step(a, 32 * k), desc_step(b, 32 * k), accumulate || k > 0);
#else
    wgmma_bf16_ss(d, desc_step(a, 32 * k), desc_step(b, 32 * k), accumulate || k > 0);
#endif
  }
}

// release gives a stage back once the whole warp is done with it.
DEVICE void release(Shared& s, u32 stage) {
  __syncwarp();
  if (lane_id() == 0) barrier_arrive(&s.empty[stage]);
}

// Operands are the rows of a stage that a warp group multiplies: its two products
// are first·rest, for few tokens with 64 outputs more in first, for many with 128
// outputs more in rest.
template <bool MANY>
struct Operands {
  u64 weights, tokens;
  DEVICE Operands(Shared& s, u32 stage, int group)
      : weights(smem_desc(s.weights[stage] + (MANY ? 0 : group * 128 * ROW))),
        tokens(smem_desc(s.tokens[stage] + (MANY ? group * HALF * ROW : 0))) {}
  DEVICE u64 a(int h) const { return MANY ? tokens : desc_step(weights, h * 64 * ROW); }
  DEVICE u64 b(int h) const { return MANY ? desc_step(weights, h * 128 * ROW) : tokens; }
};

#if F8

// promote_few adds part [64 outputs, N tokens], scaled, to acc. scales is that
// of the thread's first token; low belongs to rows l/4, high to rows l/4 + 8.
template <int N>
DEVICE void promote_few(float (&acc)[N / 2], const float (&part)[N / 2], const float* scales, float low, float high) {
#pragma unroll
  for (int i = 0; i < N / 8; i++) {
    float2 t = *reinterpret_cast<const float2*>(scales + 8 * i);
    acc[4 * i] += part[4 * i] * (t.x * low);
    acc[4 * i + 1] += part[4 * i + 1] * (t.y * low);
    acc[4 * i + 2] += part[4 * i + 2] * (t.x * high);
    acc[4 * i + 3] += part[4 * i + 3] * (t.y * high);
  }
}

// promote_many adds part [64 tokens, 128 outputs], scaled, to acc. low and high
// are the scales of tokens l/4 and l/4 + 8; even and odd those of the outputs in
// even and odd groups of 8.
DEVICE void promote_many(float (&acc)[64], const float (&part)[64], float low, float high, float even, float odd) {
  float scale[2][2] = {{low * even, high * even}, {low * odd, high * odd}};
#pragma unroll
  for (int i = 0; i < 64; i++) acc[i] += part[i] * scale[i >> 2 & 1][i >> 1 & 1];
}

// multiply computes acc [2][64, N], see Operands. Tensor cores keep too few bits
// to add all of k: every 128 inputs are added to float registers, which is also
// where the scales change.
template <int N, bool MANY, bool GATED>
DEVICE void multiply(float (&acc)[2][N / 2], const GroupedParams& p, Shared& s, const Tile& t, int group, u32& step) {
  const float2* scales = p.weightScales + ((i64)t.expert * p.scaleBlocks + t.block) * p.kBlocks;
  float2 next = __ldg(scales);
  int lane = lane_id(), warp = warp_id() & 3;
#pragma unroll
  for (int i = 0; i < N / 2; i++) acc[0][i] = acc[1][i] = 0;
  for (int kb = 0; kb < p.kBlocks; kb++, step++) {
    u32 stage = step % STAGES;
    float2 w = next;
    if (kb + 1 < p.kBlocks) next = __ldg(scales + kb + 1);
    barrier_wait(&s.full[stage], step / STAGES & 1);
    Operands<MANY> x(s, stage, group);
    if constexpr (MANY) {
      const float* of = s.scales[stage] + group * HALF + warp * 16 + lane / 4;
      float low = of[0], high = of[8];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float part[N / 2];
        wgmma_fence();
        multiply_stage<N>(part, x.a(h), x.b(h), false);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_keep(part);
        // The last of the stage has been read, too.
        if (h == 1) release(s, stage);
        promote_many(acc[h], part, low, high, GATED || h == 0 ? w.x : w.y, GATED || h == 1 ? w.y : w.x);
      }
    } else {
      const float* of = s.scales[stage] + 2 * (lane & 3);
      float low = GATED || group == 0 ? w.x : w.y, high = GATED ? w.y : low;
      float part[2][N / 2];
      wgmma_fence();
      multiply_stage<N>(part[0], x.a(0), x.b(0), false);
      wgmma_commit();
      multiply_stage<N>(part[1], x.a(1), x.b(1), false);
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_keep(part[0]);
      promote_few<N>(acc[0], part[0], of, low, high);
      wgmma_wait<0>();
      wgmma_keep(part[1]);
      promote_few<N>(acc[1], part[1], of, low, high);
      release(s, stage);
    }
  }
}

#else

// multiply computes acc [2][64, N], see Operands.
template <int N, bool MANY, bool GATED>
DEVICE void multiply(float (&acc)[2][N / 2], const GroupedParams& p, Shared& s, const Tile&, int group, u32& step) {
  // Registers without a value before the loop would make ptxas serialise it.
#pragma unroll
  for (int i = 0; i < N / 2; i++) acc[0][i] = acc[1][i] = 0;
  for (int kb = 0; kb < p.kBlocks; kb++, step++) {
    u32 stage = step % STAGES;
    barrier_wait(&s.full[stage], step / STAGES & 1);
    Operands<MANY> x(s, stage, group);
    wgmma_fence();
    multiply_stage<N>(acc[0], x.a(0), x.b(0), true);
    multiply_stage<N>(acc[1], x.a(1), x.b(1), true);
    wgmma_commit();
    // The products of the stage before are done when only these are under way.
    wgmma_wait<1>();
    if (kb > 0) release(s, (step - 1) % STAGES);
  }
  wgmma_wait<0>();
  wgmma_keep(acc[0]);
  wgmma_keep(acc[1]);
  release(s, (step - 1) % STAGES);
}

#endif

// ---- epilogue ----

// store_panel stores four 8x8 matrices of bf16 as they are or transposed, lane l
// giving the place of row l%8 of matrix l/8.
template <bool TRANSPOSED>
DEVICE void store_panel(void* row, const u32 (&v)[4]) {
  if constexpr (TRANSPOSED)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(smem_addr(row)), "r"(v[0]),
                 "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(smem_addr(row)), "r"(v[0]),
                 "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

// chunk_of is chunk c (8 outputs) of a token's row in a panel.
DEVICE u8* chunk_of(u8* panel, int token, int c) { return panel + token * ROW + ((c ^ token) & 7) * 16; }

DEVICE float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }
// gate_pair is silu(g)·u of two elements.
DEVICE u32 gate_pair(const float* g, const float* u) { return pack_bf16(silu(g[0]) * u[0], silu(g[1]) * u[1]); }

// write_panel stores rows tokens of a panel at row and column of out. It takes a
// warp group.
DEVICE void write_panel(const GroupedParams& p, i32 row, i32 rows, u8* panel, i32 column) {
  int chunk = threadIdx.x & 7;
  column += chunk * 8;
  if (column >= p.outputs) return;
  bf16* out = (bf16*)p.out + (i64)row * p.outPitch + column;
  for (int token = (threadIdx.x & 127) >> 3; token < rows; token += 16)
    *reinterpret_cast<uint4*>(out + (i64)token * p.outPitch) = *reinterpret_cast<uint4*>(chunk_of(panel, token, chunk));
}

#if F8

// quantise_panels rounds the 128 columns of two panels, stride bytes apart, to
// e4m3 with one scale for each token, as columns block·128.. of out. It takes
// threads threads, 16 a token, 8 columns each; thread counts them.
DEVICE void quantise_panels(const GroupedParams& p, i32 row, i32 rows, i32 block, u8* panel, int stride, int thread,
                            int threads) {
  int lane = thread & 15;
  for (int token = thread >> 4; token < (rows + 15 & ~15); token += threads / 16) {
    uint4 v = *reinterpret_cast<uint4*>(chunk_of(panel + (lane >> 3) * stride, token, lane & 7));
    u32 pairs[4] = {v.x, v.y, v.z, v.w}, codes[4];
    float most = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) most = fmaxf(most, fmaxf(fabsf(bf16_lo(pairs[i])), fabsf(bf16_hi(pairs[i]))));
#pragma unroll
    for (int d = 8; d > 0; d >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    if (token >= rows) continue;
    float scale = quant_scale(most), inverse = 1.0f / scale;
#pragma unroll
    for (int i = 0; i < 4; i++) codes[i] = pack_e4m3(bf16_lo(pairs[i]) * inverse, bf16_hi(pairs[i]) * inverse);
    u8* out = (u8*)p.out + (i64)(row + token) * p.outPitch + block * 128 + lane * 8;
    *reinterpret_cast<uint2*>(out) = make_uint2(codes[0] | codes[1] << 16, codes[2] | codes[3] << 16);
    if (lane == 0) p.outScales[(i64)block * p.scalePitch + row + token] = scale;
  }
}

#endif

// finish_few writes the results of up to 64 tokens, acc [2][64 outputs, N tokens].
// Of a warp's 16 outputs in each product, gated leaves 8.
template <int N, bool GATED>
DEVICE void finish_few(const float (&acc)[2][N / 2], const GroupedParams& p, Shared& s, const Tile& t, int group) {
  int lane = lane_id(), warp = warp_id() & 3;
  // The matrices are tokens 8i.. and 8(i+1).., of one group of outputs and of another.
  int token = (lane & 7) + (lane & 8), second = lane >> 4;
#pragma unroll
  for (int i = 0; i < N / 8; i += 2) {
    u32 v[4];
    if constexpr (GATED) {
#pragma unroll
      for (int m = 0; m < 4; m++) {
        const float* x = &acc[m >> 1][4 * (i + (m & 1))];
        v[m] = gate_pair(x, x + 2);
      }
      store_panel<true>(chunk_of(s.out[group][0], 8 * i + token, second * 4 + warp), v);
    } else {
#pragma unroll
      for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int m = 0; m < 4; m++) {
          const float* x = &acc[h][4 * (i + (m & 1)) + 2 * (m >> 1)];
          v[m] = pack_bf16(x[0], x[1]);
        }
        store_panel<true>(chunk_of(s.out[group][h], 8 * i + token, warp * 2 + second), v);
      }
    }
  }
  if constexpr (GATED && F8) {
    // The 128 columns of a scale come from both warp groups.
    named_sync(1, CONSUMERS);
#if F8
    quantise_panels(p, t.row, t.rows, t.block, s.out[0][0], 2 * PANEL, threadIdx.x - 128, CONSUMERS);
#endif
    named_sync(1, CONSUMERS);
  } else if constexpr (GATED) {
    named_sync(2 + group, 128);
    write_panel(p, t.row, t.rows, s.out[group][0], t.block * 128 + group * 64);
    named_sync(2 + group, 128);
  } else {
    named_sync(2 + group, 128);
    for (int h = 0; h < 2; h++)
      write_panel(p, t.row, t.rows, s.out[group][h], t.block * OUTPUTS - p.outFirst + group * 128 + h * 64);
    named_sync(2 + group, 128);
  }
}

// finish_many writes the results of a warp group's 64 tokens, acc [2][64 tokens,
// 128 outputs], of which gated leaves 64.
template <bool GATED>
DEVICE void finish_many(const float (&acc)[2][64], const GroupedParams& p, Shared& s, const Tile& t, int group) {
  int lane = lane_id(), warp = warp_id() & 3;
  // The matrices are tokens 16·warp.. and 16·warp + 8.., of one group of outputs
  // and of the next.
  int token = warp * 16 + (lane & 7) + (lane & 8), second = lane >> 4;
  i32 row = t.row + group * HALF, rows = t.rows - group * HALF;
#pragma unroll
  for (int h = 0; h < 2; h++) {
#pragma unroll
    for (int i = 0; i < (GATED ? 8 : 16); i += 2) {
      u32 v[4];
#pragma unroll
      for (int m = 0; m < 4; m++) {
        if constexpr (GATED) {
          const float* x = &acc[h][8 * (i + (m >> 1)) + 2 * (m & 1)];
          v[m] = gate_pair(x, x + 4);
        } else {
          const float* x = &acc[h][4 * (i + (m >> 1)) + 2 * (m & 1)];
          v[m] = pack_bf16(x[0], x[1]);
        }
      }
      store_panel<false>(chunk_of(s.out[group][GATED ? h : i >> 3], token, (i & 7) + second), v);
    }
    if constexpr (!GATED) {
      named_sync(2 + group, 128);
      for (int half = 0; half < 2; half++)
        write_panel(p, row, min(rows, HALF), s.out[group][half], t.block * OUTPUTS - p.outFirst + h * 128 + half * 64);
      named_sync(2 + group, 128);
    }
  }
  if constexpr (GATED) {
    named_sync(2 + group, 128);
#if F8
    quantise_panels(p, row, min(rows, HALF), t.block, s.out[group][0], PANEL, threadIdx.x & 127, 128);
#else
    for (int h = 0; h < 2; h++) write_panel(p, row, min(rows, HALF), s.out[group][h], t.block * 128 + h * 64);
#endif
    named_sync(2 + group, 128);
  }
}

template <int N, bool MANY, bool GATED>
DEVICE void consume(const GroupedParams& p, Shared& s, const Tile& t, int group, u32& step) {
  float acc[2][N / 2];
  multiply<N, MANY, GATED>(acc, p, s, t, group, step);
  if constexpr (MANY)
    finish_many<GATED>(acc, p, s, t, group);
  else
    finish_few<N, GATED>(acc, p, s, t, group);
}

// ---- kernels ----

template <bool GATED>
DEVICE void grouped(const GroupedParams& p) {
  extern __shared__ __align__(1024) u8 memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], CONSUMERS / WARP);
    }
    barrier_init_done();
  }
  __syncthreads();
  grid_launch_dependents();
  grid_wait();
  i32 items = *p.count * p.blocks;
  int warp = warp_id();
  if (warp < 4) {
    register_dealloc<40>();
    if (warp == 0 && elect_one()) produce(p, s, items);
  } else {
    register_alloc<232>();
    int group = (warp >> 2) - 1;
    u32 step = 0;
    for (i32 item = blockIdx.x; item < items; item += gridDim.x) {
      Tile t = tile_of(p, item);
      if (t.rows <= 16)
        consume<16, false, GATED>(p, s, t, group, step);
      else if (t.rows <= 32)
        consume<32, false, GATED>(p, s, t, group, step);
      else if (t.rows <= HALF)
        consume<64, false, GATED>(p, s, t, group, step);
      else
        consume<128, true, GATED>(p, s, t, group, step);
    }
  }
}

KERNEL __launch_bounds__(384, 1) grouped_gated(const __grid_constant__ GroupedParams p) { grouped<true>(p); }
KERNEL __launch_bounds__(384, 1) grouped_plain(const __grid_constant__ GroupedParams p) { grouped<false>(p); }
