// Best-first tree: the N-node tree with the largest path scores, given one ranked candidate list per depth.
#pragma once

#include "hd.h"

namespace pspec {

constexpr int kMaxNodes = 64;  // one bit per node in an ancestor word
constexpr float kMinusInfinity = -__builtin_huge_valf();

// Word of a node: its own bit and those of its ancestors.
PSPEC_HD uint64_t ancestor_word(uint64_t parent_word, int node) { return parent_word | (uint64_t{1} << node); }

// A place where the tree may grow: candidate `rank` of `depth` under node `parent`.
struct Frontier {
  float score;         // sum of the candidate scores from the root down to and with this one
  float parent_score;  // the same sum for the parent node
  int16_t parent, depth, rank;
  bool taken;
};

// Frontier of the expansion, in insertion order. Every pop adds at most two entries.
struct BestFirst {
  Frontier entry[2 * kMaxNodes];
  int size;
  const float* scores;  // [K, C] candidate scores, each depth ranked best first
  int K, C;
};

PSPEC_HD void insert(BestFirst& tree, int parent, int depth, int rank, float parent_score) {
  float score = parent_score + tree.scores[(depth - 1) * tree.C + rank];
  if (score != score) score = kMinusInfinity;  // NaN counts as -inf
  tree.entry[tree.size++] = {score, parent_score, static_cast<int16_t>(parent), static_cast<int16_t>(depth),
                             static_cast<int16_t>(rank), false};
}

PSPEC_HD void best_first_start(BestFirst& tree, const float* scores, int K, int C) {
  tree.scores = scores;
  tree.K = K;
  tree.C = C;
  tree.size = 0;
  insert(tree, 0, 1, 0, 0.0f);
}

// Takes the best open entry as node `node` and opens its next sibling, then its first child. A path score never
// exceeds that of its parent or better-ranked sibling (scores are log-probabilities, ranked), so taking the best N
// times yields the best N-node tree. Ties go to the entry inserted first.
PSPEC_HD Frontier best_first_pop(BestFirst& tree, int node) {
  int best = -1;
  for (int i = 0; i < tree.size; ++i) {
    if (!tree.entry[i].taken && (best < 0 || tree.entry[i].score > tree.entry[best].score)) best = i;
  }
  Frontier& taken = tree.entry[best];
  taken.taken = true;
  const Frontier popped = taken;
  if (popped.rank + 1 < tree.C) insert(tree, popped.parent, popped.depth, popped.rank + 1, popped.parent_score);
  if (popped.depth < tree.K) insert(tree, node, popped.depth + 1, 0, popped.score);
  return popped;
}

}  // namespace pspec
