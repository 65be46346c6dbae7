// How the blocks of index_scores.cu share the work. Each segment of a run's keys
// meets each group of the run's rows that sees any of it; all of these, in the
// order run, segment, group, are a line, of which each block takes a part of equal
// cost. Where a part begins follows from the runs by formulas, so that nothing is
// listed and the host need not know the contexts.
//
// It needs GROUP (query rows of a group), COLUMNS (of a product), TILE (keys of a
// product), MAX_SEGMENT (keys, a power of two) and THREADS (of a block).
#pragma once

static constexpr int MAX_RUNS = 512;
// What a group costs besides its keys, in keys: half a tile wasted at the end of
// what it sees, and fetching its queries.
static constexpr int GROUP_COST = 128;

// Work is a run, without the leading groups that need no scores. w.to is the
// number of keys that its last row sees.
struct Work {
  i32 row, rows, pos, to, table;
};

DEVICE i32 groups_of(const Work& w) { return (i32)((u32)(w.rows + GROUP - 1) / GROUP); }

// Position is a point on the line.
struct Position {
  i32 run, segment, group;
};

// Line is what a block knows of it.
struct Line {
  i64 cost[MAX_RUNS + 1];  // of the runs before
  Work work[MAX_RUNS];
  Position range[2];  // the block's part
  i64 sums[THREADS / WARP];
  i32 row_sums[THREADS / WARP];
};

// seen is Σ over the first n groups of a run of min(limit, keys that the group
// sees); group g sees min(w.to, w.pos + GROUP·(g+1)).
DEVICE i64 seen(const Work& w, i32 limit, i32 n) {
  i32 h = min(limit, w.to);
  i32 fewer = h <= w.pos ? 0 : min((i32)((u32)(h - w.pos + GROUP - 1) / GROUP) - 1, n);
  return (i64)fewer * w.pos + (i64)fewer * (fewer + 1) / 2 * GROUP + (i64)(n - fewer) * h;
}

// blind is the number of leading groups that see nothing of a segment.
DEVICE i32 blind(const Work& w, i32 segment, i32 shift) {
  return (i32)((u32)max(0, (segment << shift) - w.pos) / GROUP);
}

// before is the cost of all segments of a run before this one.
DEVICE i64 before(const Work& w, i32 segment, i32 shift) {
  // Σ blind over these segments: an arithmetic progression from the first
  // segment on that begins behind the first row.
  i32 step = (1 << shift) / GROUP, skipped = (i32)((u32)(w.pos + GROUP - 1) / GROUP);
  i32 first = min(segment, (i32)((u32)(skipped + step - 1) / step)), n = segment - first;
  i64 blinds = (i64)n * (first + segment - 1) / 2 * step - (i64)skipped * n;
  i32 groups = groups_of(w);
  return seen(w, segment << shift, groups) + GROUP_COST * ((i64)segment * groups - blinds);
}

// within is the cost of the first n groups of a segment.
DEVICE i64 within(const Work& w, i32 segment, i32 shift, i32 n) {
  return seen(w, (segment + 1) << shift, n) - seen(w, segment << shift, n) +
         GROUP_COST * (i64)max(0, n - blind(w, segment, shift));
}

DEVICE i32 segments_of(const Work& w, i32 shift) { return (w.to + (1 << shift) - 1) >> shift; }

// last_true is the largest i of [0, n) with holds(i), which is true for 0 and
// then up to some i. All lanes of a warp search together.
template <class F>
DEVICE i32 last_true(i32 n, F holds) {
  i32 lo = 0, hi = n;
  while (hi - lo > 1) {
    i32 step = (i32)((u32)(hi - lo + WARP - 1) / WARP), i = lo + step * (lane_id() + 1);
    lo += step * __popc(__ballot_sync(~0u, i < hi && holds(i)));
    hi = min(hi, lo + step);
  }
  return lo;
}

// find is the first group that begins at cost x or behind it.
DEVICE Position find(const Line& s, i32 runs, i32 shift, i64 x) {
  if (x >= s.cost[runs]) return {runs, 0, 0};
  Position p;
  p.run = last_true(runs, [&](i32 i) { return s.cost[i] <= x; });
  Work w = s.work[p.run];
  x -= s.cost[p.run];
  p.segment = last_true(segments_of(w, shift), [&](i32 i) { return before(w, i, shift) <= x; });
  x -= before(w, p.segment, shift);
  p.group = x == 0 ? 0 : 1 + last_true(groups_of(w), [&](i32 i) { return within(w, p.segment, shift, i) < x; });
  return p;
}

// Walk goes through a block's part of the line, an item at a time: groups
// [first, last) of a run and a segment of its keys from base on, of which the
// last group sees tiles tiles. All roles walk the same way.
struct Walk {
  const Line& s;
  Position at, end;
  i32 shift;
  Work work;
  i32 base, first, last, tiles;

  DEVICE Walk(const Line& s, i32 shift) : s(s), at(s.range[0]), end(s.range[1]), shift(shift) {}

