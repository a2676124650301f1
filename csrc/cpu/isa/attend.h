// Attention of a group of query rows over one run of logical positions, and the fold of the runs.
//
// A row's keys are numbered by their logical position: committed cache rows first, then its own path through the tree
// scratch rows. Every sum below runs in that order, and a score is computed the same way wherever its key lies, so a
// row gets the same bits whether a key is still tree scratch or already committed.
#pragma once

#include <type_traits>

#include "dot.h"
#if defined(PSPEC_ISA_AMX)
#include "attend_amx.h"
#endif
#include "kernels.h"
#include "simd.h"
#include "softmax.h"

namespace pspec::PSPEC_ISA {

constexpr int kRowBlock = 6;                    // query rows whose values are summed together
constexpr int kValueVecs = kLanes == 16 ? 4 : 2;  // vectors of E of each: kRowBlock * kValueVecs sums in registers
constexpr int kScoreStride = kRun + kLanes;     // exp_in_place may write past the last score
static_assert(kRun >= kMaxTreeRows, "a tree's scores fit in a run's");

// Places inside AttendRun::scratch; attend_scratch() reserves for the widest set.
struct Scratch {
  float* values;       // [kRun, E4]
  float* scores;       // [rows, kScoreStride] by logical position in the run, then exp(score - max)
  float* tree_scores;  // [rows, kRun] by scratch row
  float* direct;       // for add_direct
};

static Scratch carve(const AttendRun& a) {
  Scratch s;
  s.values = a.scratch;
  s.scores = s.values + kRun * a.E4;
  s.tree_scores = s.scores + a.rows * kScoreStride;
  s.direct = s.tree_scores + a.rows * kRun;
  return s;
}

// What one row attends to within the run, as offsets from the run's first position: keys [begin, tree_begin) that lie at
// their logical position, then path keys [tree_begin, end). begin and end depend on the row's own position and the
// window only.
struct RowRange {
  int begin, tree_begin, end;
};

static int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

static RowRange row_range(const AttendRun& a, int row) {
  if (a.words[row] == 0) return {0, 0, 0};
  const int64_t first = a.run * kRun, t = a.prefix + __builtin_popcountll(a.words[row]) - 1;
  const int64_t begin = a.window > 0 ? clamp(t - a.window + 1 - first, 0, kRun) : 0;
  const int64_t end = clamp(t + 1 - first, begin, kRun);
  const bool chain = (a.words[row] & (a.words[row] + 1)) == 0;  // the path's rows follow each other: as if committed
  const int64_t tree_begin = chain ? end : clamp(a.prefix - first, begin, end);
  return {static_cast<int>(begin), static_cast<int>(tree_begin), static_cast<int>(end)};
}

// Calls visit(rows as a constant, first row) for blocks of at most kRowBlock rows.
template <typename Visit>
static void for_row_groups(int rows, Visit visit) {
  int r = 0;
  for (; r + kRowBlock <= rows; r += kRowBlock) visit(std::integral_constant<int, kRowBlock>(), r);
  for (; r + 3 <= rows; r += 3) visit(std::integral_constant<int, 3>(), r);
  for (; r < rows; ++r) visit(std::integral_constant<int, 1>(), r);
}

// q k of cache rows from .. from+count-1 (at most kRun) for all query rows, not yet scaled.
template <typename T>
static void score_keys(const AttendRun& a, int64_t from, int64_t count, float* scores, int64_t stride) {
  dot(a.q, a.dtype, a.rows, static_cast<const T*>(a.k) + from * a.E, a.dtype, count, a.E, nullptr, scores, stride);
}

// acc[r][:] += p[r][j] * values[j - from][:] for j = from .. to-1, ascending, RB rows and EV vectors at a time.
template <int RB, int EV>
static void add_values(const float* p, const float* values, int from, int to, int64_t E4, float* acc) {
  Vec sum[RB][EV];
  for (int r = 0; r < RB; ++r) {
    for (int e = 0; e < EV; ++e) sum[r][e] = load(acc + r * E4 + e * kLanes);
  }
  for (int j = from; j < to; ++j, values += E4) {
    Vec value[EV];
    for (int e = 0; e < EV; ++e) value[e] = load(values + e * kLanes);
    for (int r = 0; r < RB; ++r) {
      const Vec weight = splat(p[r * kScoreStride + j]);
      for (int e = 0; e < EV; ++e) sum[r][e] = fma(weight, value[e], sum[r][e]);
    }
  }
  for (int r = 0; r < RB; ++r) {
    for (int e = 0; e < EV; ++e) store(acc + r * E4 + e * kLanes, sum[r][e]);
  }
}

template <int RB>
static void add_values(const float* p, const float* values, int from, int to, int64_t E4, float* acc) {
  int64_t e = 0;
  for (; e + kValueVecs * kLanes <= E4; e += kValueVecs * kLanes) {
    add_values<RB, kValueVecs>(p, values + e, from, to, E4, acc + e);
  }
  for (; e < E4; e += kLanes) add_values<RB, 1>(p, values + e, from, to, E4, acc + e);
}

template <typename T>
static void convert_values(const T* v, int64_t E, int64_t E4, int64_t count, float* values) {
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t e = 0; e < E4; e += kLanes) store(values + j * E4 + e, e < E ? load_up_to(v + j * E + e, E - e) : Vec{});
  }
}

