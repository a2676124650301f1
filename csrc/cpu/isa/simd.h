// One float vector type per instruction set, from GCC/Clang vector extensions, and the few operations we need.
//
// The multiply-add is explicit, never left to the compiler's contraction, so every instantiation of a kernel
// template does the same operations. Functions have internal linkage: see common/hd.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "../../params.h"

#if defined(PSPEC_ISA_AVX512) || defined(PSPEC_ISA_AVX2)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace pspec::PSPEC_ISA {

#if defined(PSPEC_ISA_AVX512)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(PSPEC_ISA_AVX2)
constexpr int kLanes = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRegisters = 32;
#else
constexpr int kLanes = 4, kRegisters = 16;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecInt __attribute__((vector_size(4 * kLanes)));
typedef uint16_t VecHalf __attribute__((vector_size(2 * kLanes)));
typedef uint32_t VecWord __attribute__((vector_size(4 * kLanes)));

static inline Vec splat(float x) { return x - Vec{}; }

static inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(PSPEC_ISA_AVX512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(PSPEC_ISA_AVX2)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

static inline Vec load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}

// Makes the compiler hold v in a register instead of reading it again from memory for each use.
static inline void hold(Vec& v) {
#if defined(PSPEC_X86)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
}

static inline void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

// bf16 is the upper half of an fp32. (GCC 12 makes slow code of a plain conversion from 16 to 32 bits.)
static inline Vec load(const uint16_t* p) {
#if defined(PSPEC_ISA_AVX512)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#elif defined(PSPEC_ISA_AVX2)
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
#elif defined(__aarch64__)
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
#else
  VecHalf half;
  memcpy(&half, p, sizeof half);
  return (Vec)(__builtin_convertvector(half, VecWord) << 16);
#endif
}

// The first n < kLanes elements, zeros after them; reads nothing beyond.
template <typename T>
static inline Vec load_partial(const T* p, int64_t n) {
  T padded[kLanes] = {};
  memcpy(padded, p, n * sizeof(T));
  return load(padded);
}

// Rounded to bf16, to nearest with ties to even; NaN stays NaN.
static inline Vec round_bf16(Vec v) {
  const VecWord bits = (VecWord)v;
  const VecWord rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const VecWord quiet = bits | 0x00400000;
  return (Vec)((v == v ? rounded : quiet) & 0xffff0000u);
}

// What a stored T holds.
template <typename T>
static inline Vec round_to(Vec v) {
  if constexpr (sizeof(T) == sizeof(uint16_t)) return round_bf16(v);
  return v;
}

static inline void store(uint16_t* p, Vec v) {
  const VecWord upper = (VecWord)round_bf16(v) >> 16;
#if defined(PSPEC_ISA_AVX512)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)upper));
#elif defined(PSPEC_ISA_AVX2)
  const __m128i low = _mm256_castsi256_si128((__m256i)upper), high = _mm256_extracti128_si256((__m256i)upper, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, high));
#elif defined(__aarch64__)
  vst1_u16(p, vmovn_u32(upper));
#else
  const VecHalf half = __builtin_convertvector(upper, VecHalf);
  memcpy(p, &half, sizeof half);
#endif
}

// The first min(n, kLanes) elements, zeros after them.
template <typename T>
static inline Vec load_up_to(const T* p, int64_t n) {
  return n >= kLanes ? load(p) : load_partial(p, n);
}

// Stores the first min(n, kLanes) lanes.
template <typename T>
static inline void store_up_to(T* p, Vec v, int64_t n) {
  if (n >= kLanes) return store(p, v);
  T padded[kLanes];
  store(padded, v);
  memcpy(p, padded, n * sizeof(T));
}

// Writes the first n < kLanes elements.
static inline void store_partial(float* p, Vec v, int64_t n) {
  float all[kLanes];
  store(all, v);
  for (int64_t i = 0; i < n; ++i) p[i] = all[i];
}

