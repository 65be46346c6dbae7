// What every kernel of this folder begins with: types, the geometry of a step
// as the host uploads it, conversions, reductions, and one inline function per
// Hopper instruction. It uses no header of the CUDA toolkit, so that NVRTC
// needs nothing but this text. The host puts it in front of each source file.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// bf16 and e4m3 are bit patterns; arithmetic is done in float.
typedef u16 bf16;
typedef u8 e4m3;

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void

static constexpr int WARP = 32;
static constexpr int PAGE_TOKENS = 64;

// ---- geometry, as geometry.go uploads it ----

// Run mirrors device.Run: query row i of the run is row row+i of the step, at
// position pos+i, and sees keys [from, min(to, pos+i+1)).
struct Run {
  i32 seq, row, rows, pos, from, to, keys, sel;
};

// Row is one query row of a list of runs, with what its run says about it. The
// visible keys are [from, to), to ≥ from; keys is where position from stands in
// expanded K/V, sel the row's row in a selection or -1.
struct Row {
  i32 row, seq, pos, from, to, keys, sel, run;
};

// Range mirrors device.KeyRange: positions [from, to) of a sequence become keys
// keys, keys+1, … of an expansion.
struct Range {
  i32 seq, from, to, keys;
};

// Pages finds the cache slot of a position.
struct Pages {
  const i32* __restrict__ table;   // pages of all sequences
  const i32* __restrict__ first;   // [sequences] where each begins in table
  DEVICE i32 slot(i32 seq, i32 pos) const {
    return __ldg(table + __ldg(first + seq) + (pos >> 6)) * PAGE_TOKENS + (pos & 63);
  }
};

// TensorMap is an opaque CUtensorMap; pass it inside a __grid_constant__ struct.
struct alignas(64) TensorMap {
  u64 opaque[16];
};

// ---- numbers ----

static constexpr float NEG_INF = __builtin_bit_cast(float, 0xff800000u);
static constexpr float LOG2E = 1.4426950408889634f;
static constexpr float LN2 = 0.6931471805599453f;
static constexpr float E4M3_MAX = 448.0f;

DEVICE float bf16_float(bf16 h) { return __uint_as_float((u32)h << 16); }

DEVICE bf16 float_bf16(float f) {
  bf16 h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}

// pack_bf16 rounds two floats; lo lands in the low half.
DEVICE u32 pack_bf16(float lo, float hi) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}

DEVICE float bf16_lo(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float bf16_hi(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// pack_e4m3 rounds two floats, clamped to ±448; lo lands in the low byte.
DEVICE u16 pack_e4m3(float lo, float hi) {
  u16 r;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(hi), "f"(lo));
  return r;
}

DEVICE e4m3 float_e4m3(float f) { return (e4m3)pack_e4m3(f, 0.0f); }

DEVICE float half_float(u16 h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}

// e4m3_float2 decodes two codes; .x is the low byte.
DEVICE float2 e4m3_float2(u16 pair) {
  u32 halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return make_float2(half_float((u16)halves), half_float((u16)(halves >> 16)));
}

DEVICE float e4m3_float(e4m3 b) { return e4m3_float2(b).x; }

// quant_scale is device.QuantScale: 2^ceil(log2(max(amax, 1e-4)/448)).
DEVICE float quant_scale(float amax) {
  u32 bits = __float_as_uint(fmaxf(amax, 1e-4f) * __uint_as_float(0x3B124925u));
  u32 exponent = bits & 0xff800000u;
  if (bits & 0x007fffffu) exponent += 1u << 23;
  return __uint_as_float(exponent);
}

// exp2 of the hardware: two units in the last place, exp2_fast(-inf) = 0.
DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- reductions ----

DEVICE float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

DEVICE float warp_max(float v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
  return v;
}

// ---- shared memory, barriers ----

DEVICE u32 smem_addr(const void* p) { return (u32)__cvta_generic_to_shared(p); }

DEVICE int lane_id() { return threadIdx.x & 31; }
// warp_id is the same for all lanes of a warp in the compiler's eyes, too.
DEVICE int warp_id() { return __shfl_sync(~0u, (int)(threadIdx.x >> 5), 0); }

// elect_one is true for one lane of a converged warp.
DEVICE bool elect_one() {
  u32 p;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(p));
  return p != 0;
}

// Named barriers 1..15; threads is a multiple of 32 and counts all arrivers.
DEVICE void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// fence_async makes this thread's ordinary writes to shared memory visible to
// wgmma and the copy engine; a barrier must follow.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

