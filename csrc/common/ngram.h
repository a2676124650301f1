// Prompt lookup: how well the newest tokens of a history match those up to an earlier position, and what follows there.
#pragma once

#include "hd.h"

namespace pspec {

// How many tokens up to and including position `end` equal the newest ones, which end at `last`; at most `most`.
PSPEC_HD int match_length(const int32_t* tokens, int end, int last, int most) {
  int matched = 0;
  while (matched < most && end - matched >= 0 && tokens[end - matched] == tokens[last - matched]) ++matched;
  return matched;
}

// Orders matches: a longer one wins, of equally long ones the most recent. -1: too short to count.
PSPEC_HD int64_t match_key(int matched, int shortest, int end) {
  return matched >= shortest ? (static_cast<int64_t>(matched) << 32) | end : -1;
}

// Proposal k after the best match: what followed it, -1 where the history ends.
PSPEC_HD int32_t proposal(const int32_t* tokens, int64_t best_key, int last, int k) {
  const int64_t at = (best_key & 0xffffffff) + 1 + k;
  return best_key >= 0 && at <= last ? tokens[at] : -1;
}

// Log of the chance that a copied token is right if those copied before it are, `agreeing` tokens in all up to there:
// the match, then the copied ones. Counted on 240,000 positions of answers by SmolLM2-135M-Instruct: 26% after one
// token, 56% after two, .. 86% after 11, 96% where 12 or more match.
PSPEC_HD float log_chance(int64_t agreeing) {
  constexpr int kMost = 12;
  static constexpr float kLogChance[kMost] = {-1.35f, -0.58f, -0.43f, -0.33f, -0.29f, -0.24f,
                                              -0.24f, -0.17f, -0.16f, -0.15f, -0.15f, -0.04f};
  return kLogChance[(agreeing < kMost ? agreeing : kMost) - 1];
}

// Score of proposal k, which is `id`.
PSPEC_HD float proposal_score(int32_t id, int64_t best_key, int k) {
  return id >= 0 ? log_chance((best_key >> 32) + k) : -__builtin_huge_valf();
}

}  // namespace pspec
