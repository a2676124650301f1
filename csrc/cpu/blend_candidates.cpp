// blend_candidates: proposals of a lookup among a drafter's candidates.
#include "../common/blend.h"
#include "launch.h"

namespace pspec::cpu {

void blend_candidates(const BlendCandidatesParams& p) {
  for (int64_t r = 0; r < p.R; ++r) {
    blend_candidate(p.ids[r], p.scores[r], p.candidate_ids + r * p.C, p.candidate_scores + r * p.C,
                    static_cast<int>(p.C));
  }
}

}  // namespace pspec::cpu