// Adds the values of all rows' keys that lie in place; `values` are those of run offsets from .. on. Rows taken together
// share most keys: what one has before or after those is added by itself.
static void add_in_place(const AttendRun& a, const RowRange* range, const float* p, const float* values, int from) {
  for_row_groups(a.rows, [&](auto rows, int first) {
    constexpr int RB = decltype(rows)::value;
    int begin = 0, end = kRun;  // the keys of all RB rows
    for (int r = first; r < first + RB; ++r) {
      begin = range[r].begin > begin ? range[r].begin : begin;
      end = range[r].tree_begin < end ? range[r].tree_begin : end;
    }
    auto add = [&](auto count, int r, int at, int to) {
      if (at >= to) return;
      add_values<decltype(count)::value>(p + r * kScoreStride, values + (at - from) * a.E4, at, to, a.E4,
                                         a.acc + r * a.E4);
    };
    const std::integral_constant<int, 1> one;
    if (begin >= end) begin = end = kRun;  // none: each by itself, before `begin`
    for (int r = first; r < first + RB; ++r) {
      add(one, r, range[r].begin, begin < range[r].tree_begin ? begin : range[r].tree_begin);
    }
    add(rows, first, begin, end);
    for (int r = first; r < first + RB; ++r) add(one, r, end, range[r].tree_begin);
  });
}

// The scratch rows of the row's path keys that fall into the run, in order: offsets tree_begin .. end-1.
struct Path {
  int count;
  uint8_t row[kMaxTreeRows];
};

static void find_path(const AttendRun& a, int row, const RowRange& range, Path& path) {
  path.count = range.end - range.tree_begin;
  if (path.count == 0) return;
  uint64_t left = a.words[row];
  for (int64_t skip = a.run * kRun + range.tree_begin - a.prefix; skip > 0; --skip) left &= left - 1;
  for (int i = 0; i < path.count; ++i, left &= left - 1) path.row[i] = static_cast<uint8_t>(__builtin_ctzll(left));
}

// acc[:] += p[i] * values[path.row[i]][:], ascending.
template <int EV>
static void add_path(const float* p, const float* values, const Path& path, int64_t E4, float* acc) {
  Vec sum[EV];
  for (int e = 0; e < EV; ++e) sum[e] = load(acc + e * kLanes);
  for (int i = 0; i < path.count; ++i) {
    const float* value = values + path.row[i] * E4;
    for (int e = 0; e < EV; ++e) sum[e] = fma(splat(p[i]), load(value + e * kLanes), sum[e]);
  }
  for (int e = 0; e < EV; ++e) store(acc + e * kLanes, sum[e]);
}

