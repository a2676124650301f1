// ngram_draft: what followed the last time the newest tokens of a slot's history stood together.
#include "../common/ngram.h"

#include <algorithm>
#include <limits>

#include "launch.h"

namespace pspec::cpu {
namespace {

// Key of the longest match, the most recent of those.
int64_t best_match(const NgramDraftParams& p, const int32_t* tokens, int last) {
  int64_t best = -1;
  for (int end = last - 1; end >= 0; --end) {  // at least one token follows
    const int matched = match_length(tokens, end, last, p.max_ngram);
    best = std::max(best, match_key(matched, p.min_ngram, end));
    if (matched == p.max_ngram) break;
  }
  return best;
}

}  // namespace

void ngram_draft(const NgramDraftParams& p) {
  for (int64_t b = 0; b < p.B; ++b) {
    const int32_t* tokens = p.tokens + b * p.S;
    const int last = p.length[b] - 1;
    const int64_t best = best_match(p, tokens, last);
    for (int64_t k = 0; k < p.K; ++k) {
      const int64_t at = b * p.stride_b + k * p.stride_k;
      p.out_ids[at] = proposal(tokens, best, last, static_cast<int>(k));
      if (p.out_scores != nullptr) p.out_scores[at] = proposal_score(p.out_ids[at], best, static_cast<int>(k));
    }
  }
}

}  // namespace pspec::cpu
