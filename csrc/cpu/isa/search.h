// Passes over a row of logits: its largest value, how the values are spread, which ones lie above a threshold.
#pragma once

#include "kernels.h"
#include "simd.h"
#include "softmax.h"

namespace pspec::PSPEC_ISA {

static void divide_row(const float* values, int64_t n, float by, float* out) {
  const Vec divisor = splat(by);
  for (int64_t i = 0; i < n; i += kLanes) store_up_to(out + i, load_up_to(values + i, n - i) / divisor, n - i);
}

static void add_rows(const float* a, const float* b, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    store_up_to(out + i, load_up_to(a + i, n - i) + load_up_to(b + i, n - i), n - i);
  }
}

// The vector at values, NaN where it goes beyond the end: NaN is at least nothing.
static inline Vec load_to_end(const float* values, int64_t n) {
  if (n >= kLanes) return load(values);
  float padded[kLanes];
  for (int i = 0; i < kLanes; ++i) padded[i] = i < n ? values[i] : __builtin_nanf("");
  return load(padded);
}

// Calls visit(index) for each value >= least, ascending; visit returns false to end the search.
template <typename Visit>
static inline void for_each_least(const float* values, int64_t n, float least, Visit visit) {
  const Vec threshold = splat(least);
  for (int64_t i = 0; i < n; i += kLanes) {
    for (uint32_t left = at_least(load_to_end(values + i, n - i), threshold); left != 0; left &= left - 1) {
      if (!visit(i + __builtin_ctz(left))) return;
    }
  }
}

static int64_t argmax_of(const float* values, int64_t n) {
  const float most = max_of(values, n);
  int64_t first = -1;
  if (most == -__builtin_huge_valf()) return first;
  for_each_least(values, n, most, [&](int64_t i) {
    first = i;
    return false;
  });
  return first;
}

static int64_t gather_least(const float* values, int64_t n, float least, int32_t* out) {
  int64_t count = 0;
  for_each_least(values, n, least, [&](int64_t i) {
    out[count++] = static_cast<int32_t>(i);
    return true;
  });
  return count;
}

// At most kBlock values, so that no lane sums more than kBlock / kLanes terms in fp32.
static void spread_block(const float* values, int64_t n, float max, Spread* out) {
  Vec mass[kDepths] = {}, total = {};
  Vec threshold[kDepths];
  for (int d = 0; d < kDepths; ++d) threshold[d] = splat(max - kDepth[d]);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec v = load_to_end(values + i, n - i);
    const Vec p = exp_nonpositive(v - splat(max));
    total += p;
    for (int d = kDepths - 1; d >= 0; --d) {
      const uint32_t above = at_least(v, threshold[d]);
      if (above == 0) break;  // thresholds rise
      out->count[d] += __builtin_popcount(above);
      mass[d] += v >= threshold[d] ? p : Vec{};
    }
  }
  for (int d = 0; d < kDepths; ++d) out->mass[d] += sum_lanes(mass[d]);
  out->total += sum_lanes(total);
}

static void spread_of(const float* values, int64_t n, float max, Spread* out) {
  constexpr int64_t kBlock = 2048;
  *out = {};
  for (int64_t i = 0; i < n; i += kBlock) spread_block(values + i, n - i < kBlock ? n - i : kBlock, max, out);
}

}  // namespace pspec::PSPEC_ISA
