// Int8 dot products by AVX-512 VNNI: four byte products at a time, one weight row per lane.
#pragma once

#include <immintrin.h>

#include "int8_layout.h"
#include "kernels.h"
#include "simd.h"

namespace pspec::PSPEC_ISA {

// [2][rows][64] bytes: q = 256 * first + second with digits in -128..127, or the first plane alone.
static inline void store_digits(const VecInt* q, bool a8, int8_t* digits, int64_t r, int64_t rows) {
  int8_t* high = digits + r * kInt8Depth;
  int8_t* low = high + rows * kInt8Depth;
  for (int i = 0; i < Int8Group::kVectors; ++i) {
    const VecInt upper = a8 ? q[i] : (q[i] + 128) >> 8, lower = q[i] - (upper << 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high + i * kLanes), _mm512_cvtepi32_epi8((__m512i)upper));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low + i * kLanes), _mm512_cvtepi32_epi8((__m512i)lower));
  }
}

static inline __m512i quad(const int8_t* digits) {
  int32_t bytes;
  memcpy(&bytes, digits, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

// dot_strip for a number of rows known to the compiler.
template <int Rows, bool kA8>
static inline void dot_bytes(const Int8Rows& x, const uint8_t* tile, int64_t groups, bool fetch, Vec (*acc)[kInt8Vecs]) {
  Vec total[Rows] = {};
  const int8_t* high = x.digits;
  for (int64_t g = 0; g < groups; ++g, tile += kInt8TileBytes, high += Rows * kDigitBytes) {
    const int8_t* low = high + Rows * kInt8Depth;
    if (fetch) fetch_next(tile);
    __m512i upper[Rows], lower[Rows];
    for (int r = 0; r < Rows; ++r) {
      upper[r] = _mm512_setzero_si512();
      lower[r] = _mm512_set1_epi32(-x.correction[g * Rows + r]);
    }
#pragma GCC unroll 16
    for (int k = 0; k < kInt8Quads; ++k) {
      const __m512i weights = _mm512_loadu_si512(tile + k * 64);
      for (int r = 0; r < Rows; ++r) {
        upper[r] = _mm512_dpbusd_epi32(upper[r], weights, quad(high + r * kInt8Depth + 4 * k));
        if (!kA8) lower[r] = _mm512_dpbusd_epi32(lower[r], weights, quad(low + r * kInt8Depth + 4 * k));
      }
    }
    for (int r = 0; r < Rows; ++r) {
      const VecInt sum = (VecInt)(kA8 ? upper[r] : _mm512_slli_epi32(upper[r], 8)) + (VecInt)lower[r];
      add_scaled(&sum, tile, x.scale[g * Rows + r], &total[r]);
    }
  }
  for (int r = 0; r < Rows; ++r) acc[r][0] = total[r];
}

template <int Most>
static inline void dot_some_bytes(const Int8Rows& x, int64_t rows, bool a8, const uint8_t* strip, int64_t groups,
                                  bool fetch, Vec (*acc)[kInt8Vecs]) {
  with_rows<Most>(rows, [&](auto count) {
    constexpr int kRows = decltype(count)::value;
    a8 ? dot_bytes<kRows, true>(x, strip, groups, fetch, acc) : dot_bytes<kRows, false>(x, strip, groups, fetch, acc);
  });
}

}  // namespace pspec::PSPEC_ISA

#if !defined(PSPEC_ISA_AMX)
namespace pspec::PSPEC_ISA {

constexpr int kMostInt8Rows = 8;

static int64_t int8_block(int64_t /*R*/, int64_t left) { return left < kMostInt8Rows ? left : kMostInt8Rows; }

struct StripScope {
  explicit StripScope(int64_t) {}
};

static inline void dot_strip(StripScope& /*scope*/, const Int8Rows& x, int64_t rows, int64_t /*real*/, bool a8, const uint8_t* strip,
                             int64_t groups, bool fetch, Vec (*acc)[kInt8Vecs]) {
  dot_some_bytes<kMostInt8Rows>(x, rows, a8, strip, groups, fetch, acc);
}

}  // namespace pspec::PSPEC_ISA
#endif