  // limit is the number of keys of the sequence that a group sees.
  DEVICE i32 limit(i32 group) const { return min(work.to, work.pos + GROUP * (group + 1)); }
  DEVICE i32 tiles_of(i32 group) const { return (min(1 << shift, limit(group) - base) + TILE - 1) / TILE; }

  DEVICE bool next() {
    for (;;) {
      bool here = at.run == end.run && at.segment == end.segment;
      if (at.run > end.run || at.run == end.run && at.segment > end.segment || here && at.group >= end.group) return false;
      work = s.work[at.run];
      if (at.segment >= segments_of(work, shift)) {
        at = {at.run + 1, 0, 0};
        continue;
      }
      base = at.segment << shift;
      first = max(at.group, blind(work, at.segment, shift));
      last = here ? end.group : groups_of(work);
      at.segment++;
      at.group = 0;
      if (first < last) {
        tiles = tiles_of(last - 1);
        return true;
      }
    }
  }
};

// segment_shift chooses the keys of a segment, a power of two, from the work of
// a block in keys times groups. A run of one or two groups, in decoding, has
// nothing to gain from long segments but balance to lose. Otherwise a block
// reads 128·HEADS·GROUP bytes of queries for a group and 128 for each key of an
// item, which is least when both parts are equal.
DEVICE i32 segment_shift(i64 keys, i32 groups, i32 runs) {
  i64 share = keys / gridDim.x;
  i32 most = 31 - __clz(MAX_SEGMENT);
  if (groups <= 2 * runs) {
    i32 shift = 7;
    while (shift < min(most, 9) && share >= 16ll << shift) shift++;
    return shift;
  }
  i32 shift = 8;
  while (shift < most && share * COLUMNS >= 2ll << 2 * shift) shift++;
  return shift;
}

// Runs are the runs of a launch.
struct Runs {
  const Run* runs;
  Pages pages;
  i32 count;      // at most MAX_RUNS
  i32 first_row;  // of the first run, among the rows of all launches
};

// prepare fills the line for this block; it returns the shift of a segment.
DEVICE i32 prepare(Line& s, const Runs& p) {
  constexpr int EACH = (MAX_RUNS + THREADS - 1) / THREADS;
  i32 lane = lane_id(), warp = threadIdx.x / WARP;
  Work mine[EACH];
  i32 rows = 0, groups = 0;
  i64 keys = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    i32 r = (i32)threadIdx.x * EACH + i;
    mine[i] = {rows, 0, 0, 0, 0};
    if (r < p.count) {
      Run run = p.runs[r];
      Work& w = mine[i];
      w.table = p.pages.first[run.seq];
      w.rows = run.rows;
      w.pos = run.pos;
      w.to = min(run.to, run.pos + run.rows);
      rows += run.rows;
      if (w.to <= 0 || w.rows <= 0) w.rows = w.to = 0;
      groups += groups_of(w);
      keys += seen(w, w.to, groups_of(w));
    }
  }
  // Where the rows of this thread's runs begin, and the sums over all runs.
  i32 begin = rows;
#pragma unroll
  for (int d = 1; d < WARP; d *= 2) {
    i32 v = __shfl_up_sync(~0u, begin, d);
    if (lane >= d) begin += v;
  }
#pragma unroll
  for (int d = WARP / 2; d > 0; d /= 2) {
    keys += __shfl_xor_sync(~0u, keys, d);
    groups += __shfl_xor_sync(~0u, groups, d);
  }
  if (lane == WARP - 1) s.row_sums[warp] = begin;
  if (lane == 0) s.sums[warp] = keys << 24 | groups;
  __syncthreads();
  begin += p.first_row - rows;
  keys = 0;
#pragma unroll
  for (int i = 0; i < THREADS / WARP; i++) {
    if (i < warp) begin += s.row_sums[i];
    keys += s.sums[i];
  }
  i32 shift = segment_shift(keys >> 24, (i32)(keys & 0xffffff), p.count);
  __syncthreads();

  i64 cost[EACH], sum = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    mine[i].row += begin;
    cost[i] = sum;
    sum += before(mine[i], segments_of(mine[i], shift), shift);
  }
  i64 upto = sum;
#pragma unroll
  for (int d = 1; d < WARP; d *= 2) {
    i64 v = __shfl_up_sync(~0u, upto, d);
    if (lane >= d) upto += v;
  }
  if (lane == WARP - 1) s.sums[warp] = upto;
  __syncthreads();
  upto -= sum;
#pragma unroll
  for (int i = 0; i < THREADS / WARP; i++)
    if (i < warp) upto += s.sums[i];
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    i32 r = (i32)threadIdx.x * EACH + i;
    if (r < p.count) {
      s.work[r] = mine[i];
      s.cost[r] = upto + cost[i];
      if (r == p.count - 1) s.cost[r + 1] = upto + sum;
    }
  }
  __syncthreads();
  if (warp < 2) {
    Position at = find(s, p.count, shift, s.cost[p.count] * (blockIdx.x + warp) / gridDim.x);
    if (lane == 0) s.range[warp] = at;
  }
  __syncthreads();
  return shift;
}
