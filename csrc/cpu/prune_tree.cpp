// prune_tree: the best entries of the pool become the nodes of each slot's draft tree.
#include <algorithm>

#include "../common/tree.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

// The N - 1 best entries, the lowest first among equals, ascending in entry[1..N-1].
void choose(const float* scores, int64_t size, int64_t N, int32_t* entry) {
  bool taken[(kMaxNodes + 1) * kMaxCandidates] = {};
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
  int32_t entry[kMaxNodes], node[(kMaxNodes + 1) * kMaxCandidates] = {};  // node: of a taken entry
  uint64_t word[kMaxNodes] = {1};
  if (p.picks == nullptr) {
    choose(p.pool_scores + b * p.G * p.C, p.G * p.C, p.N, entry);
  } else {
    std::copy(p.picks, p.picks + p.N, entry);
  }
  for (int64_t n = 0; n < p.N; ++n) {
    const int64_t row = n == 0 ? 0 : entry[n] / p.C, at = b * p.N + n;
    const int32_t parent = n == 0 ? -1 : row == 0 ? 0 : node[p.origin[b * p.G + row]];
    p.parent[at] = parent;
    p.depth[at] = n == 0 ? 0 : p.depth[b * p.N + parent] + 1;
    p.ids[at] = n == 0 ? p.bonus[b] : p.pool_ids[b * p.G * p.C + entry[n]];
    if (n > 0) word[n] = ancestor_word(word[parent], static_cast<int>(n)), node[entry[n]] = static_cast<int32_t>(n);
    p.words[at] = static_cast<int64_t>(word[n]);
    p.positions[at] = p.length[b] - 1 + p.depth[at];
    p.noise_row[at] = static_cast<int32_t>(b * p.noise_stride + p.depth[at]);
  }
  p.prefix[b] = p.length[b] - 1;
}

}  // namespace

void prune_tree(const PruneTreeParams& p) {
  for (int64_t b = 0; b < p.B; ++b) prune_slot(p, b);
}

}  // namespace pspec::cpu
