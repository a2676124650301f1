// What the kernels that give a slot to a warp share.
#pragma once

#include <cstdint>

namespace pspec::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarpSize = 32;

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x) / kWarpSize; }

// Numbers that compare as the floats do, -0 and 0 alike; not of NaN. 0 is below them all.
__device__ __forceinline__ uint32_t ordered_bits(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

}  // namespace pspec::cuda
