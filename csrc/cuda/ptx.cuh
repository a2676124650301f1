// What the matrix kernels need below CUDA C++, one function per instruction, each with a software version for the
// emulation: asynchronous copies, the bf16 MMA, loads that skip L1, prefetches, programmatic dependent launch.
#pragma once

#include <cstdint>

#include "launch.cuh"

#if defined(PSPEC_EMULATE)
#include "emulation/tensor.h"
#endif

namespace pspec::cuda {

using Bf16 = uint16_t;  // the bits

__device__ __forceinline__ float widen(Bf16 x) { return __uint_as_float(static_cast<uint32_t>(x) << 16); }
__device__ __forceinline__ float widen_low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float widen_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

#if defined(PSPEC_EMULATE)

using emulation::copy_commit;
using emulation::copy_wait;
using emulation::mma_bf16;
__device__ __forceinline__ uint32_t narrow(float low, float high) {
  return emulation::round_bf16(low) | static_cast<uint32_t>(emulation::round_bf16(high)) << 16;
}
__device__ __forceinline__ uint64_t evict_first() { return 0; }
__device__ __forceinline__ void copy_16(void* shared, const void* global, bool inside) {
  emulation::copy_later(shared, global, inside);
}
__device__ __forceinline__ void copy_16(void* shared, const void* global, bool inside, uint64_t) {
  emulation::copy_later(shared, global, inside);
}
template <typename T>
__device__ __forceinline__ T load_l2(const T* at) {
  return *at;
}
__device__ __forceinline__ void prefetch_l2(const void*) {}
__device__ __forceinline__ void wait_for_previous_kernel() {}
__device__ __forceinline__ void let_next_kernel_start() {}
__device__ __forceinline__ uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t picked = 0;
  for (int i = 0; i < 4; ++i) picked |= static_cast<uint32_t>(both >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return picked;
}

#else

// Two values rounded to nearest even, the first in the low half.
__device__ __forceinline__ uint32_t narrow(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Cache policy of data that is read once.
__device__ __forceinline__ uint64_t evict_first() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// 16 bytes to shared memory behind the thread's back; zeros, and nothing is read, unless `inside`.
__device__ __forceinline__ void copy_16(void* shared, const void* global, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(inside ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_16(void* shared, const void* global, bool inside, uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(inside ? 16 : 0), "l"(policy)
               : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of the thread's groups are under way; what came is visible to this thread only.
__device__ __forceinline__ void copy_wait(int pending) {
#define PSPEC_WAIT(n)                                      \
  case n:                                                  \
    asm volatile("cp.async.wait_group " #n ";" ::: "memory"); \
    break
  switch (pending) {
    PSPEC_WAIT(1);
    PSPEC_WAIT(2);
    PSPEC_WAIT(3);
    PSPEC_WAIT(4);
    PSPEC_WAIT(5);
    PSPEC_WAIT(6);
    PSPEC_WAIT(7);
    PSPEC_WAIT(8);
    default:
      asm volatile("cp.async.wait_group 0;" ::: "memory");
  }
#undef PSPEC_WAIT
}

// sums [16, 8] += a [16, 16] b [16, 8]; a lane's part as the PTX manual says.
__device__ __forceinline__ void mma_bf16(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                         uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Through L2, not L1: what other blocks of the same launch wrote.
template <typename T>
__device__ __forceinline__ T load_l2(const T* at) {
  return __ldcg(at);
}
__device__ __forceinline__ void prefetch_l2(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// Programmatic dependent launch; sm_80 has none, and without the launch attribute both do nothing.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}

#endif

__device__ __forceinline__ Bf16 narrow(float x) { return static_cast<Bf16>(narrow(x, 0.0f)); }

}  // namespace pspec::cuda
