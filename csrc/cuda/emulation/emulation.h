// CUDA's names for g++: with `-x c++ -DPSPEC_EMULATE -include` this file, a .cu file runs on the host.
//
// What differs from CUDA: kernels and their static __shared__ variables must not be seen outside their file (anonymous
// namespace; a template's statics would otherwise land in other sections), dynamic shared memory is declared by
// PSPEC_DYNAMIC_SHARED, launches go through PSPEC_LAUNCH, and a loop that waits for another thread calls __nanosleep.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "grid.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("pspec_shared")))
#define __align__(n) alignas(n)

#define threadIdx (::pspec::emulation::thread_index)
#define blockIdx (::pspec::emulation::block_index)
#define blockDim (::pspec::emulation::block_dim)
#define gridDim (::pspec::emulation::grid_dim)
constexpr int warpSize = 32;

using cudaStream_t = void*;

// --- Vector types ----------------------------------------------------------------------------------------------------

struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// --- Barriers, fences, time ------------------------------------------------------------------------------------------

inline void __syncthreads() { pspec::emulation::block_barrier(0, 0, 0); }
inline int __syncthreads_count(int holds) { return pspec::emulation::block_barrier(0, 0, holds != 0); }
inline int __syncthreads_or(int holds) { return __syncthreads_count(holds) != 0; }
inline int __syncthreads_and(int holds) { return __syncthreads_count(holds == 0) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu) { pspec::emulation::exchange("__syncwarp", mask, 0); }
inline void __threadfence_block() { pspec::emulation::maybe_pause(); }
inline void __threadfence() { pspec::emulation::maybe_pause(); }
inline void __threadfence_system() { pspec::emulation::maybe_pause(); }
inline void __nanosleep(unsigned) { pspec::emulation::spin(); }
[[noreturn]] inline void __trap() { pspec::emulation::fail("__trap"); }
inline void cudaGraphSetConditional(uint64_t handle, unsigned value) {
  auto& seen = pspec::emulation::machine().conditional;
  seen = {handle, value, seen.calls + 1};
}
inline long long clock64() { return static_cast<long long>(pspec::emulation::machine().launches); }

// --- Warp collectives ------------------------------------------------------------------------------------------------

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const auto all = pspec::emulation::exchange("__shfl_sync", mask, value);
  const int lane = pspec::emulation::self().lane();
  return all.lane[lane / width * width + (source & (width - 1))];
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const auto all = pspec::emulation::exchange("__shfl_up_sync", mask, value);
  const int lane = pspec::emulation::self().lane(), from = lane - static_cast<int>(delta);
  return from < lane / width * width ? value : all.lane[from];
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const auto all = pspec::emulation::exchange("__shfl_down_sync", mask, value);
  const int lane = pspec::emulation::self().lane(), from = lane + static_cast<int>(delta);
  return from >= lane / width * width + width ? value : all.lane[from];
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
  const auto all = pspec::emulation::exchange("__shfl_xor_sync", mask, value);
  const int lane = pspec::emulation::self().lane(), from = lane ^ flip;
  return from >= lane / width * width + width ? value : all.lane[from];
}

inline unsigned __ballot_sync(unsigned mask, int holds) {
  const auto all = pspec::emulation::exchange("__ballot_sync", mask, holds != 0 ? 1 : 0);
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) ballot |= (mask >> lane & 1) && all.lane[lane] ? 1u << lane : 0u;
  return ballot;
}
inline int __any_sync(unsigned mask, int holds) { return __ballot_sync(mask, holds) != 0; }
inline int __all_sync(unsigned mask, int holds) { return __ballot_sync(mask, holds) == mask; }

template <typename T, typename Op>
T __pspec_reduce(const char* name, unsigned mask, T value, Op op) {
  const auto all = pspec::emulation::exchange(name, mask, value);
  bool first = true;
  T result{};
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    result = first ? all.lane[lane] : op(result, all.lane[lane]);
    first = false;
  }
  return result;
}
template <typename T>
T __reduce_add_sync(unsigned mask, T value) {
  return __pspec_reduce("__reduce_add_sync", mask, value, [](T a, T b) { return static_cast<T>(a + b); });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value) {
  return __pspec_reduce("__reduce_min_sync", mask, value, [](T a, T b) { return std::min(a, b); });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value) {
  return __pspec_reduce("__reduce_max_sync", mask, value, [](T a, T b) { return std::max(a, b); });
}

// --- Atomics: return the old value -----------------------------------------------------------------------------------

template <typename T, typename Op>
T __pspec_atomic(T* at, Op op) {
  pspec::emulation::maybe_pause();
  const T old = *at;
  *at = op(old);
  return old;
}
template <typename T, typename U>
T atomicAdd(T* at, U value) {
  return __pspec_atomic(at, [=](T old) { return static_cast<T>(old + static_cast<T>(value)); });
}
template <typename T, typename U>
T atomicSub(T* at, U value) {
  return __pspec_atomic(at, [=](T old) { return static_cast<T>(old - static_cast<T>(value)); });
}
template <typename T, typename U>
T atomicExch(T* at, U value) {
  return __pspec_atomic(at, [=](T) { return static_cast<T>(value); });
}
template <typename T, typename U>
T atomicMax(T* at, U value) {
  return __pspec_atomic(at, [=](T old) { return std::max(old, static_cast<T>(value)); });
}
template <typename T, typename U>
T atomicMin(T* at, U value) {
  return __pspec_atomic(at, [=](T old) { return std::min(old, static_cast<T>(value)); });
}
template <typename T, typename U>
T atomicOr(T* at, U value) {
  return __pspec_atomic(at, [=](T old) { return static_cast<T>(old | static_cast<T>(value)); });
}
template <typename T, typename U>
T atomicAnd(T* at, U value) {
  return __pspec_atomic(at, [=](T old) { return static_cast<T>(old & static_cast<T>(value)); });
}
template <typename T, typename U, typename V>
T atomicCAS(T* at, U expected, V desired) {
  return __pspec_atomic(at, [=](T old) { return old == static_cast<T>(expected) ? static_cast<T>(desired) : old; });
}

// --- Arithmetic ------------------------------------------------------------------------------------------------------

template <typename T>
T __ldg(const T* at) {
  return *at;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
template <typename To, typename From>
To __pspec_bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &x, sizeof to);
  return to;
}
inline int __float_as_int(float x) { return __pspec_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return __pspec_bits<unsigned>(x); }
inline float __int_as_float(int x) { return __pspec_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return __pspec_bits<float>(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frsqrt_rn(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
using std::max;
using std::min;
