// The kernels between the matrix products: each takes one row, or one head of a row, through fp32.
#pragma once

#include <type_traits>

#include "kernels.h"
#include "simd.h"

namespace pspec::PSPEC_ISA {

// Calls visit(i, left) for i = 0, kLanes, ... below n, `left` a constant for whole vectors.
template <typename Visit>
static inline void for_vectors(int64_t n, Visit visit) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) visit(i, std::integral_constant<int64_t, kLanes>());
  if (i < n) visit(i, n - i);
}

static void to_float_row(const uint16_t* from, int64_t n, float* to) {
  for_vectors(n, [&](int64_t i, int64_t left) { store_up_to(to + i, load_up_to(from + i, left), left); });
}

static void from_float_row(const float* from, int64_t n, uint16_t* to) {
  for_vectors(n, [&](int64_t i, int64_t left) { store_up_to(to + i, load_up_to(from + i, left), left); });
}

// 1 / sqrt(mean of the squares + eps) of the vectors visit(i, left) for i = 0, kLanes, ... below n; `left` elements of
// such a vector count, and it is zero after them. Four vectors of lane sums, added in a fixed order.
template <typename Visit>
static inline float inverse_rms(int64_t n, float eps, Visit visit) {
  Vec sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const Vec v = visit(i + j * kLanes, std::integral_constant<int64_t, kLanes>());
      sum[j] = fma(v, v, sum[j]);
    }
  }
  for (int j = 0; j < 4 && i < n; ++j, i += kLanes) {
    const Vec v = visit(i, n - i);
    sum[j] = fma(v, v, sum[j]);
  }
  const float total = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
  return 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + eps);
}

// Rounds where Hugging Face models do: after the add, after the norm, after the weight.
template <typename T>
static void norm_typed(const NormRow& row) {
  const T* x = static_cast<const T*>(row.x);
  const T* weight = static_cast<const T*>(row.weight);
  T* residual = static_cast<T*>(row.residual);
  T* out = static_cast<T*>(row.out);
  if (x != nullptr) {
    for_vectors(row.M, [&](int64_t i, int64_t left) {
      store_up_to(residual + i, load_up_to(residual + i, left) + load_up_to(x + i, left), left);
    });
  }
  const Vec scale =
      splat(inverse_rms(row.M, row.eps, [&](int64_t i, int64_t left) { return load_up_to(residual + i, left); }));
  for_vectors(row.M, [&](int64_t i, int64_t left) {
    const Vec normed = round_to<T>(load_up_to(residual + i, left) * scale);
    store_up_to(out + i, normed * load_up_to(weight + i, left), left);
  });
}

static void norm_row(const NormRow& row) {
  row.dtype == DType::kBFloat16 ? norm_typed<uint16_t>(row) : norm_typed<float>(row);
}

// g / (1 + e^-g), with e^-|g| in both branches so that nothing overflows.
static inline Vec silu(Vec g) {
  const VecInt negative = g < Vec{};
  const Vec e = exp_nonpositive(negative ? g : -g);
  return (negative ? g * e : g) / (e + splat(1.0f));
}

template <typename T>
static void silu_mul_typed(const T* gate, const T* up, T* out, int64_t I) {
  for_vectors(I, [&](int64_t i, int64_t left) {
    store_up_to(out + i, silu(load_up_to(gate + i, left)) * load_up_to(up + i, left), left);
  });
}

static void silu_mul_row(const void* gate, const void* up, void* out, int64_t I, DType dtype) {
  if (dtype == DType::kBFloat16) {
    silu_mul_typed(static_cast<const uint16_t*>(gate), static_cast<const uint16_t*>(up), static_cast<uint16_t*>(out), I);
  } else {
    silu_mul_typed(static_cast<const float*>(gate), static_cast<const float*>(up), static_cast<float*>(out), I);
  }
}

// Element e of the first half turns with element e of the second.
template <typename T>
static void rope_typed(const RopeHead& head) {
  const int64_t half = head.E / 2;
  const T* x = static_cast<const T*>(head.x);
  const T* weight = static_cast<const T*>(head.weight);
  T* out = static_cast<T*>(head.out);
  Vec scale = {};
  if (weight != nullptr) {
    scale = splat(inverse_rms(head.E, head.eps, [&](int64_t i, int64_t left) { return load_up_to(x + i, left); }));
  }
  auto normed = [&](int64_t i, int64_t left) {
    const Vec v = load_up_to(x + i, left);
    return weight == nullptr ? v : v * scale * load_up_to(weight + i, left);
  };
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const Vec first = normed(i, left), second = normed(half + i, left);
    const Vec cos = load_up_to(head.cos + i, left), sin = load_up_to(head.sin + i, left);
    store_up_to(out + i, first * cos - second * sin, left);
    store_up_to(out + half + i, second * cos + first * sin, left);
  }
}

static void rope_head(const RopeHead& head) {
  head.dtype == DType::kBFloat16 ? rope_typed<uint16_t>(head) : rope_typed<float>(head);
}

}  // namespace pspec::PSPEC_ISA
