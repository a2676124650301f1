// linear: activation rows times a weight matrix; bound by streaming the weights once.
#include <algorithm>

#include "convert.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

constexpr int64_t kMaxChunk = 8192;  // output columns finished together, of one row; of many rows kGrain
constexpr int64_t kGrain = 32;      // threads' shares are multiples of this

int64_t chunk_of(int64_t R) {
  constexpr int64_t kChunkFloats = 8192;  // of a chunk's sums, which should stay in the nearest cache
  return std::clamp(kChunkFloats / R / kGrain * kGrain, 2 * kGrain, kMaxChunk);
}

// out[r, o .. o + width) = round(dot + bias)
void store_chunk(const LinearParams& p, int64_t o, int64_t width, float* dots, int64_t stride) {
  float bias[kMaxChunk];
  if (p.bias != nullptr) to_float(at(p.bias, p.w_dtype, o), p.w_dtype, width, bias);
  for (int64_t r = 0; r < p.R; ++r) {
    float* row = dots + r * stride;
    for (int64_t i = 0; p.bias != nullptr && i < width; ++i) row[i] += bias[i];
    from_float(row, width, p.out_dtype, at(p.out, p.out_dtype, r * p.O + o));
  }
}

}  // namespace

void linear(const LinearParams& p) {
  const float* x = pack_activations(p.x, p.x_dtype, p.w_dtype, p.R, p.I);
  // Threads share out the columns only: splitting the sum over I would make bits depend on the thread count.
  parallel_for(p.O, kGrain, [&](int64_t begin, int64_t end, int) {
    const int64_t chunk = chunk_of(p.R);
    float* dots = scratch(ScratchSlot::kOutputs, p.R * chunk);
    for (int64_t o = begin; o < end; o += chunk) {
      const int64_t width = std::min(end - o, chunk);
      kernels().dot(x, p.x_dtype, p.R, at(p.w, p.w_dtype, o * p.I), p.w_dtype, width, p.I,
                    end - o - width, dots, chunk);
      store_chunk(p, o, width, dots, chunk);
    }
  });
}

}  // namespace pspec::cpu
