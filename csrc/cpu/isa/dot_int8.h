// Dot products of int8 weights (int8_layout.h) with activations that are quantised as they are packed.
//
// A row's 64 inputs of a group become integers q = round(x * limit / m), m their largest magnitude: 16 bits wide, finer
// than bf16 (kInt8), or 8 (kInt8A8). A group's sum of products is an exact integer, whatever the instructions; the sums
// of the groups are scaled and added in fp32 in ascending order, without fused multiply-adds. So all instruction sets
// give the same bits. A group that holds NaN or an infinity has the scale NaN.
#pragma once

#include <type_traits>

#include "int8_layout.h"
#include "kernels.h"
#include "simd.h"

namespace pspec::PSPEC_ISA {

// A block of packed rows.
struct Int8Rows {
  int8_t* digits;       // [groups, rows, kDigitBytes], in the form of store_digits
  float* scale;         // [groups, rows] m / limit
  int32_t* correction;  // [groups, rows] kInt8Zero * sum of q: what the offset of the weights adds
};

constexpr int64_t kDigitBytes = 2 * kInt8Depth;  // of a group of one row; half of them are used with 8 bits

static int64_t packed_int8_floats(int64_t R, int64_t I) {
  return round_up(R, kInt8Rows) * int8_groups(I) * (kDigitBytes / sizeof(float) + 2);
}

// The block that starts at row r of R packed rows; blocks lie one after the other.
static Int8Rows int8_rows(float* packed, int64_t R, int64_t groups, int64_t r) {
  const int64_t all = round_up(R, kInt8Rows) * groups;
  int8_t* digits = reinterpret_cast<int8_t*>(packed);
  float* scale = reinterpret_cast<float*>(digits + all * kDigitBytes);
  int32_t* correction = reinterpret_cast<int32_t*>(scale + all);
  return {digits + r * groups * kDigitBytes, scale + r * groups, correction + r * groups};
}

static inline int32_t max_lanes(VecInt v) {
#if defined(PSPEC_ISA_AVX512)
  return _mm512_reduce_max_epi32((__m512i)v);
#else
  int32_t most = v[0];
  for (int i = 1; i < kLanes; ++i) most = v[i] > most ? v[i] : most;
  return most;
#endif
}

static inline int32_t sum_lanes(VecInt v) {
#if defined(PSPEC_ISA_AVX512)
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  int32_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
#endif
}

// The integers of a row's group.
struct Int8Group {
  static constexpr int kVectors = kInt8Depth / kLanes;
  VecInt q[kVectors] = {};
  float scale = 0.0f;
};

// The first n <= 64 inputs of a group; zeros after them.
template <typename T>
static inline Int8Group quantize_group(const T* x, int64_t n, float limit) {
  constexpr int32_t kInfinity = 0x7f800000;
  constexpr float kLeast = 0x1p-100f;  // smaller numbers count as zero: limit / max would overflow
  Vec v[Int8Group::kVectors];
  VecInt most = {};
  for (int i = 0; i < Int8Group::kVectors; ++i) {
    v[i] = i * kLanes < n ? load_up_to(x + i * kLanes, n - i * kLanes) : Vec{};
    const VecInt magnitude = (VecInt)v[i] & 0x7fffffff;  // the order of floats without sign is that of their bits
    most = magnitude > most ? magnitude : most;
  }
  Int8Group group;
  const int32_t bits = max_lanes(most);
  float max;
  memcpy(&max, &bits, sizeof max);
  if (bits >= kInfinity) group.scale = __builtin_nanf("");
  if (bits >= kInfinity || max < kLeast) return group;
  group.scale = max / limit;
  const Vec factor = splat(limit / max);
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, ties to even
  for (int i = 0; i < Int8Group::kVectors; ++i) group.q[i] = (VecInt)(v[i] * factor + magic) - (VecInt)magic;
  return group;
}

constexpr int kInt8Vecs = kInt8Rows / kLanes;  // vectors of one number per weight row

// acc += sums * scales, for the 16 weight rows of a tile.
static inline void add_scaled(const VecInt* sums, const uint8_t* tile, float x_scale, Vec* acc) {
  const float* scales = reinterpret_cast<const float*>(tile + kInt8Bytes);
  for (int v = 0; v < kInt8Vecs; ++v) {
    const Vec scale = load(scales + v * kLanes) * splat(x_scale);
    acc[v] = acc[v] + __builtin_convertvector(sums[v], Vec) * scale;
  }
}

// The first `width` of a row's 16 dots.
static inline void store_dots(const Vec* acc, int64_t width, float* out) {
  for (int v = 0; v < kInt8Vecs && v * kLanes < width; ++v) store_up_to(out + v * kLanes, acc[v], width - v * kLanes);
}

// Fetches the tile after this one: the hardware reads ahead by itself, but not into the nearest cache, and stops at
// each page.
static inline void fetch_next(const uint8_t* tile) {
  for (int64_t line = 0; line < kInt8TileBytes; line += 64) __builtin_prefetch(tile + kInt8TileBytes + line);
}

// Calls f with `rows` as an integral_constant of 1..Most.
template <int Most, typename F>
static inline void with_rows(int64_t rows, const F& f) {
  if (rows == Most) {
    f(std::integral_constant<int, Most>());
  } else if constexpr (Most > 1) {
    with_rows<Most - 1>(rows, f);
  }
}

}  // namespace pspec::PSPEC_ISA

