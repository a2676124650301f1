// Dot products in bf16 with AVX-512 BF16: pairs of products summed into fp32 lanes, no conversion of the weights.
//
// The instruction adds x[2i] w[2i] and x[2i+1] w[2i+1] to lane i, in an order and with a rounding of its own that are
// the same for every lane, so a dot still depends on its own two rows alone. Denormals count as zero.
#pragma once

#define PSPEC_HALF_DOTS

#include <immintrin.h>

#include "dot_fp32.h"

namespace pspec::PSPEC_ISA {

constexpr int kHalfLanes = 2 * kLanes;  // bf16 elements of a vector

static int64_t half_stride(int64_t I) { return round_up(I, kHalfLanes); }

static int64_t packed_halves(int64_t R, int64_t I) { return R * half_stride(I); }

// Rows, zero padded to whole vectors.
static void pack_half(const uint16_t* x, int64_t R, int64_t I, uint16_t* packed) {
  for (int64_t r = 0; r < R; ++r, packed += half_stride(I)) {
    memcpy(packed, x + r * I, I * sizeof(uint16_t));
    memset(packed + I, 0, (half_stride(I) - I) * sizeof(uint16_t));
  }
}

static inline __m512bh load_half(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }

// RB x OB dots at once, as dot_tile does it in fp32.
template <int RB, int OB>
static inline void dot_half_tile(const uint16_t* x, const uint16_t* w, int64_t I, float* out, int64_t out_stride) {
  const int64_t stride = half_stride(I), whole = I - I % kHalfLanes;
  __m512 acc[RB][OB];
  for (int r = 0; r < RB; ++r) {
    for (int o = 0; o < OB; ++o) acc[r][o] = _mm512_setzero_ps();
  }
  for (int64_t i = 0; i < whole; i += kHalfLanes) {
    __m512bh weight[OB];
    for (int o = 0; o < OB; ++o) {
      weight[o] = load_half(w + o * I + i);
      __builtin_prefetch(reinterpret_cast<const char*>(w + o * I + i) + kPrefetchBytes);
    }
    for (int r = 0; r < RB; ++r) {
      const __m512bh row = load_half(x + r * stride + i);
      for (int o = 0; o < OB; ++o) acc[r][o] = _mm512_dpbf16_ps(acc[r][o], row, weight[o]);
    }
  }
  if (whole < I) {
    for (int o = 0; o < OB; ++o) {
      uint16_t tail[kHalfLanes] = {};
      memcpy(tail, w + o * I + whole, (I - whole) * sizeof(uint16_t));
      for (int r = 0; r < RB; ++r) {
        acc[r][o] = _mm512_dpbf16_ps(acc[r][o], load_half(x + r * stride + whole), load_half(tail));
      }
    }
  }
  store_sums<RB, OB>(reinterpret_cast<Vec*>(&acc[0][0]), out, out_stride);
}

template <int RB>
static void dot_half_rows(const uint16_t* x, const uint16_t* w, int64_t O, int64_t I, float* out, int64_t out_stride) {
  constexpr int OB = tile_width<RB>();
  int64_t o = 0;
  for (; o + OB <= O; o += OB) dot_half_tile<RB, OB>(x, w + o * I, I, out + o, out_stride);
  for (; o < O; ++o) dot_half_tile<RB, 1>(x, w + o * I, I, out + o, out_stride);
}

// As Kernels::dot, of activations packed by pack_half.
static void dot_half(const uint16_t* x, int64_t R, const uint16_t* w, int64_t O, int64_t I,
                     WeightStream* /*stream*/, float* out, int64_t out_stride) {
  const int64_t stride = half_stride(I);
  for_row_blocks(R, O, [&](auto rows, int64_t r, int64_t o, int64_t width) {
    dot_half_rows<decltype(rows)::value>(x + r * stride, w + o * I, width, I, out + r * out_stride + o, out_stride);
  });
}

}  // namespace pspec::PSPEC_ISA
