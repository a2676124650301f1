// Maximum and sum of exponentials of a vector, in a fixed lane order.
#pragma once

#include <type_traits>

#include "kernels.h"
#include "simd.h"

namespace pspec::PSPEC_ISA {

static float max_of(const float* values, int64_t n) {
  const float lowest = -__builtin_huge_valf();
  Vec best = splat(lowest);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) best = max(load(values + i), best);
  float result = max_lanes(best);
  for (; i < n; ++i) result = values[i] > result ? values[i] : result;
  return result;
}

// Multiplies the values by `scale` and returns the largest product; room up to a multiple of kLanes.
static float scale_to_max(float* values, int64_t n, float scale) {
  const float lowest = -__builtin_huge_valf();
  for (int64_t i = n; i % kLanes != 0; ++i) values[i] = lowest;
  Vec best = splat(lowest);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec v = load(values + i) * splat(scale);
    store(values + i, v);
    best = max(v, best);
  }
  return max_lanes(best);
}

// Replaces scores by exp(score - max) and returns their sum: lane i sums elements i, i + kLanes, ... `values` has
// room up to a multiple of kLanes.
static float exp_in_place(float* values, int64_t n, float max) {
  constexpr int kTogether = 4;  // an exponential is a long chain of operations
  Vec sum = {};
  for (int64_t i = n; i % kLanes != 0; ++i) values[i] = -__builtin_huge_valf();
  auto step = [&](auto count, int64_t i) {
    Vec p[decltype(count)::value];
    for (int j = 0; j < count; ++j) p[j] = exp_nonpositive(load(values + i + j * kLanes) - splat(max));
    for (int j = 0; j < count; ++j) store(values + i + j * kLanes, p[j]), sum += p[j];
  };
  int64_t i = 0;
  for (; i + kTogether * kLanes <= n; i += kTogether * kLanes) step(std::integral_constant<int, kTogether>(), i);
  for (; i < n; i += kLanes) step(std::integral_constant<int, 1>(), i);
  return sum_lanes(sum);
}

static float sum_exp(const float* values, int64_t n, float max) {
  Vec sum = {};
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) sum += exp_nonpositive(load(values + i) - splat(max));
  float tail[kLanes];
  const int64_t whole = n - n % kLanes;
  for (int i = 0; i < kLanes; ++i) tail[i] = whole + i < n ? values[whole + i] : -__builtin_huge_valf();
  if (whole < n) sum += exp_nonpositive(load(tail) - splat(max));
  return sum_lanes(sum);
}

}  // namespace pspec::PSPEC_ISA
