// draft_rows: ids, positions, cache rows and ancestor words of one draft's rows.
#include "../common/rows.h"
#include "launch.h"

namespace pspec::cpu {

void draft_rows(const DraftRowsParams& p) {
  for (int64_t b = 0; b < p.B; ++b) {
    for (int64_t n = 0; n < p.N; ++n) draft_row(p, b, n);
  }
}

}  // namespace pspec::cpu
