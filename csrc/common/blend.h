// A token from elsewhere among the candidates of a depth, which stay sorted.
#pragma once

#include "hd.h"

namespace pspec {

// Gives token x the score s among C candidates of falling score, unless x, or else the last of them, scores as high.
// NaN scores, which come last, count as -inf. Among equals x comes last.
PSPEC_HD void blend_candidate(int32_t x, float s, int32_t* ids, float* scores, int C) {
  if (x < 0) return;
  int at = C - 1;  // the entry that goes: its own, or the last
  for (int c = C - 2; c >= 0; --c) at = ids[c] == x ? c : at;
  if (scores[at] >= s) return;
  for (; at > 0 && !(scores[at - 1] >= s); --at) {
    ids[at] = ids[at - 1];
    scores[at] = scores[at - 1];
  }
  ids[at] = x;
  scores[at] = s;
}

}  // namespace pspec