struct Barrier {
  u64 state;
};

DEVICE void barrier_init(Barrier* b, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_addr(b)), "r"(arrivals) : "memory");
}
// barrier_init_done follows the inits, before the block's barrier.
DEVICE void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

DEVICE void barrier_arrive(Barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_addr(b)) : "memory");
}
DEVICE void barrier_expect(Barrier* b, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_addr(b)), "r"(bytes) : "memory");
}
// barrier_wait returns when the phase of this parity has completed. On a fresh
// barrier parity 1 passes at once.
DEVICE void barrier_wait(Barrier* b, u32 parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "WAIT_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra DONE_%=;\n"
      "bra WAIT_%=;\n"
      "DONE_%=:\n}\n" ::"r"(smem_addr(b)), "r"(parity) : "memory");
}

// ---- copies ----

DEVICE void prefetch_map(const TensorMap* m) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(m) : "memory");
}

// Hints for L2, as createpolicy makes them.
static constexpr u64 EVICT_NORMAL = 0x1000000000000000ull;
static constexpr u64 EVICT_FIRST = 0x12F0000000000000ull;
static constexpr u64 EVICT_LAST = 0x14F0000000000000ull;

// tma_load_2d/3d copy a box to shared memory; its whole size counts towards the
// barrier's bytes, elements outside of the tensor arrive as zeros.
DEVICE void tma_load_2d(void* dst, const TensorMap* m, Barrier* b, i32 x, i32 y, u64 hint = EVICT_NORMAL) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(smem_addr(dst)), "l"(m), "r"(smem_addr(b)), "r"(x), "r"(y), "l"(hint)
      : "memory");
}
DEVICE void tma_load_3d(void* dst, const TensorMap* m, Barrier* b, i32 x, i32 y, i32 z, u64 hint = EVICT_NORMAL) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(smem_addr(dst)), "l"(m), "r"(smem_addr(b)), "r"(x), "r"(y), "r"(z),
      "l"(hint)
      : "memory");
}
// bulk_load copies bytes (a multiple of 16) to shared memory.
DEVICE void bulk_load(void* dst, const void* src, u32 bytes, Barrier* b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   smem_addr(dst)),
               "l"(src), "r"(bytes), "r"(smem_addr(b))
               : "memory");
}
DEVICE void tma_store_2d(const TensorMap* m, const void* src, i32 x, i32 y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(m),
               "r"(smem_addr(src)), "r"(x), "r"(y)
               : "memory");
}
DEVICE void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N>
DEVICE void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

// cp_async16 copies 16 bytes past L1, or writes zeros when !valid.
DEVICE void cp_async16(void* dst, const void* src, bool valid = true) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(smem_addr(dst)), "l"(src),
               "r"(valid ? 16 : 0)
               : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
// cp_async_arrive makes the barrier's phase wait for this thread's earlier
// cp.async copies; it counts as one of the barrier's arrivals.
DEVICE void cp_async_arrive(Barrier* b) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(smem_addr(b)) : "memory");
}

// Asynchronous execution of dependent kernels: everything that reads what an
// earlier kernel wrote comes after grid_wait.
DEVICE void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void grid_launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// ---- warp group matrix products: see wgmma.cuh for the shapes ----

template <int R>
DEVICE void register_dealloc() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(R));
}
template <int R>
DEVICE void register_alloc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(R));
}

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// wgmma_keep keeps the compiler from moving accesses of accumulators across.
template <int N>
DEVICE void wgmma_keep(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// smem_desc describes a 128-byte-swizzled operand tile that starts at a multiple
// of 1024 bytes (plus a step along the row). stride is the distance between
// groups of 8 rows, lead that between panels for transposed operands, in bytes.
DEVICE u64 smem_desc(const void* p, u32 stride = 1024, u32 lead = 16) {
  return (u64)((smem_addr(p) & 0x3ffff) >> 4) | (u64)(lead >> 4) << 16 | (u64)(stride >> 4) << 32 | 1ull << 62;
}
// desc_step moves a descriptor by bytes.
DEVICE u64 desc_step(u64 desc, u32 bytes) { return desc + (bytes >> 4); }

// swizzle128 is where byte column c (of 128) of row r stands in a tile of rows
// of 128 bytes.
DEVICE u32 swizzle128(u32 r, u32 c) { return r * 128 + ((((c >> 4) ^ r) & 7) << 4 | (c & 15)); }
