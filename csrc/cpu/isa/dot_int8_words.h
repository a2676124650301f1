// Int8 dot products without byte instructions: weights widened to 16 bits as they are read; plain loops, or AVX2.
#pragma once

#include "int8_layout.h"
#include "kernels.h"
#include "simd.h"

namespace pspec::PSPEC_ISA {

// [rows][64] of q, in 16 bits.
static inline void store_digits(const VecInt* q, bool /*a8*/, int8_t* digits, int64_t r, int64_t /*rows*/) {
  int32_t values[kInt8Depth];
  memcpy(values, q, sizeof values);
  int16_t* to = reinterpret_cast<int16_t*>(digits) + r * kInt8Depth;
  for (int i = 0; i < kInt8Depth; ++i) to[i] = static_cast<int16_t>(values[i]);
}

#if defined(PSPEC_ISA_AVX2) || defined(PSPEC_ISA_AVX512)
constexpr int kMostInt8Rows = 2;

// Sums of the pairs of neighbours in `part`, four rows a vector.
static inline void join_sums(const __m256i* part, VecInt* sums) {
  constexpr int kOrder = 0b11011000;  // the halves of both operands alternate in the result of hadd
  const __m256i first = _mm256_permute4x64_epi64(_mm256_hadd_epi32(part[0], part[1]), kOrder);
  const __m256i second = _mm256_permute4x64_epi64(_mm256_hadd_epi32(part[2], part[3]), kOrder);
#if defined(PSPEC_ISA_AVX512)
  sums[0] = (VecInt)_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
#else
  sums[0] = (VecInt)first;
  sums[1] = (VecInt)second;
#endif
}

// sums[r] of one tile: four weight rows a vector, each with the sums of its first and of its second pairs.
template <int Rows>
static inline void tile_sums(const int16_t* x, const uint8_t* tile, VecInt (*sums)[kInt8Vecs]) {
  __m256i part[Rows][4] = {};
  for (int k = 0; k < kInt8Quads; ++k) {
    __m256i inputs[Rows];
    for (int r = 0; r < Rows; ++r) {
      int64_t four;
      memcpy(&four, x + r * kInt8Depth + 4 * k, sizeof four);
      inputs[r] = _mm256_set1_epi64x(four);
    }
    for (int i = 0; i < 4; ++i) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile + k * 64 + i * 16));
      const __m256i weights = _mm256_cvtepu8_epi16(bytes);
      for (int r = 0; r < Rows; ++r) {
        part[r][i] = _mm256_add_epi32(part[r][i], _mm256_madd_epi16(weights, inputs[r]));
      }
    }
  }
  for (int r = 0; r < Rows; ++r) join_sums(part[r], sums[r]);
}
#else
constexpr int kMostInt8Rows = 8;

template <int Rows>
static inline void tile_sums(const int16_t* x, const uint8_t* tile, VecInt (*sums)[kInt8Vecs]) {
  int16_t weights[kInt8Rows][kInt8Depth];
  for (int k = 0; k < kInt8Quads; ++k) {
    for (int o = 0; o < kInt8Rows; ++o) {
      for (int i = 0; i < 4; ++i) weights[o][4 * k + i] = tile[k * 64 + o * 4 + i];
    }
  }
  for (int r = 0; r < Rows; ++r) {
    int32_t sum[kInt8Rows] = {};
    for (int o = 0; o < kInt8Rows; ++o) {
      for (int i = 0; i < kInt8Depth; ++i) sum[o] += weights[o][i] * x[r * kInt8Depth + i];
    }
    memcpy(sums[r], sum, sizeof sum);
  }
}
#endif

static int64_t int8_block(int64_t /*R*/, int64_t left) { return left < kMostInt8Rows ? left : kMostInt8Rows; }

struct StripScope {
  explicit StripScope(int64_t) {}
};

static inline void dot_strip(StripScope& /*scope*/, const Int8Rows& x, int64_t rows, int64_t /*real*/, bool /*a8*/, const uint8_t* strip,
                             int64_t groups, bool fetch, Vec (*acc)[kInt8Vecs]) {
  with_rows<kMostInt8Rows>(rows, [&](auto count) {
    constexpr int kRows = decltype(count)::value;
    Vec total[kRows][kInt8Vecs] = {};
    const uint8_t* tile = strip;
    for (int64_t g = 0; g < groups; ++g, tile += kInt8TileBytes) {
      if (fetch) fetch_next(tile);
      VecInt sums[kRows][kInt8Vecs];
      tile_sums<kRows>(reinterpret_cast<const int16_t*>(x.digits + g * kRows * kDigitBytes), tile, sums);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kInt8Vecs; ++v) sums[r][v] -= x.correction[g * kRows + r];
        add_scaled(sums[r], tile, x.scale[g * kRows + r], total[r]);
      }
    }
    memcpy(acc, total, sizeof total);
  });
}

}  // namespace pspec::PSPEC_ISA
