// gumbel_noise: the noise of every (slot, path position, token) of a round.
#include "convert.h"
#include "launch.h"

namespace pspec::cpu {

void gumbel_noise(const GumbelNoiseParams& p) {
  constexpr int64_t kGrain = 1024;
  const int64_t chunks = (p.V + kGrain - 1) / kGrain;  // per (slot, position)
  parallel_for(p.B * p.P * chunks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / chunks, first = i % chunks * kGrain, b = row / p.P;
      const int64_t last = first + kGrain < p.V ? first + kGrain : p.V;
      const int32_t position = p.first_position[b] + static_cast<int32_t>(row % p.P);
      kernels().gumbel(static_cast<uint64_t>(p.seed[b]), position, first, last, p.out + row * p.V);
    }
  });
}

}  // namespace pspec::cpu
