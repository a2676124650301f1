// cast: values in another dtype.
#include <algorithm>

#include "convert.h"
#include "launch.h"

namespace pspec::cpu {

void cast(const CastParams& p) {
  constexpr int64_t kBlock = 256;
  float values[kBlock];
  for (int64_t i = 0; i < p.size; i += kBlock) {
    const int64_t n = std::min(kBlock, p.size - i);
    to_float(at(p.x, p.x_dtype, i), p.x_dtype, n, values);
    from_float(values, n, p.out_dtype, at(p.out, p.out_dtype, i));
  }
}

}  // namespace pspec::cpu
