// Between the storage types and fp32.
#pragma once

#include <cstdint>
#include <cstring>

#include "../params.h"
#include "isa/int8_layout.h"
#include "isa/kernels.h"
#include "thread_pool.h"

namespace pspec::cpu {

inline int64_t size_of(DType dtype) { return dtype == DType::kBFloat16 ? 2 : 4; }

// Address of element `index` of an untyped array.
inline const void* at(const void* base, DType dtype, int64_t index) {
  return static_cast<const char*>(base) + index * size_of(dtype);
}
inline void* at(void* base, DType dtype, int64_t index) { return static_cast<char*>(base) + index * size_of(dtype); }

// Rows `o` and on of a weight matrix with I inputs; `o` is a multiple of 16, so that int8 weights have a tile there.
inline const void* weight_rows(const void* w, DType dtype, int64_t o, int64_t I) {
  return is_int8(dtype) ? static_cast<const char*>(w) + int8_offset(o, I) : at(w, dtype, o * I);
}

// Whether Kernels::dot fetches such weights by a stream.
inline bool follows_stream(DType x_dtype, DType w_dtype) {
  return kernels().follows_stream && x_dtype == DType::kBFloat16 && w_dtype == DType::kBFloat16;
}

inline void to_float(const void* from, DType dtype, int64_t n, float* to) {
  if (dtype == DType::kFloat32) {
    std::memcpy(to, from, n * sizeof(float));
    return;
  }
  kernels().to_float(static_cast<const uint16_t*>(from), n, to);
}

// Rounds to nearest, ties to even; NaN stays NaN.
inline void from_float(const float* from, int64_t n, DType dtype, void* to) {
  if (dtype == DType::kFloat32) {
    std::memcpy(to, from, n * sizeof(float));
    return;
  }
  kernels().from_float(from, n, static_cast<uint16_t*>(to));
}

// Activation rows [R, I] packed for kernels().dot, in the calling thread's scratch.
inline const float* pack_activations(const void* x, DType x_dtype, DType w_dtype, int64_t R, int64_t I) {
  float* packed = scratch(ScratchSlot::kActivations, kernels().packed_floats(R, I));
  kernels().pack(x, x_dtype, w_dtype, R, I, packed);
  return packed;
}

}  // namespace pspec::cpu
