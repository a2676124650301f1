// Attention of a group of query rows over one run of logical positions, and the fold of the runs.
//
// A row's keys are numbered by their logical position: committed cache rows first, then its own path through the tree
// scratch rows. Every sum below runs in that order, and a score is computed the same way wherever its key lies, so a
// row gets the same bits whether a key is still tree scratch or already committed.
#pragma once

#include "kernels.h"
#include "simd.h"
#include "softmax.h"

namespace pspec::PSPEC_ISA {

constexpr int kKeyBlock = 2 * kLanes;        // keys scored together, one per lane
constexpr int kValueBlock = 64;              // value rows converted to fp32 together; at least the tree's 64
constexpr int kScoreStride = kRun + kLanes;  // exp_in_place may write past the last score

// Places inside AttendRun::scratch; attend_scratch() in tree_attention.cpp reserves for the widest set.
struct Scratch {
  float* keys;         // [E4, kKeyBlock] transposed
  float* values;       // [kValueBlock, E4]
  float* scores;       // [rows, kScoreStride] by logical position in the run, then exp(score - max)
  float* tree_scores;  // [rows, 64] by scratch row
};

static Scratch carve(const AttendRun& a) {
  Scratch s;
  s.keys = a.scratch;
  s.values = s.keys + a.E4 * kKeyBlock;
  s.scores = s.values + kValueBlock * a.E4;
  s.tree_scores = s.scores + a.rows * kScoreStride;
  return s;
}

// What one row attends to within the run, as offsets from the run's first position: committed keys
// [begin, tree_begin), then path keys [tree_begin, end). Depends on the row's own position and the window only.
struct RowRange {
  int begin, tree_begin, end;
};

static int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

static RowRange row_range(const AttendRun& a, int row) {
  if (a.words[row] == 0) return {0, 0, 0};
  const int64_t first = a.run * kRun, t = a.prefix + __builtin_popcountll(a.words[row]) - 1;
  const int64_t begin = a.window > 0 ? clamp(t - a.window + 1 - first, 0, kRun) : 0;
  const int64_t end = clamp(t + 1 - first, begin, kRun);
  const int64_t tree_begin = clamp(a.prefix - first, begin, end);
  return {static_cast<int>(begin), static_cast<int>(tree_begin), static_cast<int>(end)};
}

template <typename T>
static void transpose_keys(const T* k, int64_t E, int64_t count, float* keys) {
  for (int64_t key = 0; key < kKeyBlock; ++key) {
    for (int64_t e = 0; e < E; ++e) keys[e * kKeyBlock + key] = key < count ? to_float(k[key * E + e]) : 0.0f;
  }
}

// scores[r][0 .. kKeyBlock) of RB rows; each score is summed over e in order, in its own lane.
template <int RB>
static void score_rows(const float* q, int64_t E4, const float* keys, int64_t E, float* scores, int64_t stride) {
  Vec acc[RB][2] = {};
  for (int64_t e = 0; e < E; ++e) {
    const Vec low = load(keys + e * kKeyBlock), high = load(keys + e * kKeyBlock + kLanes);
    for (int r = 0; r < RB; ++r) {
      const Vec query = splat(q[r * E4 + e]);
      acc[r][0] = fma(query, low, acc[r][0]);
      acc[r][1] = fma(query, high, acc[r][1]);
    }
  }
  for (int r = 0; r < RB; ++r) {
    store(scores + r * stride, acc[r][0]);
    store(scores + r * stride + kLanes, acc[r][1]);
  }
}

// Scores of cache rows from .. to-1 for all query rows; writes whole key blocks.
template <typename T>
static void score_keys(const AttendRun& a, int64_t from, int64_t to, float* keys, float* scores, int64_t stride) {
  for (int64_t key = from; key < to; key += kKeyBlock) {
    transpose_keys(static_cast<const T*>(a.k) + key * a.E, a.E, to - key, keys);
    float* out = scores + (key - from);
    int r = 0;
    for (; r + 8 <= a.rows; r += 8) score_rows<8>(a.q + r * a.E4, a.E4, keys, a.E, out + r * stride, stride);
    for (; r + 2 <= a.rows; r += 2) score_rows<2>(a.q + r * a.E4, a.E4, keys, a.E, out + r * stride, stride);
    for (; r < a.rows; ++r) score_rows<1>(a.q + r * a.E4, a.E4, keys, a.E, out + r * stride, stride);
  }
}

// acc[r][:] += p[r][j] * values[j - from][:] for j = from .. to-1, ascending, RB rows and EV vectors at a time.
template <int RB, int EV>
static void add_values(const float* p, const float* values, int from, int to, int64_t E4, float* acc) {
  Vec sum[RB][EV];
  for (int r = 0; r < RB; ++r) {
    for (int e = 0; e < EV; ++e) sum[r][e] = load(acc + r * E4 + e * kLanes);
  }
  for (int j = from; j < to; ++j, values += E4) {
    for (int e = 0; e < EV; ++e) {
      const Vec value = load(values + e * kLanes);
      for (int r = 0; r < RB; ++r) sum[r][e] = fma(splat(p[r * kScoreStride + j]), value, sum[r][e]);
    }
  }
  for (int r = 0; r < RB; ++r) {
    for (int e = 0; e < EV; ++e) store(acc + r * E4 + e * kLanes, sum[r][e]);
  }
}

template <int RB>
static void add_values(const float* p, const float* values, int from, int to, int64_t E4, float* acc) {
  int64_t e = 0;
  for (; e + 4 * kLanes <= E4; e += 4 * kLanes) add_values<RB, 4>(p, values + e, from, to, E4, acc + e);
  for (; e < E4; e += kLanes) add_values<RB, 1>(p, values + e, from, to, E4, acc + e);
}

template <typename T>
static void convert_values(const T* v, int64_t E, int64_t E4, int64_t count, float* values) {
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t e = 0; e < E; ++e) values[j * E4 + e] = to_float(v[j * E + e]);
    for (int64_t e = E; e < E4; ++e) values[j * E4 + e] = 0.0f;
  }
}

