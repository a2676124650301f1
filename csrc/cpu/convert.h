// Between the storage types and fp32.
#pragma once

#include <cstdint>
#include <cstring>

#include "../params.h"
#include "isa/kernels.h"
#include "thread_pool.h"

namespace pspec::cpu {

inline int64_t size_of(DType dtype) { return dtype == DType::kBFloat16 ? 2 : 4; }

// Address of element `index` of an untyped array.
inline const void* at(const void* base, DType dtype, int64_t index) {
  return static_cast<const char*>(base) + index * size_of(dtype);
}
inline void* at(void* base, DType dtype, int64_t index) { return static_cast<char*>(base) + index * size_of(dtype); }

inline float bf16_to_float(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t float_to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return static_cast<uint16_t>((bits >> 16) | 0x0040);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline void to_float(const void* from, DType dtype, int64_t n, float* to) {
  if (dtype == DType::kFloat32) {
    std::memcpy(to, from, n * sizeof(float));
    return;
  }
  const auto* half = static_cast<const uint16_t*>(from);
  for (int64_t i = 0; i < n; ++i) to[i] = bf16_to_float(half[i]);
}

inline void from_float(const float* from, int64_t n, DType dtype, void* to) {
  if (dtype == DType::kFloat32) {
    std::memcpy(to, from, n * sizeof(float));
    return;
  }
  auto* half = static_cast<uint16_t*>(to);
  for (int64_t i = 0; i < n; ++i) half[i] = float_to_bf16(from[i]);
}

// Activation rows [R, I] packed for kernels().dot, in the calling thread's scratch.
inline const float* pack_activations(const void* x, DType x_dtype, DType w_dtype, int64_t R, int64_t I) {
  float* packed = scratch(ScratchSlot::kActivations, kernels().packed_floats(R, I));
  kernels().pack(x, x_dtype, w_dtype, R, I, packed);
  return packed;
}

}  // namespace pspec::cpu
