// Dot products in fp32, of fp32 activations with fp32 or bf16 weights: the loop that streams the weights.
#pragma once

#include <type_traits>

#include "kernels.h"
#include "simd.h"

namespace pspec::PSPEC_ISA {

// out[r, o] = sum of the lanes of acc[r][o], as many at a time as a vector has lanes.
template <int RB, int OB>
static inline void store_sums(Vec* acc, float* out, int64_t out_stride) {
  constexpr int kTogether = RB * OB < kLanes ? RB * OB : kLanes;
  for (int first = 0; first < RB * OB; first += kTogether) {
    float sums[kLanes];
    store(sums, sum_lanes_of<kTogether>(acc + first));
    for (int i = 0; i < kTogether; ++i) out[(first + i) / OB * out_stride + (first + i) % OB] = sums[i];
  }
}

// How far ahead of the loop weights are fetched, in bytes. The hardware stops at each page and loses its place when
// rows are read side by side; this nearly doubled the rate from memory.
constexpr int64_t kPrefetchBytes = 8192;

// acc[r][o] += x[r] * weight[o]. The only code that touches single accumulators, and its loops always unroll:
// one index that stays variable and GCC keeps them all in memory.
template <int RB, int OB>
static inline void add_products(const float* x, int64_t x_stride, const Vec (&weight)[OB], Vec (&acc)[RB][OB]) {
  for (int r = 0; r < RB; ++r) {
    Vec row = load(x + r * x_stride);
    hold(row);  // loads, not multiply-adds, would limit the loop
    for (int o = 0; o < OB; ++o) acc[r][o] = fma(row, weight[o], acc[r][o]);
  }
}

// RB x OB dots at once, each in its own vector of lane accumulators, so that the blocking never changes a result:
// lane i sums the products at i, i + kLanes, ... and the lanes are added at the end.
template <int RB, int OB, typename W>
static inline void dot_tile(const float* x, int64_t x_stride, const W* w, int64_t I, float* out, int64_t out_stride) {
  Vec acc[RB][OB] = {};
  const int64_t whole = I - I % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    Vec weight[OB];
    for (int o = 0; o < OB; ++o) {
      weight[o] = load(w + o * I + i);
      __builtin_prefetch(reinterpret_cast<const char*>(w + o * I + i) + kPrefetchBytes);
    }
    add_products(x + i, x_stride, weight, acc);
  }
  if (whole < I) {
    Vec weight[OB];
    for (int o = 0; o < OB; ++o) weight[o] = load_partial(w + o * I + whole, I - whole);
    add_products(x + whole, x_stride, weight, acc);
  }
  store_sums<RB, OB>(&acc[0][0], out, out_stride);
}

// Weight rows per tile: enough accumulators to hide the latency of the multiply-add, few enough for the registers.
template <int RB>
constexpr int tile_width() {
  constexpr int kAccumulators = kRegisters / 2;
  return RB >= kAccumulators ? 1 : RB == 1 ? 8 : kAccumulators / RB;
}

template <int RB, typename W>
static void dot_rows(const float* x, int64_t x_stride, const W* w, int64_t O, int64_t I, float* out,
                     int64_t out_stride) {
  constexpr int OB = tile_width<RB>();
  int64_t o = 0;
  for (; o + OB <= O; o += OB) dot_tile<RB, OB>(x, x_stride, w + o * I, I, out + o, out_stride);
  for (; o < O; ++o) dot_tile<RB, 1>(x, x_stride, w + o * I, I, out + o, out_stride);
}

// Calls dots(rows, r, o, width) for blocks of 8, 4, 2 or 1 activation rows from r on (`rows` an integral_constant) and of
// `width` weight rows from o on, few enough to stay in L1 while all activation rows pass.
template <typename Dots>
static void for_row_blocks(int64_t R, int64_t O, const Dots& dots) {
  constexpr int64_t kBlock = 16;
  for (int64_t o = 0; o < O; o += kBlock) {
    const int64_t width = O - o < kBlock ? O - o : kBlock;
    int64_t r = 0;
    auto step = [&](auto rows) {
      for (; r + rows() <= R; r += rows()) dots(rows, r, o, width);
    };
    step(std::integral_constant<int, 8>());
    step(std::integral_constant<int, 4>());
    step(std::integral_constant<int, 2>());
    step(std::integral_constant<int, 1>());
  }
}

template <typename W>
static void dot_typed(const float* x, int64_t x_stride, int64_t R, const W* w, int64_t O, int64_t I, float* out,
                      int64_t out_stride) {
  for_row_blocks(R, O, [&](auto rows, int64_t r, int64_t o, int64_t width) {
    dot_rows<decltype(rows)::value>(x + r * x_stride, x_stride, w + o * I, width, I, out + r * out_stride + o,
                                    out_stride);
  });
}

}  // namespace pspec::PSPEC_ISA
