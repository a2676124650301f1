// compact_kv: moves the cache rows of each accepted path together, in place, for all layers.
#include <cstring>

#include "../common/compact.h"
#include "launch.h"
#include "thread_pool.h"

namespace pspec::cpu {
namespace {

void compact_head(const CompactKvParams& p, int64_t b, char* rows) {
  const int32_t* path = p.path + b * p.P;
  for (int i = 1; i < p.count[b]; ++i) {
    const RowMove move = row_move(path, p.count[b], p.length[b], i);
    if (move.from != move.to) std::memcpy(rows + move.to * p.row_bytes, rows + move.from * p.row_bytes, p.row_bytes);
  }
}

}  // namespace

void compact_kv(const CompactKvParams& p) {
  constexpr int64_t kGrain = 16;  // heads per task: a few rows each
  parallel_for(p.L2 * p.B * p.G, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) compact_head(p, i / p.G % p.B, p.kv + i * p.S * p.row_bytes);
  });
}

}  // namespace pspec::cpu