static void add_path(const float* p, const float* values, const Path& path, int64_t E4, float* acc) {
  int64_t e = 0;
  for (; e + 4 * kLanes <= E4; e += 4 * kLanes) add_path<4>(p, values + e, path, E4, acc + e);
  for (; e < E4; e += kLanes) add_path<1>(p, values + e, path, E4, acc + e);
}

// Sums the values of the keys that the tile unit may take and moves each row's begin behind them.
static void take_direct([[maybe_unused]] const AttendRun& a, [[maybe_unused]] const Scratch& s,
                        [[maybe_unused]] RowRange* range) {
#if defined(PSPEC_DIRECT_VALUES)
  if (a.dtype != DType::kBFloat16 || a.window > 0 || a.E % kTileRows != 0) return;
  const int64_t origin = a.run * kRun;
  int direct[kMaxAttendRows], most = 0;
  for (int r = 0; r < a.rows; ++r) {
    const int64_t own = a.words[r] == 0 ? 0 : a.prefix + __builtin_popcountll(a.words[r]) - 1;
    const int64_t keys = clamp(own - kMaxTreeRows - origin, 0, kRun);
    direct[r] = static_cast<int>(keys - keys % kDirectBlock);
    most = direct[r] > most ? direct[r] : most;
  }
  if (most == 0) return;
  add_direct(static_cast<const uint16_t*>(a.v) + origin * a.E, a.E, a.E4, direct, a.rows, s.scores, kScoreStride, s.direct,
             a.acc);
  for (int r = 0; r < a.rows; ++r) range[r].begin = direct[r];
#endif
}

template <typename T>
static void attend_typed(const AttendRun& a) {
  const Scratch s = carve(a);
  RowRange range[kMaxAttendRows];
  Path path[kMaxAttendRows];
  int first = kRun, committed = 0;  // hull of the keys in place that any row attends to
  bool has_path = false;
  for (int r = 0; r < a.rows; ++r) {
    range[r] = row_range(a, r);
    if (range[r].begin < range[r].tree_begin) {
      first = range[r].begin < first ? range[r].begin : first;
      committed = range[r].tree_begin > committed ? range[r].tree_begin : committed;
    }
    find_path(a, r, range[r], path[r]);
    has_path |= path[r].count > 0;
  }

  const int64_t origin = a.run * kRun;
  if (first < committed) score_keys<T>(a, origin + first, committed - first, s.scores + first, kScoreStride);
  if (has_path) score_keys<T>(a, a.prefix, a.tree_rows, s.tree_scores, kRun);

  for (int r = 0; r < a.rows; ++r) {
    float* scores = s.scores + r * kScoreStride;
    const int keys = range[r].end - range[r].begin;
    for (int i = 0; i < path[r].count; ++i) scores[range[r].tree_begin + i] = s.tree_scores[r * kRun + path[r].row[i]];
    a.max[r] = scale_to_max(scores + range[r].begin, keys, a.scale);
    a.sum[r] = exp_in_place(scores + range[r].begin, keys, a.max[r]);
    memset(a.acc + r * a.E4, 0, a.E4 * sizeof(float));
  }

  take_direct(a, s, range);
  first = kRun;
  for (int r = 0; r < a.rows; ++r) {
    if (range[r].begin < range[r].tree_begin && range[r].begin < first) first = range[r].begin;
  }
  if (first < committed) {
    convert_values(static_cast<const T*>(a.v) + (origin + first) * a.E, a.E, a.E4, committed - first, s.values);
    add_in_place(a, range, s.scores, s.values, first);
  }
  if (!has_path) return;
  convert_values(static_cast<const T*>(a.v) + a.prefix * a.E, a.E, a.E4, a.tree_rows, s.values);
  for (int r = 0; r < a.rows; ++r) {
    add_path(s.scores + r * kScoreStride + range[r].tree_begin, s.values, path[r], a.E4, a.acc + r * a.E4);
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
