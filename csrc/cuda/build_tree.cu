// build_tree on a GPU: one warp per slot. A template is filled in parallel; the best-first tree grows node by node,
// the warp looking through the open entries together.
#include "../common/tree.h"

#include "launch.cuh"
#include "loop_ops.h"
#include "warp_keys.cuh"

namespace pspec::cuda {
namespace {

constexpr int kPerLane = kMaxFrontier / kWarpSize;

// Entry i lies in shared memory, its key in a register.
struct Open {
  Frontier* entry;  // [kMaxFrontier]
  int size = 0;
  WarpKeys<kPerLane> keys = {};

  __device__ void add(const Frontier& added) {
    if (lane_id() == size % kWarpSize) entry[size] = added;
    keys.set(size++, ordered_bits(added.score));
  }

  // The collectives that find the entry ordered it after its store.
  __device__ Frontier take_best() { return entry[keys.take_best()]; }
};

// What is known of a node before its outputs are written.
struct Node {
  uint64_t word;
  int16_t parent, depth, rank;
};

__device__ void write_node(const BuildTreeParams& p, int64_t b, int n, const Node& node) {
  const int64_t at = b * p.N + n;
  p.ids[at] = n == 0 ? p.bonus[b] : p.candidate_ids[(b * p.K + node.depth - 1) * p.C + node.rank];
  p.parent[at] = node.parent;
  p.depth[at] = node.depth;
  p.words[at] = static_cast<int64_t>(node.word);
  p.positions[at] = p.length[b] - 1 + node.depth;
  if (p.noise_row != nullptr) p.noise_row[at] = static_cast<int32_t>(b * p.noise_stride + node.depth);
}

__device__ Node root() { return {1, -1, 0, 0}; }

__global__ void __launch_bounds__(kWarpSize) fill_template(BuildTreeParams p) {
  const int64_t b = blockIdx.x;
  if (threadIdx.x == 0) p.prefix[b] = p.length[b] - 1;
  for (int n = static_cast<int>(threadIdx.x); n < p.N; n += kWarpSize) {
    write_node(p, b, n,
               n == 0 ? root()
                      : Node{static_cast<uint64_t>(p.t_words[n]), static_cast<int16_t>(p.t_parent[n]),
                             static_cast<int16_t>(p.t_depth[n]), static_cast<int16_t>(p.t_rank[n])});
  }
}

__global__ void __launch_bounds__(kWarpSize) grow_best_first(BuildTreeParams p) {
  __shared__ Frontier entry[kMaxFrontier];
  __shared__ Node node[kMaxNodes];
  PSPEC_DYNAMIC_SHARED(float, scores);  // [K, C]
  const int64_t b = blockIdx.x;
  const int lane = lane_id();
  const int cells = static_cast<int>(p.K * p.C);
  for (int i = lane; i < cells; i += kWarpSize) scores[i] = p.candidate_scores[b * cells + i];
  if (lane == 0) {
    p.prefix[b] = p.length[b] - 1;
    node[0] = root();
  }
  __syncwarp();
  const Candidates candidates = {scores, static_cast<int>(p.K), static_cast<int>(p.C)};
  Open open = {entry};
  if (p.N > 1) best_first_start(open, candidates);
  for (int n = 1; n < p.N; ++n) {
    const Frontier popped = best_first_pop(open, candidates, n);
    if (lane == 0) node[n] = {ancestor_word(node[popped.parent].word, n), popped.parent, popped.depth, popped.rank};
  }
  __syncwarp();
  for (int n = lane; n < p.N; n += kWarpSize) write_node(p, b, n, node[n]);
}

}  // namespace

void build_tree(const BuildTreeParams& p, void* stream) {
  if (p.B == 0) return;
  const unsigned slots = static_cast<unsigned>(p.B);
  const auto on = static_cast<cudaStream_t>(stream);
  if (p.t_parent != nullptr) {
    PSPEC_LAUNCH(fill_template, slots, kWarpSize, 0, on, p);
  } else {
    PSPEC_LAUNCH(grow_best_first, slots, kWarpSize, static_cast<size_t>(p.K * p.C) * sizeof(float), on, p);
  }
}

}  // namespace pspec::cuda
