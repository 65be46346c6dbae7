// Grouped expert products on tensor cores, for weights in bf16 (F8=0) or in
// e4m3 with 128x128 scales (F8=1): for every expert, its weights [outputs, k]
// times the rows of the tokens that chose it. grouped_gated is the first
// product of an expert, with SwiGLU (and the rounding to e4m3) behind it;
// grouped_plain is the second.
// Not here: which token goes where (moe.cu), other dimensions (moe_generic.cu).
//
// The weights are the M side of the product and the tokens the N side: a tile
// is 256 outputs by 1..128 tokens, and N follows the number of tokens, so that
// one kernel streams weights at the memory's speed when an expert has one token
// and keeps the tensor cores busy when it has hundreds.
//
// weights  [E, outputs, k]; gated: groups of 8 gate rows and the same 8 up rows
//          alternate, so that both land in one thread (row l/4 and l/4 + 8)
// tokens   [rows, k], sorted by expert, those of an expert from a multiple of 4
// scales   F8: f32 [k/128, pitch], one for each row and 128 inputs
// out      gated: [rows, inner] in the type of tokens, F8 with outScales;
//          plain: bf16 [rows, outPitch], columns from outFirst on
//
// One producer warp loads, two warp groups multiply 128 outputs each.
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
  u8 out[2][TOKENS * ROW];  // by warp group: [tokens][64] bf16, swizzled
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

// multiply_stage adds the four k steps of 32 bytes of a stage to d [64 outputs, N].
template <int N>
DEVICE void multiply_stage(float (&d)[N / 2], u64 weights, u64 tokens, bool accumulate) {
#pragma unroll
  for (int k = 0; k < 4; k++) {
#if F8
    wgmma_e4m3_ss(d, desc_step(weights, 32 * k), desc_step(tokens, 32 * k), accumulate || k > 0);
#else
    wgmma_bf16_ss(d, desc_step(weights, 32 * k), desc_step(tokens, 32 * k), accumulate || k > 0);
#endif
  }
}

// release gives a stage back once the whole warp is done with it.
DEVICE void release(Shared& s, u32 stage) {
  __syncwarp();
  if (lane_id() == 0) barrier_arrive(&s.empty[stage]);
}

#if F8

// promote adds part, scaled, to acc. scales is that of the thread's first
// token; low belongs to rows l/4, high to rows l/4 + 8.
template <int N>
DEVICE void promote(float (&acc)[N / 2], const float (&part)[N / 2], const float* scales, float low, float high) {
#pragma unroll
  for (int i = 0; i < N / 8; i++) {
    float2 t = *reinterpret_cast<const float2*>(scales + 8 * i);
    acc[4 * i] += part[4 * i] * (t.x * low);
    acc[4 * i + 1] += part[4 * i + 1] * (t.y * low);
    acc[4 * i + 2] += part[4 * i + 2] * (t.x * high);
    acc[4 * i + 3] += part[4 * i + 3] * (t.y * high);
  }
}

// multiply computes acc[h] = outputs 64h.. of the warp group's 128, by N tokens.
// Tensor cores keep too few bits to add all of k: every 128 inputs are added
// to float registers, which is also where the scales change.
template <int N, bool GATED>
DEVICE void multiply(float (&acc)[2][N / 2], const GroupedParams& p, Shared& s, const Tile& t, int group, u32& step) {
  const float2* scales = p.weightScales + ((i64)t.expert * p.scaleBlocks + t.block) * p.kBlocks;
  float2 next = __ldg(scales);
#pragma unroll
  for (int i = 0; i < N / 2; i++) acc[0][i] = acc[1][i] = 0;
  for (int kb = 0; kb < p.kBlocks; kb++, step++) {
    u32 stage = step % STAGES;
    float low = GATED || group == 0 ? next.x : next.y, high = GATED ? next.y : low;
    if (kb + 1 < p.kBlocks) next = __ldg(scales + kb + 1);
    const float* tokenScales = s.scales[stage] + 2 * (lane_id() & 3);
    barrier_wait(&s.full[stage], step / STAGES & 1);
    u64 weights = smem_desc(s.weights[stage] + group * 128 * ROW), tokens = smem_desc(s.tokens[stage]);
    if constexpr (N <= 64) {
      float part[2][N / 2];
      wgmma_fence();
      multiply_stage<N>(part[0], weights, tokens, false);
      wgmma_commit();
      multiply_stage<N>(part[1], desc_step(weights, 64 * ROW), tokens, false);
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_keep(part[0]);
      promote<N>(acc[0], part[0], tokenScales, low, high);
      wgmma_wait<0>();
      wgmma_keep(part[1]);
      promote<N>(acc[1], part[1], tokenScales, low, high);
    } else {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float part[N / 2];
        wgmma_fence();
        multiply_stage<N>(part, desc_step(weights, h * 64 * ROW), tokens, false);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_keep(part);
        promote<N>(acc[h], part, tokenScales, low, high);
      }
    }
    release(s, stage);
  }
}