// Adds the committed values of run offsets from .. to-1 (at most kValueBlock of them, already converted).
static void add_committed(const AttendRun& a, const RowRange* range, const Scratch& s, int from, int to) {
  constexpr int RB = kLanes == 16 ? 4 : 2;
  for (int r = 0; r < a.rows;) {
    bool together = r + RB <= a.rows;
    for (int i = r; together && i < r + RB; ++i) together = range[i].begin <= from && range[i].tree_begin >= to;
    if (together) {
      add_values<RB>(s.scores + r * kScoreStride, s.values, from, to, a.E4, a.acc + r * a.E4);
      r += RB;
      continue;
    }
    const int begin = range[r].begin > from ? range[r].begin : from;
    const int end = range[r].tree_begin < to ? range[r].tree_begin : to;
    if (begin < end) {
      add_values<1>(s.scores + r * kScoreStride, s.values + (begin - from) * a.E4, begin, end, a.E4, a.acc + r * a.E4);
    }
    ++r;
  }
}

// Calls visit(offset in the run, scratch row) for the row's path keys that fall into the run, in order.
template <typename Visit>
static void for_path_keys(const AttendRun& a, int row, const RowRange& range, Visit visit) {
  int64_t offset = a.prefix - a.run * kRun;
  for (uint64_t left = a.words[row]; left != 0; left &= left - 1, ++offset) {
    if (offset >= range.tree_begin && offset < range.end) visit(static_cast<int>(offset), __builtin_ctzll(left));
  }
}

template <typename T>
static void attend_typed(const AttendRun& a) {
  const Scratch s = carve(a);
  RowRange range[kMaxAttendRows];
  int first = kRun, committed = 0;  // hull of the committed keys that any row attends to
  bool has_path = false;
  for (int r = 0; r < a.rows; ++r) {
    range[r] = row_range(a, r);
    if (range[r].begin < range[r].tree_begin) {
      first = range[r].begin < first ? range[r].begin : first;
      committed = range[r].tree_begin > committed ? range[r].tree_begin : committed;
    }
    has_path |= range[r].tree_begin < range[r].end;
  }
  first -= first % kKeyBlock;  // whole key blocks, so that their scores end inside the run

  const int64_t origin = a.run * kRun;
  if (first < committed) {
    score_keys<T>(a, origin + first, origin + committed, s.keys, s.scores + first, kScoreStride);
  }
  if (has_path) score_keys<T>(a, a.prefix, a.prefix + a.tree_rows, s.keys, s.tree_scores, kMaxTreeRows);

  for (int r = 0; r < a.rows; ++r) {
    float* scores = s.scores + r * kScoreStride;
    const int keys = range[r].end - range[r].begin;
    for_path_keys(a, r, range[r], [&](int offset, int row) { scores[offset] = s.tree_scores[r * kMaxTreeRows + row]; });
    a.max[r] = max_of(scores + range[r].begin, keys);
    a.sum[r] = exp_in_place(scores + range[r].begin, keys, a.max[r]);
    memset(a.acc + r * a.E4, 0, a.E4 * sizeof(float));
  }

  for (int from = first; from < committed; from += kValueBlock) {
    const int to = from + kValueBlock < committed ? from + kValueBlock : committed;
    convert_values(static_cast<const T*>(a.v) + (origin + from) * a.E, a.E, a.E4, to - from, s.values);
    add_committed(a, range, s, from, to);
  }
  if (!has_path) return;
  convert_values(static_cast<const T*>(a.v) + a.prefix * a.E, a.E, a.E4, a.tree_rows, s.values);
  for (int r = 0; r < a.rows; ++r) {
    for_path_keys(a, r, range[r], [&](int offset, int row) {
      add_values<1>(s.scores + r * kScoreStride, s.values + row * a.E4, offset, offset + 1, a.E4, a.acc + r * a.E4);
    });
  }
}

static void attend_run(const AttendRun& a) {
  if (a.dtype == DType::kBFloat16) {
    attend_typed<uint16_t>(a);
  } else {
    attend_typed<float>(a);
  }
}

// Online softmax over the runs in order; runs in which the row has no key are skipped, which again depends on the
// row's own position and the window only.
static void fold_runs(const float* max, const float* sum, const float* acc, int64_t runs, int64_t stride, int64_t E4,
                      float* out) {
  float total_max = 0, total = 0;
  memset(out, 0, E4 * sizeof(float));
  for (int64_t i = 0; i < runs; ++i) {
    const float run_max = max[i * stride], run_sum = sum[i * stride];
    if (run_sum == 0) continue;
    const float new_max = total > 0 && total_max > run_max ? total_max : run_max;
    const float keep = total > 0 ? exp_nonpositive(total_max - new_max) : 0.0f;
    const float scale = exp_nonpositive(run_max - new_max);
    for (int64_t e = 0; e < E4; e += kLanes) {
      const Vec kept = load(out + e) * splat(keep);
      store(out + e, fma(load(acc + i * stride * E4 + e), splat(scale), kept));
    }
    total = total * keep + run_sum * scale;
    total_max = new_max;
  }
  if (total == 0) return;
  for (int64_t e = 0; e < E4; e += kLanes) store(out + e, load(out + e) / splat(total));
}

}  // namespace pspec::PSPEC_ISA
