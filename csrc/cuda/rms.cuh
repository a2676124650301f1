// The scale of an RMS norm, with the bits of Triton's add_rms_norm: its order of sums, every operation rounded.
#pragma once

#include "ptx.cuh"

namespace pspec::cuda {

// A warp's scale of one row of I columns (I % 4 == 0, I <= 128 << kLevels): column c belongs to partial sum c % 128,
// which adds its squares as a pairwise tree, neighbours first, and the 128 sums are added likewise.
__device__ __forceinline__ float rms_scale(const Bf16* row, int I, float eps) {
  constexpr int kLevels = 9, kBatch = 16;  // loads under way at once
  const int lane = threadIdx.x % 32;
  float tree[kLevels][4];  // sums of 1, 2, 4, .. squares that wait for their neighbour: a binary counter
  const int chunks = (I + 127) / 128;
#pragma unroll
  for (int level = 0; level < kLevels; ++level) {
#pragma unroll
    for (int i = 0; i < 4; ++i) tree[level][i] = 0.0f;
  }
  uint2 loaded[kBatch] = {};
  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (chunk % kBatch == 0) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int column = (chunk + i) * 128 + lane * 4;
        loaded[i] = column < I ? load_l2(reinterpret_cast<const uint2*>(row + column)) : make_uint2(0, 0);
      }
    }
    const uint2 x = loaded[0];
#pragma unroll
    for (int i = 0; i + 1 < kBatch; ++i) loaded[i] = loaded[i + 1];
    float sum[4] = {widen_low(x.x), widen_high(x.x), widen_low(x.y), widen_high(x.y)};
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = __fmul_rn(sum[i], sum[i]);
    bool carry = true;
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      if (!carry) continue;
      carry = chunk >> level & 1;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (carry) sum[i] = __fadd_rn(tree[level][i], sum[i]);
        else tree[level][i] = sum[i];
      }
    }
  }
  float total[4] = {};
#pragma unroll
  for (int level = 0; level < kLevels; ++level) {  // what is left: smaller runs stand behind larger ones
    if (!(chunks >> level & 1)) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) total[i] = __fadd_rn(tree[level][i], total[i]);
  }
  float sum = __fadd_rn(__fadd_rn(total[0], total[1]), __fadd_rn(total[2], total[3]));
#pragma unroll
  for (int step = 1; step < 32; step *= 2) sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, step));
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(sum, static_cast<float>(I)), eps)));
}

// x * scale rounded, times weight, rounded: as a norm of its own rounds.
__device__ __forceinline__ uint32_t normed(uint32_t x, float scale, uint32_t weight) {
  const uint32_t scaled = narrow(__fmul_rn(widen_low(x), scale), __fmul_rn(widen_high(x), scale));
  return narrow(__fmul_rn(widen_low(scaled), widen_low(weight)), __fmul_rn(widen_high(scaled), widen_high(weight)));
}
__device__ __forceinline__ uint4 normed(uint4 x, float scale, uint4 weight) {
  return make_uint4(normed(x.x, scale, weight.x), normed(x.y, scale, weight.y), normed(x.z, scale, weight.z),
                    normed(x.w, scale, weight.w));
}

// A warp's normed row.
__device__ __forceinline__ void norm_row(const Bf16* row, const Bf16* weight, int I, float eps, Bf16* out) {
  const float scale = rms_scale(row, I, eps);
  for (int column = threadIdx.x % 32 * 8; column < I; column += 32 * 8) {
    const uint4 x = load_l2(reinterpret_cast<const uint4*>(row + column));
    const uint4 w = *reinterpret_cast<const uint4*>(weight + column);
    *reinterpret_cast<uint4*>(out + column) = normed(x, scale, w);
  }
}

}  // namespace pspec::cuda
