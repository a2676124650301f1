// add_rms_norm: residual add and RMS norm, row by row.
#include "convert.h"
#include "launch.h"
#include "row_grain.h"

namespace pspec::cpu {

void add_rms_norm(const AddRmsNormParams& p) {
  parallel_for(p.R, row_grain(p.M), [&p](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const void* x = p.x == nullptr ? nullptr : at(p.x, p.dtype, r * p.M);
      kernels().norm_row({x, at(p.residual, p.dtype, r * p.M), p.weight, at(p.out, p.dtype, r * p.M), p.M, p.eps,
                          p.dtype});
    }
  });
}

}  // namespace pspec::cpu
