// embed: rows of the embedding table.
#include "launch.h"
#include "row_grain.h"
#include "table_row.h"
#include "thread_pool.h"

namespace pspec::cpu {

void embed(const EmbedParams& p) {
  parallel_for(p.R, row_grain(p.M * size_of(p.dtype)), [&p](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      table_row(p.table, p.table_dtype, p.V, p.M, p.ids[r], at(p.out, p.dtype, r * p.M), p.dtype);
    }
  });
}

}  // namespace pspec::cpu
