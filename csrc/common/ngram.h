// Prompt lookup: how well the newest tokens of a history match those up to an earlier position.
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

}  // namespace pspec
