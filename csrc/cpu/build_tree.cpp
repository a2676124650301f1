// build_tree: candidates of each depth -> the nodes of each slot's draft tree.
#include "../common/tree.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

// What one slot's nodes are written to.
struct Slot {
  const BuildTreeParams& p;
  int64_t b;

  void set(int node, int32_t id, int parent, int depth, uint64_t word) const {
    const int64_t n = b * p.N + node;
    p.ids[n] = id;
    p.parent[n] = parent;
    p.depth[n] = depth;
    p.words[n] = static_cast<int64_t>(word);
    p.positions[n] = p.length[b] - 1 + depth;
    if (p.noise_row != nullptr) p.noise_row[n] = static_cast<int32_t>(b * p.noise_stride + depth);
  }

  int32_t candidate(int depth, int rank) const { return p.candidate_ids[(b * p.K + depth - 1) * p.C + rank]; }
};

// The open entries in the order they were added.
struct Open {
  Frontier entry[kMaxFrontier];
  bool taken[kMaxFrontier];
  int size = 0;

  void add(const Frontier& added) {
    entry[size] = added;
    taken[size++] = false;
  }

  Frontier take_best() {
    int best = -1;
    for (int i = 0; i < size; ++i) {
      if (!taken[i] && (best < 0 || entry[i].score > entry[best].score)) best = i;
    }
    taken[best] = true;
    return entry[best];
  }
};

void fill_template(const Slot& slot) {
  const BuildTreeParams& p = slot.p;
  for (int n = 1; n < p.N; ++n) {
    slot.set(n, slot.candidate(p.t_depth[n], p.t_rank[n]), p.t_parent[n], p.t_depth[n],
             static_cast<uint64_t>(p.t_words[n]));
  }
}

void fill_best_first(const Slot& slot) {
  const BuildTreeParams& p = slot.p;
  if (p.N <= 1) return;
  uint64_t word[kMaxNodes] = {1};
  const Candidates candidates = {p.candidate_scores + slot.b * p.K * p.C, static_cast<int>(p.K),
                                 static_cast<int>(p.C)};
  Open open;
  best_first_start(open, candidates);
  for (int n = 1; n < p.N; ++n) {
    const Frontier node = best_first_pop(open, candidates, n);
    word[n] = ancestor_word(word[node.parent], n);
    slot.set(n, slot.candidate(node.depth, node.rank), node.parent, node.depth, word[n]);
  }
}

}  // namespace

void build_tree(const BuildTreeParams& p) {
  for (int64_t b = 0; b < p.B; ++b) {
    const Slot slot{p, b};
    p.prefix[b] = p.length[b] - 1;
    slot.set(0, p.bonus[b], -1, 0, 1);
    p.t_parent != nullptr ? fill_template(slot) : fill_best_first(slot);
  }
}

}  // namespace pspec::cpu
