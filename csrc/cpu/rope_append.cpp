// rope_append: rotates the heads of each row, and puts its keys and values into the cache.
#include <algorithm>
#include <cstring>

#include "convert.h"
#include "launch.h"
#include "row_grain.h"

namespace pspec::cpu {
namespace {

// Row r = b * N + n.
void append_row(const RopeAppendParams& p, int64_t r) {
  const int64_t b = r / p.N, row = p.prefix[b] + r % p.N;
  const int64_t position = std::clamp<int64_t>(p.positions[r], 0, p.max_positions - 1);
  const float* cos = p.cos + position * (p.E / 2);
  const float* sin = p.sin + position * (p.E / 2);
  const int64_t heads = r * (p.H + 2 * p.G);  // heads before this row's
  for (int64_t h = 0; h < p.H; ++h) {
    kernels().rope_head({at(p.qkv, p.dtype, (heads + h) * p.E), p.q_norm, cos, sin,
                         at(p.q, p.dtype, (r * p.H + h) * p.E), p.E, p.eps, p.dtype});
  }
  if (row < 0 || row >= p.S) return;  // against the contract, but another slot's rows must not suffer
  for (int64_t g = 0; g < p.G; ++g) {
    const int64_t key = (heads + p.H + g) * p.E, value = key + p.G * p.E;
    const int64_t cache = b * p.cache_stride_b + g * p.cache_stride_g + row * p.E;
    kernels().rope_head({at(p.qkv, p.dtype, key), p.k_norm, cos, sin, at(p.k, p.dtype, cache), p.E, p.eps, p.dtype});
    std::memcpy(at(p.v, p.dtype, cache), at(p.qkv, p.dtype, value), p.E * size_of(p.dtype));
  }
}

}  // namespace

void rope_append(const RopeAppendParams& p) {
  parallel_for(p.B * p.N, row_grain((p.H + 2 * p.G) * p.E), [&p](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) append_row(p, r);
  });
}

}  // namespace pspec::cpu
