// store_tap: one hidden state into its columns of the features.
#include <cstring>

#include "launch.h"

namespace pspec::cpu {

void store_tap(const StoreTapParams& p) {
  for (int64_t r = 0; r < p.R; ++r) {
    std::memcpy(p.features + r * p.features_row_bytes + p.column_bytes, p.state + r * p.row_bytes, p.row_bytes);
  }
}

}  // namespace pspec::cpu
