// prune_tree: the best entries of the pool become the nodes of each slot's draft tree.
#include <algorithm>

#include "../common/pool.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

// The N - 1 best entries, the lowest first among equals, ascending in entry[1..N-1].
void choose(const float* scores, int64_t size, int64_t N, int32_t* entry) {
  bool taken[kMaxPool] = {};
  for (int64_t n = 1; n < N; ++n) {
    int64_t best = -1;
    for (int64_t i = 0; i < size; ++i) {
      if (!taken[i] && (best < 0 || scores[i] > scores[best])) best = i;
    }
    taken[best] = true;
  }
  for (int64_t i = 0, n = 1; i < size; ++i) {
    if (taken[i]) entry[n++] = static_cast<int32_t>(i);
  }
}

void prune_slot(const PruneTreeParams& p, int64_t b) {
  int32_t entry[kMaxNodes], node[kMaxPool] = {};  // node: of a taken entry
  int depth[kMaxNodes] = {};
  uint64_t word[kMaxNodes] = {1};
  if (p.picks == nullptr) {
    choose(p.pool_scores + b * p.G * p.C, p.G * p.C, p.N, entry);
  } else {
    std::copy(p.picks, p.picks + p.N, entry);
  }
  p.prefix[b] = p.length[b] - 1;
  write_node(p, b, 0, p.bonus[b], -1, 0, word[0]);
  for (int n = 1; n < p.N; ++n) {
    const int parent = parent_of(p, b, entry[n], node);
    node[entry[n]] = n;
    depth[n] = depth[parent] + 1;
    word[n] = ancestor_word(word[parent], n);
    write_node(p, b, n, p.pool_ids[b * p.G * p.C + entry[n]], parent, depth[n], word[n]);
  }
}

}  // namespace

void prune_tree(const PruneTreeParams& p) {
  for (int64_t b = 0; b < p.B; ++b) prune_slot(p, b);
}

}  // namespace pspec::cpu
