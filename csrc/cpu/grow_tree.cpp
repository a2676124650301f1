// grow_tree: a level's candidates into the pool, and the rows the next level runs.
#include <algorithm>
#include <cstring>

#include "../common/tree.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

struct Level {
  const GrowTreeParams& p;
  int64_t b;

  int32_t* origin() const { return p.origin + b * p.G; }
  float* pool_scores() const { return p.pool_scores + b * p.G * p.C; }

  void fill_pool() const {
    const int64_t count = p.W * p.C, from = b * count;
    std::memcpy(p.pool_ids + (b * p.G + p.first) * p.C, p.ids + from, count * sizeof(int32_t));
    for (int64_t i = 0; i < count; ++i) {
      const float score = p.scores[from + i], above = p.level == 0 ? 0.0f : pool_scores()[origin()[p.first + i / p.C]];
      // NaN counts as -inf; rounding must not put a child before its parent.
      pool_scores()[p.first * p.C + i] = (score != score ? kMinusInfinity : std::min(score, 0.0f)) + above;
    }
  }

  // Row x of the next level comes from entry `entry` of this one.
  void put(int64_t x, int64_t entry) const {
    const int64_t at = b * p.X + x, row = p.first + p.W + x;  // among all rows; its bit is row - 1
    p.next_ids[at] = p.ids[b * p.W * p.C + entry];
    p.next_parent[at] = static_cast<int32_t>(entry / p.C);
    p.next_positions[at] = static_cast<int32_t>(std::max<int64_t>(p.length[b] + p.shift + p.level, 0));
    p.next_words[at] = static_cast<int64_t>(static_cast<uint64_t>(p.words[b * p.W + entry / p.C]) | uint64_t{1} << (row - 1));
    origin()[row] = static_cast<int32_t>(p.first * p.C + entry);
  }

  void choose() const {
    bool taken[kMaxNodes * kMaxCandidates] = {};
    const float* scores = pool_scores() + p.first * p.C;
    for (int64_t x = 0; x < p.X; ++x) {
      int64_t best = -1;
      for (int64_t i = 0; i < p.W * p.C; ++i) {
        if (!taken[i] && (best < 0 || scores[i] > scores[best])) best = i;
      }
      taken[best] = true;
      put(x, best);
    }
  }
};

}  // namespace

void grow_tree(const GrowTreeParams& p) {
  for (int64_t b = 0; b < p.B; ++b) {
    const Level level{p, b};
    level.fill_pool();
    p.prefix[b] = std::max(p.length[b] + p.shift, 0);
    p.append[b] = static_cast<int32_t>(p.prefix[b] + p.first + p.W - 1);
    if (p.picks == nullptr) {
      level.choose();
    } else {
      for (int64_t x = 0; x < p.X; ++x) level.put(x, p.picks[x]);
    }
  }
}

}  // namespace pspec::cpu
