// accept on a GPU: acceptance, commit and publication to the ring in one launch of one block, a warp per slot at a time.
//
// One block, so that one barrier orders every slot's words before the publication. What lies in the host's memory (tail,
// cancel words) is asked for first and by different warps: each such read takes a microsecond or more.
#include "../common/accept.h"

#include "../common/ring.h"
#include "launch.cuh"
#include "loop_ops.h"
#include "warp.cuh"

namespace pspec::cuda {
namespace {

constexpr int kMaxWarps = 16;

// A slot's tree in the registers of a warp: lane l holds nodes l and l + 32, and numbers l and l + 32 of the path.
struct Tree {
  const int32_t* stop_ids;
  int Q, lane;
  int32_t id[2], parent[2], goal[2];
  mutable int32_t path[2] = {-1, -1}, emitted[2] = {-1, -1};

  __device__ Tree(const AcceptParams& p, int64_t b)
      : stop_ids(p.stop_ids + b * p.Q), Q(static_cast<int>(p.Q)), lane(lane_id()) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int n = lane + half * kWarpSize;
      const bool there = n < p.N;
      id[half] = there ? p.ids[b * p.N + n] : -1;
      parent[half] = there ? p.parent[b * p.N + n] : -1;
      goal[half] = there ? p.target[b * p.N + n] : -1;
    }
  }

  __device__ int32_t target(int node) const {
    return __shfl_sync(kAllLanes, node < kWarpSize ? goal[0] : goal[1], node % kWarpSize);
  }
  __device__ int child(int node, int32_t token) const {
    const uint64_t low = __ballot_sync(kAllLanes, is_child(parent[0], id[0], node, token));
    const uint64_t high = __ballot_sync(kAllLanes, is_child(parent[1], id[1], node, token));
    return __ffsll(static_cast<long long>(low | high << kWarpSize)) - 1;
  }
  __device__ bool is_stop(int32_t token) const {
    bool found = false;
    for (int i = lane; i < Q; i += kWarpSize) found |= stop_ids[i] == token;
    return __any_sync(kAllLanes, found) != 0;
  }
  __device__ void emit(int i, int node, int32_t token) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (i == lane + half * kWarpSize) path[half] = node, emitted[half] = token;
    }
  }
  // Candidates, the root not counted.
  __device__ int drafted() const {
    return __popc(__ballot_sync(kAllLanes, lane > 0 && id[0] >= 0)) + __popc(__ballot_sync(kAllLanes, id[1] >= 0));
  }
};

// Path, emitted tokens and history; `record`: where the ring wants the tokens, or null.
__device__ void write_path(const AcceptParams& p, int64_t b, const Tree& tree, int count, int length, int32_t* record) {
  for (int64_t i = tree.lane; i < p.P; i += kWarpSize) {
    const int half = static_cast<int>(i / kWarpSize);
    const int32_t node = half == 0 ? tree.path[0] : half == 1 ? tree.path[1] : -1;
    const int32_t token = half == 0 ? tree.emitted[0] : half == 1 ? tree.emitted[1] : -1;
    p.path[b * p.P + i] = node;
    p.emitted[b * p.P + i] = token;
    if (record != nullptr) record[i] = token;
    if (i < count && length + i < p.S) p.tokens[b * p.S + length + i] = token;
    if (i == count - 1) p.bonus[b] = token;
  }
}

// One slot by one warp; returns whether it runs on. Emits nothing for a slot that has finished or been cancelled, nor
// (`held`) for any.
__device__ bool accept_slot(const AcceptParams& p, int64_t b, bool held, bool cancelled, const Ring& ring) {
  const Tree tree(p, b);
  const bool was_running = p.finished[b] == kRunning;
  const int length = p.length[b];
  Finished finished = static_cast<Finished>(p.finished[b]);
  int count = 0;
  if (was_running && !held) {
    if (cancelled) {
      finished = kCancelled;
    } else {
      count = walk(tree, static_cast<int>(p.P), length, p.limit[b], &finished);
    }
  }
  const bool publishes = ring.words != nullptr && !held;
  const int drafted = was_running ? tree.drafted() : 0;
  __syncwarp();  // every lane has read the slot before lane 0 changes it
  write_path(p, b, tree, count, length, publishes ? ring_emitted(ring, b) : nullptr);
  if (tree.lane == 0) {
    p.count[b] = count;
    p.length[b] = length + count;
    p.finished[b] = finished;
    if (publishes) {
      int32_t* slot = ring_slot(ring, b);
      slot[0] = count;
      slot[1] = drafted;
      slot[2] = finished;
    }
  }
  return finished == kRunning;
}

// Lets the loop node of the graph, if there is one, run another round.
__device__ void set_condition(const int32_t* control, bool go) {
  const uint64_t low = static_cast<uint32_t>(control[kHandle]), high = static_cast<uint32_t>(control[kHandle + 1]);
  if ((low | high << 32) != 0) cudaGraphSetConditional(low | high << 32, go);
}

__global__ void __launch_bounds__(kMaxWarps* kWarpSize) accept_slots(AcceptParams p) {
  __shared__ uint32_t tail;
  __shared__ int running;
  PSPEC_DYNAMIC_SHARED(int, cancelled);  // [B]
  const Ring ring = {p.ring_words, p.ring_control, p.ring_capacity, p.B, p.P};
  const bool publishes = ring.words != nullptr;
  if (threadIdx.x == 0) {
    running = 0;
    tail = publishes ? ring_tail(ring) : 0;
  }
  if (warp_id() > 0) {
    const int64_t others = blockDim.x - kWarpSize;
    for (int64_t b = threadIdx.x - kWarpSize; b < p.B; b += others) cancelled[b] = publishes && ring_cancels(ring, b);
  }
  __syncthreads();
  const bool held = publishes && ring_is_full(ring, tail);
  for (int64_t b = warp_id(); b < p.B; b += blockDim.x / kWarpSize) {
    const bool runs = accept_slot(p, b, held, cancelled[b] != 0, ring);
    if (lane_id() == 0 && runs) atomicAdd(&running, 1);
  }
  __syncthreads();
  if (threadIdx.x == 0 && publishes) set_condition(ring.control, ring_publish(ring, tail, running));
}

}  // namespace

void accept(const AcceptParams& p, void* stream) {
  const int warps = static_cast<int>(p.B < 2 ? 2 : p.B < kMaxWarps ? p.B : kMaxWarps);
  PSPEC_LAUNCH(accept_slots, 1, warps * kWarpSize, static_cast<size_t>(p.B) * sizeof(int),
               static_cast<cudaStream_t>(stream), p);
}

}  // namespace pspec::cuda
