// prune_tree on a GPU: one warp per slot takes the best entries one by one, then has a lane per node.
#include "../common/pool.h"

#include "launch.cuh"
#include "loop_ops.h"
#include "warp_keys.cuh"

namespace pspec::cuda {
namespace {

constexpr int kPerLane = (kMaxPool + kWarpSize - 1) / kWarpSize;

// The N - 1 best entries, the lowest first among equals, ascending in entry[1..N-1].
__device__ void choose(const float* scores, int size, int N, int* entry) {
  const int lane = lane_id();
  WarpKeys<kPerLane> keys;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (i * kWarpSize + lane < size) keys.key[i] = ordered_bits(scores[i * kWarpSize + lane]);
  }
  for (int n = 1; n < N; ++n) keys.take_best();
  int found = 1;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const bool taken = i * kWarpSize + lane < size && keys.key[i] == 0;
    const unsigned lanes = __ballot_sync(kAllLanes, taken);
    if (taken) entry[found + __popc(lanes & ((1u << lane) - 1))] = i * kWarpSize + lane;
    found += __popc(lanes);
  }
}

__global__ void __launch_bounds__(kWarpSize) prune_pool(PruneTreeParams p) {
  __shared__ int entry[kMaxNodes], parent[kMaxNodes];
  __shared__ uint8_t node[kMaxPool];  // of a taken entry
  const int64_t b = blockIdx.x;
  const int lane = lane_id(), size = static_cast<int>(p.G * p.C);
  for (int i = lane; i < size; i += kWarpSize) node[i] = 0;
  if (p.picks == nullptr) choose(p.pool_scores + b * size, size, static_cast<int>(p.N), entry);
  for (int n = lane; n < p.N && p.picks != nullptr; n += kWarpSize) entry[n] = p.picks[n];
  __syncwarp();
  for (int n = 1 + lane; n < p.N; n += kWarpSize) node[entry[n]] = static_cast<uint8_t>(n);
  __syncwarp();
  for (int n = 1 + lane; n < p.N; n += kWarpSize) parent[n] = parent_of(p, b, entry[n], node);
  __syncwarp();
  if (lane == 0) {
    p.prefix[b] = p.length[b] - 1;
    write_node(p, b, 0, p.bonus[b], -1, 0, 1);
  }
  for (int n = 1 + lane; n < p.N; n += kWarpSize) {
    int depth = 0;
    uint64_t word = 1;
    for (int above = n; above > 0; above = parent[above]) {
      word = ancestor_word(word, above);
      ++depth;
    }
    write_node(p, b, n, p.pool_ids[b * size + entry[n]], parent[n], depth, word);
  }
}

}  // namespace

void prune_tree(const PruneTreeParams& p, void* stream) {
  if (p.B == 0) return;
  PSPEC_LAUNCH(prune_pool, static_cast<unsigned>(p.B), kWarpSize, 0, static_cast<cudaStream_t>(stream), p);
}

}  // namespace pspec::cuda
