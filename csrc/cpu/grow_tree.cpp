// grow_tree: a level's candidates into the pool, and the rows the next level runs.
#include "../common/pool.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

// The X best entries of slot b's level, best first, the lowest among equals.
void choose(const GrowTreeParams& p, int64_t b) {
  bool taken[kMaxLevel] = {};
  const float* scores = p.pool_scores + (b * p.G + p.first) * p.C;
  for (int64_t x = 0; x < p.X; ++x) {
    int64_t best = -1;
    for (int64_t i = 0; i < p.W * p.C; ++i) {
      if (!taken[i] && (best < 0 || scores[i] > scores[best])) best = i;
    }
    taken[best] = true;
    put_row(p, b, x, best);
  }
}

}  // namespace

void grow_tree(const GrowTreeParams& p) {
  for (int64_t b = 0; b < p.B; ++b) {
    for (int64_t i = 0; i < p.W * p.C; ++i) add_to_pool(p, b, i);
    place_rows(p, b);
    if (p.picks == nullptr) {
      choose(p, b);
    } else {
      for (int64_t x = 0; x < p.X; ++x) put_row(p, b, x, p.picks[x]);
    }
  }
}

}  // namespace pspec::cpu
