// silu_mul: the gated activation of the MLP, row by row.
#include "convert.h"
#include "launch.h"
#include "row_grain.h"

namespace pspec::cpu {

void silu_mul(const SiluMulParams& p) {
  parallel_for(p.R, row_grain(p.I), [&p](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t gate = 2 * r * p.I;
      kernels().silu_mul_row(at(p.gate_up, p.dtype, gate), at(p.gate_up, p.dtype, gate + p.I),
                             at(p.out, p.dtype, r * p.I), p.I, p.dtype);
    }
  });
}

}  // namespace pspec::cpu
