// Kernels that the tests on a GPU launch.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define KERNEL extern "C" __global__ void

struct Add {
  u32* p;
  u32 n, value;
};
// add adds value to each of n numbers.
KERNEL add(Add a) {
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < a.n) a.p[i] += a.value;
}

struct Chain {
  u32* p;
  u32 n, step;
};
// chain moves p[i] from step to step+1, and spoils it if it is not at step. As
// a dependent launch it waits where it must.
KERNEL chain(Chain c) {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < c.n) c.p[i] = c.p[i] == c.step ? c.step + 1 : 1000000;
}

KERNEL empty(Add) {}

struct Sleep {
  u64 ns;
};
// sleep keeps the device busy for ns nanoseconds.
KERNEL sleep(Sleep s) {
  u64 begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  while (now - begin < s.ns);
}

// shared writes n numbers to dynamic shared memory and sums them up.
KERNEL shared(Add a) {
  extern __shared__ u32 memory[];
  for (u32 i = threadIdx.x; i < a.n; i += blockDim.x) memory[i] = a.value;
  __syncthreads();
  u32 sum = 0;
  for (u32 i = threadIdx.x; i < a.n; i += blockDim.x) sum += memory[a.n - 1 - i];
  atomicAdd(a.p, sum);
}

// ranks writes each block's rank in its cluster and the cluster's size.
KERNEL ranks(Add a) {
  u32 rank, size;
  asm("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
  asm("mov.u32 %0, %cluster_nctarank;" : "=r"(size));
  if (threadIdx.x == 0) a.p[blockIdx.x] = size * 100 + rank;
}

struct alignas(64) TensorMap {
  u64 opaque[16];
};
struct Box {
  TensorMap map;
  u8* out;
  u32 bytes;
  int x, y, z, rank;
};
// box copies a box of a tensor as the copy engine leaves it in shared memory.
KERNEL box(const __grid_constant__ Box b) {
  extern __shared__ u8 dynamic[]; // 1024 bytes more than the box has
  __shared__ u64 barrier;
  u8* tile = dynamic + (-(u32)__cvta_generic_to_shared(dynamic) & 1023);
  u32 at = (u32)__cvta_generic_to_shared(&barrier), to = (u32)__cvta_generic_to_shared(tile);
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(b.bytes) : "memory");
    if (b.rank == 2)
      asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
                   "l"(&b.map), "r"(at), "r"(b.x), "r"(b.y)
                   : "memory");
    else
      asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
                   "l"(&b.map), "r"(at), "r"(b.x), "r"(b.y), "r"(b.z)
                   : "memory");
  }
  __syncthreads();
  asm volatile(
      "{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n@p bra DONE;\nbra WAIT;\nDONE:\n}\n" ::"r"(at)
      : "memory");
  for (u32 i = threadIdx.x; i < b.bytes; i += blockDim.x) b.out[i] = tile[i];
}

// stray writes where there is no memory.
KERNEL stray(Add a) {
  if (threadIdx.x == a.n) *(volatile u32*)(u64)(0x10 + a.value) = 1;
}

// two has a parameter too many.
KERNEL two(u32* p, u32 n) { p[0] = n; }
