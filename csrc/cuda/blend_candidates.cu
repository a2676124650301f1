// blend_candidates on a GPU: one thread per slot and depth.
#include "../common/blend.h"

#include "launch.cuh"
#include "loop_ops.h"

namespace pspec::cuda {
namespace {

constexpr int kThreads = 32;  // a round has few depths: spread over several multiprocessors

__global__ void __launch_bounds__(kThreads) blend(BlendCandidatesParams p) {
  const int64_t r = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (r >= p.R) return;
  blend_candidate(p.ids[r], p.scores[r], p.candidate_ids + r * p.C, p.candidate_scores + r * p.C,
                  static_cast<int>(p.C));
}

}  // namespace

void blend_candidates(const BlendCandidatesParams& p, void* stream) {
  if (p.R == 0) return;
  const auto blocks = static_cast<unsigned>((p.R + kThreads - 1) / kThreads);
  PSPEC_LAUNCH(blend, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), p);
}

}  // namespace pspec::cuda
