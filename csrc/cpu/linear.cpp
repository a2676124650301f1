// linear: activation rows times a weight matrix; bound by streaming the weights once.
#include "convert.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

constexpr int64_t kChunk = 64;  // output columns finished together
constexpr int64_t kGrain = 32;  // threads' shares are multiples of this

// out[r, o .. o + width) = round(dot + bias)
void store_chunk(const LinearParams& p, int64_t o, int64_t width, float* dots) {
  float bias[kChunk];
  if (p.bias != nullptr) to_float(at(p.bias, p.w_dtype, o), p.w_dtype, width, bias);
  for (int64_t r = 0; r < p.R; ++r) {
    float* row = dots + r * kChunk;
    for (int64_t i = 0; p.bias != nullptr && i < width; ++i) row[i] += bias[i];
    from_float(row, width, p.out_dtype, at(p.out, p.out_dtype, r * p.O + o));
  }
}

}  // namespace

void linear(const LinearParams& p) {
  const float* x = pack_activations(p.x, p.x_dtype, p.w_dtype, p.R, p.I);
  // Threads share out the columns only: splitting the sum over I would make bits depend on the thread count.
  parallel_for(p.O, kGrain, [&](int64_t begin, int64_t end, int) {
    float* dots = scratch(ScratchSlot::kOutputs, p.R * kChunk);
    for (int64_t o = begin; o < end; o += kChunk) {
      const int64_t width = end - o < kChunk ? end - o : kChunk;
      kernels().dot(x, p.x_dtype, p.R, at(p.w, p.w_dtype, o * p.I), p.w_dtype, width, p.I,
                    end - o - width, dots, kChunk);
      store_chunk(p, o, width, dots);
    }
  });
}

}  // namespace pspec::cpu
