// embed: rows of the embedding table.
#include "launch.h"
#include "row_grain.h"
#include "table_row.h"
#include "thread_pool.h"

namespace pspec::cpu {

void embed(const EmbedParams& p) {
  const int64_t work = is_int8(p.table_dtype) ? p.M : (p.M + 3) / 4;  // copying takes less than computing
  parallel_for(p.R, row_grain(work), [&p](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      table_row(p.table, p.table_dtype, p.V, p.M, p.ids[r], at(p.out, p.dtype, r * p.M), p.dtype);
    }
  });
}

}  // namespace pspec::cpu