#else

// multiply computes acc[h] = outputs 64h.. of the warp group's 128, by N tokens.
template <int N, bool GATED>
DEVICE void multiply(float (&acc)[2][N / 2], const GroupedParams& p, Shared& s, const Tile&, int group, u32& step) {
  // Registers without a value before the loop would make ptxas serialise it.
#pragma unroll
  for (int i = 0; i < N / 2; i++) acc[0][i] = acc[1][i] = 0;
  for (int kb = 0; kb < p.kBlocks; kb++, step++) {
    u32 stage = step % STAGES;
    barrier_wait(&s.full[stage], step / STAGES & 1);
    u64 weights = smem_desc(s.weights[stage] + group * 128 * ROW), tokens = smem_desc(s.tokens[stage]);
    wgmma_fence();
    multiply_stage<N>(acc[0], weights, tokens, true);
    multiply_stage<N>(acc[1], desc_step(weights, 64 * ROW), tokens, true);
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

// store_transposed stores four 8x8 matrices whose rows are outputs and columns
// tokens as rows of 8 outputs, lane l giving the place of row l%8 of matrix l/8.
DEVICE void store_transposed(void* row, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(smem_addr(row)), "r"(a),
               "r"(b), "r"(c), "r"(d)
               : "memory");
}

// out_chunk is chunk c (8 bf16) of a token's row in the tile of a warp group.
DEVICE u8* out_chunk(u8* tile, int token, int c) { return tile + token * ROW + ((c ^ token) & 7) * 16; }

DEVICE float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// write_rows stores the 64 columns of a warp group's tile at column of out.
DEVICE void write_rows(const GroupedParams& p, const Tile& t, u8* tile, i32 column, i32 columns) {
  int chunk = threadIdx.x & 7;
  if (column + chunk * 8 >= columns) return;
  bf16* out = (bf16*)p.out + (i64)t.row * p.outPitch + column + chunk * 8;
  for (int token = (threadIdx.x & 127) >> 3; token < t.rows; token += 16)
    *reinterpret_cast<uint4*>(out + (i64)token * p.outPitch) = *reinterpret_cast<uint4*>(out_chunk(tile, token, chunk));
}

#if F8

// quantise_rows rounds the 128 columns in the tiles of both warp groups to e4m3
// with one scale for each token: 16 lanes a token, 8 columns a lane.
DEVICE void quantise_rows(const GroupedParams& p, const Tile& t, Shared& s) {
  int lane = threadIdx.x & 15;
  for (int token = (threadIdx.x - 128) >> 4; token < (t.rows + 15 & ~15); token += CONSUMERS / 16) {
    uint4 v = *reinterpret_cast<uint4*>(out_chunk(s.out[lane >> 3], token, lane & 7));
    u32 pairs[4] = {v.x, v.y, v.z, v.w};
    float most = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) most = fmaxf(most, fmaxf(fabsf(bf16_lo(pairs[i])), fabsf(bf16_hi(pairs[i]))));
#pragma unroll
    for (int d = 8; d > 0; d >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    if (token >= t.rows) continue;
    float scale = quant_scale(most), inverse = 1.0f / scale;
    u32 codes[4];
#pragma unroll
    for (int i = 0; i < 4; i++) codes[i] = pack_e4m3(bf16_lo(pairs[i]) * inverse, bf16_hi(pairs[i]) * inverse);
    u8* out = (u8*)p.out + (i64)(t.row + token) * p.outPitch + t.block * 128 + lane * 8;
    *reinterpret_cast<uint2*>(out) = make_uint2(codes[0] | codes[1] << 16, codes[2] | codes[3] << 16);
    if (lane == 0) p.outScales[(i64)t.block * p.scalePitch + t.row + token] = scale;
  }
}

#endif

// finish_gated writes silu(gate)·up: a warp group has 64 columns, 32 from each
// of its two products, 8 from each warp.
template <int N>
DEVICE void finish_gated(const float (&acc)[2][N / 2], const GroupedParams& p, Shared& s, const Tile& t, int group) {
  int lane = lane_id(), warp = warp_id() & 3;
  // Lane l places row l%8 of matrix l/8: matrices are tokens 8i.., 8(i+1).. of
  // the first product, then of the second.
  int token = (lane & 7) + (lane & 8), chunk = (lane >> 4) * 4 + warp;
#pragma unroll
  for (int i = 0; i < N / 8; i += 2) {
    u32 v[4];
#pragma unroll
    for (int m = 0; m < 4; m++) {
      const float* x = &acc[m >> 1][4 * (i + (m & 1))];
      v[m] = pack_bf16(silu(x[0]) * x[2], silu(x[1]) * x[3]);
    }
    store_transposed(out_chunk(s.out[group], 8 * i + token, chunk), v[0], v[1], v[2], v[3]);
  }
#if F8
  named_sync(1, CONSUMERS);
  quantise_rows(p, t, s);
  named_sync(1, CONSUMERS);
#else
  named_sync(1 + group, 128);
  write_rows(p, t, s.out[group], t.block * 128 + group * 64, p.outputs);
  named_sync(1 + group, 128);
#endif
}

// finish_plain writes the products, 64 columns at a time: 16 from each warp.
template <int N>
DEVICE void finish_plain(const float (&acc)[2][N / 2], const GroupedParams& p, Shared& s, const Tile& t, int group) {
  int lane = lane_id(), warp = warp_id() & 3;
  int token = (lane & 7) + (lane & 8), chunk = warp * 2 + (lane >> 4);
#pragma unroll
  for (int h = 0; h < 2; h++) {
#pragma unroll
    for (int i = 0; i < N / 8; i += 2) {
      u32 v[4];
#pragma unroll
      for (int m = 0; m < 4; m++) {
        const float* x = &acc[h][4 * (i + (m & 1)) + 2 * (m >> 1)];
        v[m] = pack_bf16(x[0], x[1]);
      }
      store_transposed(out_chunk(s.out[group], 8 * i + token, chunk), v[0], v[1], v[2], v[3]);
    }
    named_sync(1 + group, 128);
    write_rows(p, t, s.out[group], t.block * OUTPUTS - p.outFirst + group * 128 + h * 64, p.outputs);
    named_sync(1 + group, 128);
  }
}

template <int N, bool GATED>
DEVICE void consume(const GroupedParams& p, Shared& s, const Tile& t, int group, u32& step) {
  float acc[2][N / 2];
  multiply<N, GATED>(acc, p, s, t, group, step);
  if constexpr (GATED)
    finish_gated<N>(acc, p, s, t, group);
  else
    finish_plain<N>(acc, p, s, t, group);
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
        consume<16, GATED>(p, s, t, group, step);
      else if (t.rows <= 32)
        consume<32, GATED>(p, s, t, group, step);
      else if (t.rows <= 64)
        consume<64, GATED>(p, s, t, group, step);
      else if (t.rows <= 96)
        consume<96, GATED>(p, s, t, group, step);
      else
        consume<128, GATED>(p, s, t, group, step);
    }
  }
}

KERNEL __launch_bounds__(384, 1) grouped_gated(const __grid_constant__ GroupedParams p) { grouped<true>(p); }
KERNEL __launch_bounds__(384, 1) grouped_plain(const __grid_constant__ GroupedParams p) { grouped<false>(p); }
