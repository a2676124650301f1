// silu_add: x + silu(y), row by row.
#include <algorithm>

#include "convert.h"
#include "launch.h"
#include "row_grain.h"
#include "thread_pool.h"

namespace pspec::cpu {
namespace {

constexpr int64_t kBlock = 64;

struct Ones {
  float wide[kBlock];
  uint16_t narrow[kBlock];  // bf16
  Ones() {
    for (int64_t i = 0; i < kBlock; ++i) wide[i] = 1.0f, narrow[i] = 0x3f80;
  }
};

void silu_add_row(const SiluAddParams& p, int64_t r) {
  static const Ones ones;
  const void* one = p.dtype == DType::kFloat32 ? static_cast<const void*>(ones.wide) : ones.narrow;
  float silu[kBlock], sum[kBlock];  // `silu` holds values of the dtype first
  for (int64_t i = 0; i < p.M; i += kBlock) {
    const int64_t n = std::min(kBlock, p.M - i);
    void* out = at(p.out, p.dtype, r * p.M + i);
    float rounded[kBlock];
    kernels().silu_mul_row(at(p.y, p.dtype, r * p.M + i), one, silu, n, p.dtype);
    to_float(silu, p.dtype, n, rounded);
    to_float(out, p.dtype, n, sum);
    for (int64_t j = 0; j < n; ++j) sum[j] += rounded[j];
    from_float(sum, n, p.dtype, out);
  }
}

}  // namespace

void silu_add(const SiluAddParams& p) {
  parallel_for(p.R, row_grain(p.M), [&p](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) silu_add_row(p, r);
  });
}

}  // namespace pspec::cpu
