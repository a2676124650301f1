// The best of many entries, again and again: a warp keeps their keys in its registers.
#pragma once

#include "warp.cuh"

namespace pspec::cuda {

template <int kPerLane>
struct WarpKeys {
  uint32_t key[kPerLane] = {};  // of entries i * 32 + lane; 0: taken, or never set

  __device__ void set(int entry, uint32_t value) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (i * kWarpSize + lane_id() == entry) key[i] = value;
    }
  }

  // Takes the entry with the largest key, of equals the first; returned to all lanes.
  __device__ int take_best() {
    uint32_t mine = key[0];
#pragma unroll
    for (int i = 1; i < kPerLane; ++i) mine = key[i] > mine ? key[i] : mine;
    const uint32_t largest = __reduce_max_sync(kAllLanes, mine);
    int first = kPerLane * kWarpSize;
#pragma unroll
    for (int i = kPerLane - 1; i >= 0; --i) first = key[i] == largest ? i * kWarpSize + lane_id() : first;
    const int best = __reduce_min_sync(kAllLanes, first);
    set(best, 0);
    return best;
  }
};

}  // namespace pspec::cuda
