// gather_features: the target's features of each slot's accepted path.
#include <cstring>

#include "launch.h"

namespace pspec::cpu {

void gather_features(const GatherFeaturesParams& p) {
  for (int64_t row = 0; row < p.B * p.P; ++row) {
    if (p.path[row] < 0) continue;
    const int64_t from = row / p.P * p.N + p.path[row];
    std::memcpy(p.out + row * p.row_bytes, p.features + from * p.row_bytes, p.row_bytes);
  }
}

}  // namespace pspec::cpu