// Each of these defines, for its instructions,
//   int8_block(R, left): how many rows the next block has if `left` of R rows are left (more: padding);
//   store_digits(q, a8, digits, r, rows): one row's digits of a group of a block;
//   dot_strip(scope, x, rows, real, a8, strip, groups, fetch, acc): dots of a block, whose first `real` rows are wanted,
//     with the 16 weight rows at `strip`, within the life of a StripScope.
#if defined(PSPEC_ISA_AMX)
#include "dot_int8_tiles.h"
#elif defined(PSPEC_ISA_AVX512BF16)
#include "dot_int8_bytes.h"
#else
#include "dot_int8_words.h"
#endif

namespace pspec::PSPEC_ISA {

template <typename T>
static void pack_int8(const T* x, bool a8, int64_t R, int64_t I, float* packed) {
  const int64_t groups = int8_groups(I);
  const float limit = a8 ? 127.0f : 127 * 256 + 127;  // two digits of -128..127
  for (int64_t first = 0, rows; first < R; first += rows) {
    rows = int8_block(R, R - first);
    const Int8Rows block = int8_rows(packed, R, groups, first);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        Int8Group group;
        if (first + r < R) group = quantize_group(x + (first + r) * I + g * kInt8Depth, I - g * kInt8Depth, limit);
        VecInt sum = {};
        for (const VecInt& q : group.q) sum += q;
        block.scale[g * rows + r] = group.scale;
        block.correction[g * rows + r] = kInt8Zero * sum_lanes(sum);
        store_digits(group.q, a8, block.digits + g * rows * kDigitBytes, r, rows);
      }
    }
  }
}

// As Kernels::dot, of activations packed by pack_int8.
static void dot_int8(const float* packed, bool a8, int64_t R, const void* w, int64_t O, int64_t I, float* out,
                     int64_t out_stride) {
  const int64_t groups = int8_groups(I);
  StripScope scope(R);
  for (int64_t o = 0; o < O; o += kInt8Rows) {
    const uint8_t* strip = static_cast<const uint8_t*>(w) + int8_offset(o, I);
    for (int64_t first = 0, rows; first < R; first += rows) {
      rows = int8_block(R, R - first);
      const Int8Rows block = int8_rows(const_cast<float*>(packed), R, groups, first);
      Vec acc[kMostInt8Rows][kInt8Vecs];
      dot_strip(scope, block, rows, R - first, a8, strip, groups, first == 0, acc);
      for (int64_t r = 0; r < rows && first + r < R; ++r) {
        store_dots(acc[r], O - o, out + (first + r) * out_stride + o);
      }
    }
  }
}

}  // namespace pspec::PSPEC_ISA
