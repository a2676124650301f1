// embed: rows of the embedding table.
#include <algorithm>
#include <cstring>

#include "launch.h"
#include "row_grain.h"
#include "thread_pool.h"

namespace pspec::cpu {

void embed(const EmbedParams& p) {
  parallel_for(p.R, row_grain(p.row_bytes), [&p](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t id = std::clamp<int64_t>(p.ids[r], 0, p.V - 1);
      std::memcpy(p.out + r * p.row_bytes, p.table + id * p.row_bytes, p.row_bytes);
    }
  });
}

}  // namespace pspec::cpu
