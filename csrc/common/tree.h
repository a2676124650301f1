// Best-first tree: the N-node tree with the largest path scores, given one ranked candidate list per depth.
#pragma once

#include "hd.h"

namespace pspec {

constexpr int kMaxNodes = 64;  // one bit per node in an ancestor word
constexpr int kMaxCandidates = 16;  // of a depth, or of a row
constexpr int kMaxFrontier = 2 * kMaxNodes;  // every pop adds at most two entries
constexpr float kMinusInfinity = -__builtin_huge_valf();

// Word of a node: its own bit and those of its ancestors.
PSPEC_HD uint64_t ancestor_word(uint64_t parent_word, int node) { return parent_word | (uint64_t{1} << node); }

// A place where the tree may grow: candidate `rank` of `depth` under node `parent`.
struct Frontier {
  float score;         // sum of the candidate scores from the root down to and with this one
  float parent_score;  // the same sum for the parent node
  int16_t parent, depth, rank;
};

struct Candidates {
  const float* scores;  // [K, C], each depth ranked best first
  int K, C;
};

PSPEC_HD Frontier frontier_at(const Candidates& c, int parent, int depth, int rank, float parent_score) {
  float score = parent_score + c.scores[(depth - 1) * c.C + rank];
  if (score != score) score = kMinusInfinity;  // NaN counts as -inf
  return {score, parent_score, static_cast<int16_t>(parent), static_cast<int16_t>(depth), static_cast<int16_t>(rank)};
}

// Takes the best open entry as node `node` and opens its next sibling, then its first child. A path score never
// exceeds that of its parent or better-ranked sibling (scores are log-probabilities, ranked), so taking the best N
// times yields the best N-node tree. `open` keeps the entries, in whatever way suits its machine:
//   add(entry)
//   take_best()   removes and returns the entry with the largest score, of equals the one added first
template <typename Open>
PSPEC_HD Frontier best_first_pop(Open& open, const Candidates& c, int node) {
  const Frontier popped = open.take_best();
  if (popped.rank + 1 < c.C) open.add(frontier_at(c, popped.parent, popped.depth, popped.rank + 1, popped.parent_score));
  if (popped.depth < c.K) open.add(frontier_at(c, node, popped.depth + 1, 0, popped.score));
  return popped;
}

template <typename Open>
PSPEC_HD void best_first_start(Open& open, const Candidates& c) {
  open.add(frontier_at(c, 0, 1, 0, 0.0f));
}

}  // namespace pspec
