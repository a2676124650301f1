// The kernel table of one instruction set; CMake compiles this file once per set (PSPEC_ISA names its namespace).
#include "kernels.h"

#include "attend.h"
#include "dot.h"
#include "gumbel.h"
#include "rows.h"
#include "search.h"
#include "softmax.h"

namespace pspec::PSPEC_ISA {

static bool supported() {
#if defined(PSPEC_ISA_AMX)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8") && tiles_granted();
#elif defined(PSPEC_ISA_AVX512BF16)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
#elif defined(PSPEC_ISA_AVX512)
  return __builtin_cpu_supports("avx512f");
#elif defined(PSPEC_ISA_AVX2)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

extern const Kernels kKernels;
const Kernels kKernels = {
    PSPEC_ISA_NAME, supported, kFollowsStream, packed_floats, pack, dot, attend_run, fold_runs, max_of, sum_exp, gumbel,
    to_float_row, from_float_row, norm_row, silu_mul_row, rope_head, divide_row, add_rows, argmax_of, spread_of, gather_least,
    exp_in_place,
};

}  // namespace pspec::PSPEC_ISA