static inline float to_float(float x) { return x; }
static inline float to_float(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

// Bit i: a[i] >= b[i].
static inline uint32_t at_least(Vec a, Vec b) {
#if defined(PSPEC_ISA_AVX512)
  return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
#elif defined(PSPEC_ISA_AVX2)
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
#elif defined(__aarch64__)
  return vaddvq_u32(vandq_u32(vcgeq_f32(a, b), uint32x4_t{1, 2, 4, 8}));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(a[i] >= b[i]) << i;
  return bits;
#endif
}

static inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Lanes of a and b side by side: index i < kLanes is a[i], else b[i - kLanes].
template <int... Index>
static inline Vec pick(Vec a, Vec b, std::integer_sequence<int, Index...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Index...);
#else
  return __builtin_shuffle(a, b, VecInt{Index...});
#endif
}

// One level of the lane sums of two vectors at once: lanes without bit H get a[i] + a[i ^ H], those with it the same
// of b.
template <int H, int... I>
static inline Vec add_level(Vec a, Vec b, std::integer_sequence<int, I...>) {
  const Vec own = pick(a, b, std::integer_sequence<int, ((I & H) ? I + kLanes : I)...>());
  const Vec other = pick(a, b, std::integer_sequence<int, ((I & H) ? (I ^ H) + kLanes : (I ^ H))...>());
  return own + other;
}

// Lane sums of N vectors (a power of two) at once: lane i ends up with the sum over v[i % N]. Always in the order of
// add_level for H = kLanes/2 .. 1, so a vector's sum does not depend on its company.
template <int N, int H = kLanes / 2>
static inline Vec sum_lanes_of(Vec* v) {
  constexpr int kLeft = N > H ? N - H : N;  // vectors left after this level
  static_assert(N <= 2 * H && (N & (N - 1)) == 0, "more vectors than lanes");
  for (int i = 0; i < kLeft; ++i) {
    v[i] = add_level<H>(v[i], v[N > H ? i + H : i], std::make_integer_sequence<int, kLanes>());
  }
  if constexpr (H == 1) {
    return v[0];
  } else {
    return sum_lanes_of<kLeft, H / 2>(v);
  }
}

static inline float sum_lanes(Vec v) { return sum_lanes_of<1>(&v)[0]; }

template <int H = kLanes / 2, int... I>
static inline float max_lanes(Vec v, std::integer_sequence<int, I...> all) {
  v = max(v, pick(v, v, std::integer_sequence<int, (I ^ H)...>()));
  if constexpr (H == 1) {
    return v[0];
  } else {
    return max_lanes<H / 2>(v, all);
  }
}
static inline float max_lanes(Vec v) { return max_lanes(v, std::make_integer_sequence<int, kLanes>()); }

// One level of a transposition: exchanges the off-diagonal H x H blocks of each 2H x 2H block.
template <int H, int... I>
static inline void transpose_level(Vec* rows, std::integer_sequence<int, I...>) {
  for (int i = 0; i < kLanes; ++i) {
    if (i & H) continue;
    const Vec a = rows[i], b = rows[i + H];
    rows[i] = pick(a, b, std::integer_sequence<int, ((I & H) ? (I ^ H) + kLanes : I)...>());
    rows[i + H] = pick(a, b, std::integer_sequence<int, ((I & H) ? I + kLanes : (I ^ H))...>());
  }
}

// kLanes rows of four-byte elements become columns.
template <int H = kLanes / 2>
static inline void transpose(Vec* rows) {
  transpose_level<H>(rows, std::make_integer_sequence<int, kLanes>());
  if constexpr (H > 1) transpose<H / 2>(rows);
}

// exp for x <= 0 (softmax after subtracting the maximum), exp(0) = 1 exactly, 0 below -87.3.
// x = k ln 2 + r, |r| <= ln(2)/2; e^r by a polynomial of degree 6.
static inline Vec exp_nonpositive(Vec x) {
  constexpr float kSmallest = -87.3f;  // keeps 2^k a normal number
  const VecInt in_range = x >= splat(kSmallest);
  x = in_range ? x : splat(kSmallest);
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = fma(x, splat(1.44269504f), magic);
  const Vec k = shifted - magic;
  Vec r = fma(k, splat(-0.693359375f), x);
  r = fma(k, splat(2.12194440e-4f), r);
  Vec p = splat(1.0f / 720);
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  const VecInt exponent = ((VecInt)shifted - (VecInt)magic + 127) << 23;
  return in_range ? p * (Vec)exponent : Vec{};
}

static inline float exp_nonpositive(float x) { return exp_nonpositive(splat(x))[0]; }

}  // namespace pspec::PSPEC_ISA
