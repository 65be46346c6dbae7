// The choice of experts from router logits, one warp a row. Scores and choices
// are double, as on the CPU: the same model then chooses the same experts on
// both, and sums do not tie where the model's do not.
//
// Choices become unsigned keys in the same order, so that the best one is found
// with integer reductions of the warp: NaN is 1, below every number, and what
// has been taken is 0.
//
//latent:unit route hot

static constexpr int SLOTS = 16;  // experts of a lane; 512 for the warp
static constexpr int MAX_EXPERTS = SLOTS * WARP;
static constexpr int ROUTE_WARPS = 4;

struct Route {
  i32* ids;             // [rows, choose]
  float* weights;       // [rows, choose]
  const float* logits;  // [rows, experts]
  const float* bias;    // [experts], or none
  i32 rows, experts;
  i32 softmax;      // else sigmoid
  i32 limit;        // device.GroupLimit
  i32 groups, keep;
  i32 choose, normalize;
  float scale;
  i32 pad;
};

enum GroupLimit : i32 { NO_GROUPS, GROUP_TOP2_SUM, GROUP_MAX };

static constexpr double NEG_INF_DOUBLE = __builtin_bit_cast(double, 0xfff0000000000000ull);

// order_key maps doubles to integers in the same order; +0 equals -0.
DEVICE u64 order_key(double x) {
  if (x != x) return 1;
  u64 bits = __double_as_longlong(x + 0.0);
  return bits >> 63 ? ~bits : bits | 1ull << 63;
}

// warp_best returns the largest key of the warp, and in index the smallest index
// among the lanes that have it.
DEVICE u64 warp_best(u64 key, u32& index) {
  u32 hi = __reduce_max_sync(~0u, (u32)(key >> 32));
  u32 lo = __reduce_max_sync(~0u, (u32)(key >> 32) == hi ? (u32)key : 0);
  u64 best = (u64)hi << 32 | lo;
  index = __reduce_min_sync(~0u, key == best ? index : ~0u);
  return best;
}

DEVICE double warp_sum(double v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

// score turns the lane's logits into scores; lanes beyond the experts get 0.
DEVICE void score(double (&s)[SLOTS], const float* logits, const Route& p) {
  float x[SLOTS], top = NEG_INF;
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    int e = i * WARP + lane_id();
    x[i] = e < p.experts ? logits[e] : NEG_INF;
    top = fmaxf(top, x[i]);
  }
  double sum = 0;
  if (p.softmax) top = warp_max(top);
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    if (i * WARP >= p.experts) break;
    double y = p.softmax ? exp((double)x[i] - (double)top) : 1 / (1 + exp(-(double)x[i]));
    s[i] = y;
    sum += y;
  }
  if (!p.softmax) return;
  sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    if (i * WARP < p.experts) s[i] /= sum;
  }
}

// limit_groups overwrites the choices of all groups but the best p.keep.
// Several lanes share a group: each finds the two largest of its part.
DEVICE void limit_groups(double* choice, double* group, const Route& p) {
  int size = p.experts / p.groups, lanes = WARP;
  while (lanes * p.groups > WARP && lanes > 1) lanes /= 2;
  int per = WARP / lanes, part = lane_id() % lanes;
  for (int first = 0; first < p.groups; first += per) {
    int g = first + lane_id() / lanes;
    double one = NEG_INF_DOUBLE, two = NEG_INF_DOUBLE;
    if (g < p.groups) {
      for (int e = part; e < size; e += lanes) {
        double c = choice[g * size + e];
        if (c > one) {
          two = one;
          one = c;
        } else if (c > two) {
          two = c;
        }
      }
    }
    for (int d = 1; d < lanes; d <<= 1) {
      double o1 = __shfl_xor_sync(~0u, one, d), o2 = __shfl_xor_sync(~0u, two, d);
      two = fmax(fmin(one, o1), fmax(two, o2));
      one = fmax(one, o1);
    }
    if (part == 0 && g < p.groups) group[g] = p.limit == GROUP_TOP2_SUM && size > 1 ? one + two : one;
  }
  __syncwarp();
  double dropped = p.limit == GROUP_MAX ? 0 : NEG_INF_DOUBLE;
  for (int first = 0; first < p.groups; first += per) {
    int g = first + lane_id() / lanes;
    if (g >= p.groups) continue;
    int before = 0;  // groups that come first
    double mine = group[g];
    for (int o = 0; o < p.groups; o++) before += group[o] > mine || (group[o] == mine && o < g);
    if (before < p.keep) continue;
    for (int e = part; e < size; e += lanes) choice[g * size + e] = dropped;
  }
  __syncwarp();
}

KERNEL route(const Route p) {
  __shared__ double choices[ROUTE_WARPS][MAX_EXPERTS];
  __shared__ double groups[ROUTE_WARPS][MAX_EXPERTS];
  grid_wait();
  int warp = warp_id(), lane = lane_id();
  i32 row = blockIdx.x * ROUTE_WARPS + warp;
  if (row >= p.rows) return;
  double* choice = choices[warp];
  double s[SLOTS];
  score(s, p.logits + (i64)row * p.experts, p);
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    int e = i * WARP + lane;
    if (e < p.experts) choice[e] = p.bias ? s[i] + (double)__ldg(p.bias + e) : s[i];
  }
  __syncwarp();
  if (p.limit != NO_GROUPS) limit_groups(choice, groups[warp], p);
  u64 key[SLOTS];
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    int e = i * WARP + lane;
    key[i] = e < p.experts ? order_key(choice[e]) : 0;
  }
  // Lane j keeps the j-th choice (of each 32).
  i32* ids = p.ids + (i64)row * p.choose;
  float* weights = p.weights + (i64)row * p.choose;
  double sum = 0;
  for (int j = 0; j < p.choose; j++) {
    u64 most = 0;
    u32 best = ~0u;
#pragma unroll
    for (int i = 0; i < SLOTS; i++) {
      if (key[i] > most) {
        most = key[i];
        best = i * WARP + lane;
      }
    }
    warp_best(most, best);
    double mine = 0;
#pragma unroll
    for (int i = 0; i < SLOTS; i++) {
      if (best == i * WARP + lane) {
        key[i] = 0;
        mine = s[i];
      }
    }
    double score = __shfl_sync(~0u, mine, best % WARP);
    sum += score;
    if (lane == 0) {
      ids[j] = best;
      choice[j] = score;  // the choices are in registers now
    }
  }
  __syncwarp();
  for (int j = lane; j < p.choose; j += WARP) {
    double w = choice[j];
    if (p.normalize) w /= sum + 1e-20;
    weights[j] = (float)(w * (double)p.scale);
  }
}
