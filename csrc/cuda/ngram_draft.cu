// ngram_draft on a GPU: one block per slot, every thread looks at some of the history.
#include "../common/ngram.h"

#include "launch.cuh"
#include "loop_ops.h"
#include "warp.cuh"

namespace pspec::cuda {
namespace {

constexpr int kWarps = 8;

__device__ int64_t warp_max(int64_t value) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const int64_t other = __shfl_xor_sync(kAllLanes, value, step);
    value = other > value ? other : value;
  }
  return value;
}

__global__ void __launch_bounds__(kWarps* kWarpSize) look_up(NgramDraftParams p) {
  __shared__ int64_t warp_best[kWarps];
  const int64_t b = blockIdx.x;
  const int32_t* tokens = p.tokens + b * p.S;
  const int last = p.length[b] - 1;
  int64_t best = -1;
  for (int end = static_cast<int>(threadIdx.x); end < last; end += kWarps * kWarpSize) {  // a token follows it
    const int64_t key = match_key(match_length(tokens, end, last, p.max_ngram), p.min_ngram, end);
    best = key > best ? key : best;
  }
  best = warp_max(best);
  if (lane_id() == 0) warp_best[warp_id()] = best;
  __syncthreads();
  best = warp_max(warp_best[lane_id() % kWarps]);
  for (int k = static_cast<int>(threadIdx.x); k < p.K; k += kWarps * kWarpSize) {
    const int64_t at = b * p.stride_b + k * p.stride_k;
    const int32_t id = proposal(tokens, best, last, k);
    p.out_ids[at] = id;
    if (p.out_scores != nullptr) p.out_scores[at] = proposal_score(id, best, k);
  }
}

}  // namespace

void ngram_draft(const NgramDraftParams& p, void* stream) {
  if (p.B == 0) return;
  PSPEC_LAUNCH(look_up, static_cast<unsigned>(p.B), kWarps * kWarpSize, 0, static_cast<cudaStream_t>(stream), p);
}

}  // namespace pspec::cuda
