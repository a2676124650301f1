// move_rows: rows of each buffer to other places in it, in order.
#include <cstring>

#include "launch.h"
#include "thread_pool.h"

namespace pspec::cpu {

void move_rows(const MoveRowsParams& p) {
  parallel_for(p.L, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t l = begin; l < end; ++l) {
      char* rows = reinterpret_cast<char*>(static_cast<uintptr_t>(p.buffers[l]));
      for (int64_t i = 0; i < p.B * p.P; ++i) {
        if (p.from[i] < 0 || p.from[i] == p.to[i]) continue;
        std::memcpy(rows + p.to[i] * p.row_bytes, rows + p.from[i] * p.row_bytes, p.row_bytes);
      }
    }
  });
}

}  // namespace pspec::cpu
