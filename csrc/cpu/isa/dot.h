// Dot products of a few activation rows with many weight rows: the loop that streams the weights.
#pragma once

#include "kernels.h"
#include "simd.h"
#if defined(PSPEC_ISA_AMX)
#include "amx.h"
#endif

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
    for (int r = 0; r < RB; ++r) {
      Vec row = load(x + r * x_stride + i);
      hold(row);  // loads, not multiply-adds, would limit the loop
      for (int o = 0; o < OB; ++o) acc[r][o] = fma(row, weight[o], acc[r][o]);
    }
  }
  if (whole < I) {
    for (int o = 0; o < OB; ++o) {
      const Vec weight = load_partial(w + o * I + whole, I - whole);
      for (int r = 0; r < RB; ++r) acc[r][o] = fma(load(x + r * x_stride + whole), weight, acc[r][o]);
    }
  }
  store_sums<RB, OB>(&acc[0][0], out, out_stride);
}

// Weight rows per tile: enough accumulators to hide the latency of the multiply-add, few enough for the registers.
template <int RB>
constexpr int tile_width() {
  constexpr int kAccumulators = kLanes == 16 ? 16 : 8;
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

template <typename W>
static void dot_typed(const float* x, int64_t x_stride, int64_t R, const W* w, int64_t O, int64_t I, float* out,
                      int64_t out_stride) {
  constexpr int64_t kBlock = 16;  // weight rows that stay in L1 while all activation rows pass
  for (int64_t o = 0; o < O; o += kBlock) {
    const int64_t width = O - o < kBlock ? O - o : kBlock;
    const W* block = w + o * I;
    int64_t r = 0;
    auto step = [&](auto dots, int64_t rows) {
      for (; r + rows <= R; r += rows) {
        dots(x + r * x_stride, x_stride, block, width, I, out + r * out_stride + o, out_stride);
      }
    };
    step(dot_rows<8, W>, 8);
    step(dot_rows<4, W>, 4);
    step(dot_rows<2, W>, 2);
    step(dot_rows<1, W>, 1);
  }
}

static int64_t row_stride(int64_t I) { return round_up(I, kRowAlign); }

// Enough for fp32 rows and, where there is a tile unit, for 16 rows of bf16 at least.
static int64_t packed_floats(int64_t R, int64_t I) {
#if defined(PSPEC_ISA_AMX)
  return round_up(R, 16) * round_up(I, 32);
#else
  return R * row_stride(I);
#endif
}

#if defined(PSPEC_ISA_AMX)
static bool uses_tiles(DType x_dtype, DType w_dtype) {
  return x_dtype == DType::kBFloat16 && w_dtype == DType::kBFloat16;
}
#endif

// fp32 rows, zero padded to row_stride(I).
template <typename T>
static void pack_rows(const T* x, int64_t R, int64_t I, float* packed) {
  for (int64_t r = 0; r < R; ++r) {
    float* row = packed + r * row_stride(I);
    for (int64_t i = 0; i < I; ++i) row[i] = to_float(x[r * I + i]);
    for (int64_t i = I; i < row_stride(I); ++i) row[i] = 0.0f;
  }
}

static void pack(const void* x, DType x_dtype, [[maybe_unused]] DType w_dtype, int64_t R, int64_t I, float* packed) {
#if defined(PSPEC_ISA_AMX)
  if (uses_tiles(x_dtype, w_dtype)) {
    pack_tiles(static_cast<const uint16_t*>(x), R, I, reinterpret_cast<uint16_t*>(packed));
    return;
  }
#endif
  if (x_dtype == DType::kBFloat16) {
    pack_rows(static_cast<const uint16_t*>(x), R, I, packed);
  } else {
    pack_rows(static_cast<const float*>(x), R, I, packed);
  }
}

static void dot(const float* packed, [[maybe_unused]] DType x_dtype, int64_t R, const void* w, DType w_dtype,
                int64_t O, int64_t I, float* out, int64_t out_stride) {
#if defined(PSPEC_ISA_AMX)
  if (uses_tiles(x_dtype, w_dtype)) {
    dot_tiles(reinterpret_cast<const uint16_t*>(packed), R, static_cast<const uint16_t*>(w), O, I, out, out_stride);
    return;
  }
#endif
  if (w_dtype == DType::kBFloat16) {
    dot_typed(packed, row_stride(I), R, static_cast<const uint16_t*>(w), O, I, out, out_stride);
  } else {
    dot_typed(packed, row_stride(I), R, static_cast<const float*>(w), O, I, out, out_stride);
  }
}

}  // namespace pspec::PSPEC_ISA
