// Dot products of a few activation rows with many weight rows, by the instructions this set has for their dtypes.
#pragma once

#include "dot_fp32.h"
#include "dot_int8.h"
#if defined(PSPEC_ISA_AMX)
#include "dot_amx.h"
#elif defined(PSPEC_ISA_AVX512BF16)
#include "dot_bf16.h"
#endif

namespace pspec::PSPEC_ISA {

#if defined(PSPEC_ISA_AMX)
constexpr bool kFollowsStream = true;
#else
constexpr bool kFollowsStream = false;
#endif

// Whether bf16 is multiplied as it is, by pack_half and dot_half.
static bool is_half([[maybe_unused]] DType x_dtype, [[maybe_unused]] DType w_dtype) {
#if defined(PSPEC_HALF_DOTS)
  return x_dtype == DType::kBFloat16 && w_dtype == DType::kBFloat16;
#else
  return false;
#endif
}

static int64_t row_stride(int64_t I) { return round_up(I, kRowAlign); }

// Room for any form.
static int64_t packed_floats(int64_t R, int64_t I) {
  const int64_t int8 = packed_int8_floats(R, I), fp32 = R * row_stride(I), floats = int8 > fp32 ? int8 : fp32;
#if defined(PSPEC_HALF_DOTS)
  const int64_t halves = packed_halves(R, I);
  return halves > 2 * floats ? halves / 2 : floats;
#else
  return floats;
#endif
}

// fp32 rows, zero padded to row_stride(I).
template <typename T>
static void pack_rows(const T* x, int64_t R, int64_t I, float* packed) {
  for (int64_t r = 0; r < R; ++r) {
    float* row = packed + r * row_stride(I);
    for (int64_t i = 0; i < I; ++i) row[i] = to_float(x[r * I + i]);
    for (int64_t i = I; i < row_stride(I); ++i) row[i] = 0.0f;
  }
}

static void pack(const void* x, DType x_dtype, DType w_dtype, int64_t R, int64_t I, float* packed) {
  if (is_int8(w_dtype)) {
    const bool a8 = w_dtype == DType::kInt8A8;
    x_dtype == DType::kBFloat16 ? pack_int8(static_cast<const uint16_t*>(x), a8, R, I, packed)
                                : pack_int8(static_cast<const float*>(x), a8, R, I, packed);
  } else if (is_half(x_dtype, w_dtype)) {
#if defined(PSPEC_HALF_DOTS)
    pack_half(static_cast<const uint16_t*>(x), R, I, reinterpret_cast<uint16_t*>(packed));
#endif
  } else if (x_dtype == DType::kBFloat16) {
    pack_rows(static_cast<const uint16_t*>(x), R, I, packed);
  } else {
    pack_rows(static_cast<const float*>(x), R, I, packed);
  }
}

static void dot(const float* packed, DType x_dtype, int64_t R, const void* w, DType w_dtype, int64_t O, int64_t I,
                [[maybe_unused]] WeightStream* stream, float* out, int64_t out_stride) {
  if (is_int8(w_dtype)) {
    dot_int8(packed, w_dtype == DType::kInt8A8, R, w, O, I, out, out_stride);
  } else if (is_half(x_dtype, w_dtype)) {
#if defined(PSPEC_HALF_DOTS)
    dot_half(reinterpret_cast<const uint16_t*>(packed), R, static_cast<const uint16_t*>(w), O, I, stream, out,
             out_stride);
#endif
  } else if (w_dtype == DType::kBFloat16) {
    dot_typed(packed, row_stride(I), R, static_cast<const uint16_t*>(w), O, I, out, out_stride);
  } else {
    dot_typed(packed, row_stride(I), R, static_cast<const float*>(w), O, I, out, out_stride);
  }
}

}  // namespace pspec::PSPEC_ISA
