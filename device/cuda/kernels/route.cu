// The choice of experts from router logits, one warp a row. Scores, choices and
// their sums are float, as in the models' published code.
//
// Choices become unsigned keys in the same order, so that the best one is found
// with integer reductions of the warp: NaN is 1, below every number, and what
// has been taken is 0.
//
//latent:unit route hot

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

// order_key maps floats to integers in the same order; +0 equals -0.
DEVICE u32 order_key(float x) {
  if (x != x) return 1;
  u32 bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return bits >> 31 ? ~bits : bits | 1u << 31;
}

// score turns the lane's logits into scores; those beyond the experts mean
// nothing.
template <int SLOTS>
DEVICE void score(float (&s)[SLOTS], const float* logits, const Route& p) {
  float top = NEG_INF;
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    int e = i * WARP + lane_id();
    s[i] = e < p.experts ? logits[e] : NEG_INF;
    top = fmaxf(top, s[i]);
  }
  if (!p.softmax) {
#pragma unroll
    for (int i = 0; i < SLOTS; i++) s[i] = __fdiv_rn(1.0f, 1.0f + expf(-s[i]));
    return;
  }
  top = warp_max(top);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    s[i] = expf(s[i] - top);
    sum += s[i];
  }
  sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < SLOTS; i++) s[i] = __fdiv_rn(s[i], sum);
}

// limit_groups overwrites the choices of all groups but the best p.keep.
// Several lanes share a group: each finds the two largest of its part.
DEVICE void limit_groups(float* choice, float* group, const Route& p) {
  int size = p.experts / p.groups, lanes = WARP;
  while (lanes * p.groups > WARP && lanes > 1) lanes /= 2;
  int per = WARP / lanes, part = lane_id() % lanes;
  for (int first = 0; first < p.groups; first += per) {
    int g = first + lane_id() / lanes;
    float one = NEG_INF, two = NEG_INF;
    if (g < p.groups) {
#pragma unroll 4
      for (int e = part; e < size; e += lanes) {
        float c = choice[g * size + e];
        two = c > one ? one : c > two ? c : two;
        one = c > one ? c : one;
      }
    }
    for (int d = 1; d < lanes; d <<= 1) {
      float o1 = __shfl_xor_sync(~0u, one, d), o2 = __shfl_xor_sync(~0u, two, d);
      two = fmaxf(fminf(one, o1), fmaxf(two, o2));
      one = fmaxf(one, o1);
    }
    if (part == 0 && g < p.groups) group[g] = p.limit == GROUP_TOP2_SUM && size > 1 ? one + two : one;
  }
  __syncwarp();
  float dropped = p.limit == GROUP_MAX ? 0 : NEG_INF;
  for (int first = 0; first < p.groups; first += per) {
    int g = first + lane_id() / lanes;
    if (g >= p.groups) continue;
    int before = 0;  // groups that come first
    float mine = group[g];
#pragma unroll 4
    for (int o = 0; o < p.groups; o++) before += group[o] > mine || (group[o] == mine && o < g);
    if (before < p.keep) continue;
    for (int e = part; e < size; e += lanes) choice[g * size + e] = dropped;
  }
  __syncwarp();
}

// route_rows takes up to 32·SLOTS experts.
template <int SLOTS>
DEVICE void route_rows(const Route& p) {
  __shared__ float choices[ROUTE_WARPS][SLOTS * WARP];
  __shared__ float groups[ROUTE_WARPS][SLOTS * WARP];
  int warp = warp_id(), lane = lane_id();
  i32 row = blockIdx.x * ROUTE_WARPS + warp;
  float bias[SLOTS] = {};
  if (p.bias) {
#pragma unroll
    for (int i = 0; i < SLOTS; i++) {
      int e = i * WARP + lane;
      if (e < p.experts) bias[i] = __ldg(p.bias + e);
    }
  }
  grid_wait();
  if (row >= p.rows) return;
  float* choice = choices[warp];
  float s[SLOTS];
  score(s, p.logits + (i64)row * p.experts, p);
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    int e = i * WARP + lane;
    if (e < p.experts) choice[e] = s[i] + bias[i];
  }
  __syncwarp();
  if (p.limit != NO_GROUPS) limit_groups(choice, groups[warp], p);
  u32 key[SLOTS];
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    int e = i * WARP + lane;
    key[i] = e < p.experts ? order_key(choice[e]) : 0;
  }
  __syncwarp();  // the choices are in registers now: their place takes the scores chosen
  i32* ids = p.ids + (i64)row * p.choose;
  float* weights = p.weights + (i64)row * p.choose;
  float sum = 0;
  for (int j = 0; j < p.choose; j++) {
    u32 most = 0, best = ~0u;
    float mine = 0;
#pragma unroll
    for (int i = 0; i < SLOTS; i++) {
      if (key[i] > most) {
        most = key[i];
        best = i * WARP + lane;
        mine = s[i];
      }
    }
    u32 top = __reduce_max_sync(~0u, most);
    best = __reduce_min_sync(~0u, most == top ? best : ~0u);
    float chosen = __shfl_sync(~0u, mine, best % WARP);
    sum += chosen;
#pragma unroll
    for (int i = 0; i < SLOTS; i++) {
      if (best == i * WARP + lane) key[i] = 0;
    }
    if (lane == 0) {
      ids[j] = best;
      choice[j] = chosen;
    }
  }
  __syncwarp();
  for (int j = lane; j < p.choose; j += WARP) {
    float w = choice[j];
    if (p.normalize) w = __fdiv_rn(w, sum + 1e-20f);
    weights[j] = w * p.scale;
  }
}

KERNEL route_256(const Route p) { route_rows<8>(p); }
KERNEL route_512(const Route p) { route_rows<16>(p); }
