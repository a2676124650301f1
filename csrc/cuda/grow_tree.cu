// grow_tree on a GPU: one warp per slot, every lane with the entries of the level that are its own.
#include "../common/pool.h"

#include "launch.cuh"
#include "loop_ops.h"
#include "warp_keys.cuh"

namespace pspec::cuda {
namespace {

constexpr int kPerLane = kMaxLevel / kWarpSize;

__global__ void __launch_bounds__(kWarpSize) grow_level(GrowTreeParams p) {
  __shared__ int chosen[kMaxNodes];
  const int64_t b = blockIdx.x;
  const int lane = lane_id(), cells = static_cast<int>(p.W * p.C);
  WarpKeys<kPerLane> keys;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (i * kWarpSize + lane < cells) keys.key[i] = ordered_bits(add_to_pool(p, b, i * kWarpSize + lane));
  }
  if (lane == 0) place_rows(p, b);
  for (int x = 0; x < p.X; ++x) {
    const int entry = p.picks != nullptr ? p.picks[x] : keys.take_best();
    if (lane == 0) chosen[x] = entry;
  }
  __syncwarp();
  for (int x = lane; x < p.X; x += kWarpSize) put_row(p, b, x, chosen[x]);
}

}  // namespace

void grow_tree(const GrowTreeParams& p, void* stream) {
  if (p.B == 0) return;
  PSPEC_LAUNCH(grow_level, static_cast<unsigned>(p.B), kWarpSize, 0, static_cast<cudaStream_t>(stream), p);
}

}  // namespace pspec::cuda
