// The pool of candidates of a tree that grows level by level: its entries, a level's rows, the nodes chosen at the end.
#pragma once

#include "../params.h"
#include "tree.h"

namespace pspec {

constexpr int kMaxLevel = kMaxNodes * kMaxCandidates;       // entries of one level
constexpr int kMaxPool = (kMaxNodes + 1) * kMaxCandidates;  // of all rows, the anchor among them

// The row whose candidate an entry is; in 32 bits, which a GPU divides faster.
PSPEC_HD int row_of(int64_t entry, int64_t C) { return static_cast<int>(entry) / static_cast<int>(C); }

// Puts candidate i of a level into slot b's pool; returns its score there, the sum along its path.
PSPEC_HD float add_to_pool(const GrowTreeParams& p, int64_t b, int64_t i) {
  const int64_t from = b * p.W * p.C + i, to = (b * p.G + p.first) * p.C + i;
  const float own = p.scores[from];
  float above = 0.0f;
  if (p.level > 0) above = p.pool_scores[b * p.G * p.C + p.origin[b * p.G + p.first + row_of(i, p.C)]];
  // NaN counts as -inf; rounding must not put a child before its parent.
  const float score = (own != own ? kMinusInfinity : own > 0.0f ? 0.0f : own) + above;
  p.pool_ids[to] = p.ids[from];
  p.pool_scores[to] = score;
  return score;
}

// Row x of the next level comes from entry `entry` of this one.
PSPEC_HD void put_row(const GrowTreeParams& p, int64_t b, int64_t x, int64_t entry) {
  const int64_t at = b * p.X + x, row = p.first + p.W + x;  // among all rows; its bit is row - 1
  const int64_t position = int64_t{p.length[b]} + p.shift + p.level;
  p.next_ids[at] = p.ids[b * p.W * p.C + entry];
  p.next_parent[at] = row_of(entry, p.C);
  p.next_positions[at] = position > 0 ? static_cast<int32_t>(position) : 0;
  const auto above = static_cast<uint64_t>(p.words[b * p.W + row_of(entry, p.C)]);
  p.next_words[at] = static_cast<int64_t>(ancestor_word(above, static_cast<int>(row - 1)));
  p.origin[b * p.G + row] = static_cast<int32_t>(p.first * p.C + entry);
}

// Where a slot's drafted rows lie in the cache.
PSPEC_HD void place_rows(const GrowTreeParams& p, int64_t b) {
  const int32_t start = p.length[b] + p.shift > 0 ? p.length[b] + p.shift : 0;
  p.prefix[b] = start;
  p.append[b] = static_cast<int32_t>(start + p.first + p.W - 1);
}

// Parent of the node that an entry becomes; `node` [G * C] tells that of an entry taken before.
template <typename Node>
PSPEC_HD int parent_of(const PruneTreeParams& p, int64_t b, int64_t entry, const Node* node) {
  const int row = row_of(entry, p.C);
  return row == 0 ? 0 : node[p.origin[b * p.G + row]];
}

PSPEC_HD void write_node(const PruneTreeParams& p, int64_t b, int64_t n, int32_t id, int parent, int depth,
                         uint64_t word) {
  const int64_t at = b * p.N + n;
  p.ids[at] = id;
  p.parent[at] = parent;
  p.depth[at] = depth;
  p.words[at] = static_cast<int64_t>(word);
  p.positions[at] = p.length[b] - 1 + depth;
  p.noise_row[at] = static_cast<int32_t>(b * p.noise_stride + depth);
}

}  // namespace pspec
