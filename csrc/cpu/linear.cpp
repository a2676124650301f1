// linear: activation rows times a weight matrix; bound by streaming the weights once.
#include <algorithm>
#include <vector>

#include "convert.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

constexpr int64_t kMaxChunk = 8192;  // output columns finished together, of one row; of many rows fewer
constexpr int64_t kGrain = 32;       // threads' shares are multiples of this

int64_t chunk_of(int64_t R) {
  constexpr int64_t kChunkFloats = 8192;  // of a chunk's sums, which should stay in a near cache
  return std::clamp(kChunkFloats / R / kGrain * kGrain, 2 * kGrain, kMaxChunk);
}

// Calls visit(first column, columns) for the chunks of a thread's share.
template <typename Visit>
void for_chunks(const LinearParams& p, int64_t begin, int64_t end, const Visit& visit) {
  const int64_t chunk = chunk_of(p.R);
  for (int64_t o = begin; o < end; o += chunk) visit(o, std::min(end - o, chunk));
}

// What a share reads, in order.
std::vector<Bytes> weights_of(const LinearParams& p, int64_t begin, int64_t end) {
  std::vector<Bytes> ranges;
  auto rows = [&](int64_t first, int64_t count) {
    const char* data = static_cast<const char*>(at(p.w, p.w_dtype, first * p.I));
    ranges.push_back({data, data + count * p.I * size_of(p.w_dtype)});
  };
  for_chunks(p, begin, end, [&](int64_t o, int64_t width) {
    rows(o, width);
    if (p.gated) rows(p.O + o, width);
  });
  return ranges;
}

// The rows themselves, or RMS-normed into scratch.
const void* normed(const LinearParams& p) {
  if (p.norm == nullptr) return p.x;
  void* rows = scratch(ScratchSlot::kWork, (p.R * p.I * size_of(p.x_dtype) + 3) / 4);
  for (int64_t r = 0; r < p.R; ++r) {
    // Without an x to add, norm_row only reads the residual.
    void* row = const_cast<void*>(at(p.x, p.x_dtype, r * p.I));
    kernels().norm_row({nullptr, row, p.norm, at(rows, p.x_dtype, r * p.I), p.I, p.eps, p.x_dtype});
  }
  return rows;
}

// Sums of some output columns on their way to the output; buffers of a thread, [columns] each.
class Finish {
 public:
  static constexpr int64_t kBuffers = 4;

  Finish(const LinearParams& p, int64_t columns, float* buffers)
      : p_(p), fp32_(buffers), gate_(fp32_ + columns), up_(gate_ + columns), result_(up_ + columns) {}

  // sums: [width] of row r, columns o ..; `up` those of the gate's partners.
  void row(int64_t r, int64_t o, int64_t width, float* sums, float* up) {
    void* out = at(p_.out, p_.out_dtype, r * p_.O + o);
    void* result = p_.add ? result_ : out;
    if (p_.gated) {
      round(sums, o, width, gate_);
      round(up, p_.O + o, width, up_);
      kernels().silu_mul_row(gate_, up_, result, width, p_.out_dtype);
    } else {
      round(sums, o, width, result);
    }
    if (p_.add) add(result, width, out);
  }

 private:
  // to = sums + bias of the weight rows from o on, in the output's dtype.
  void round(float* sums, int64_t o, int64_t width, void* to) {
    if (p_.bias != nullptr) {
      const DType dtype = is_int8(p_.w_dtype) ? p_.x_dtype : p_.w_dtype;
      to_float(at(p_.bias, dtype, o), dtype, width, fp32_);
      kernels().add(sums, fp32_, width, sums);
    }
    from_float(sums, width, p_.out_dtype, to);
  }

  void add(const void* result, int64_t width, void* out) {
    to_float(result, p_.out_dtype, width, gate_);
    to_float(out, p_.out_dtype, width, up_);
    kernels().add(gate_, up_, width, gate_);
    from_float(gate_, width, p_.out_dtype, out);
  }

  const LinearParams& p_;
  float* fp32_;
  float *gate_, *up_, *result_;  // in the output's dtype, or fp32
};

}  // namespace

void linear(const LinearParams& p) {
  // Threads share out the columns only: splitting the sum over I would make bits depend on the thread count.
  parallel_for(p.O, kGrain, [&](int64_t begin, int64_t end, int) {
    // Each thread norms and packs all rows for itself: cheaper than waiting for one to do it.
    const float* x = pack_activations(normed(p), p.x_dtype, p.w_dtype, p.R, p.I);
    const int64_t chunk = chunk_of(p.R), stride = chunk + kInt8Rows;
    float* sums = scratch(ScratchSlot::kOutputs, (2 * p.R + Finish::kBuffers) * stride);
    float* up = sums + p.R * stride;
    Finish finish(p, chunk, up + p.R * stride);
    std::vector<Bytes> ranges;
    WeightStream share, *stream = nullptr;
    if (follows_stream(p.x_dtype, p.w_dtype)) {
      ranges = weights_of(p, begin, end);
      share = stream_of(ranges.data(), ranges.data() + ranges.size());
      stream = &share;
    }
    for_chunks(p, begin, end, [&](int64_t o, int64_t width) {
      // Where row 0 of weight rows `first` and on begins in `to`: after those of an int8 tile that begins before them.
      auto dot = [&](int64_t first, float* to) {
        const int64_t before = is_int8(p.w_dtype) ? first % kInt8Rows : 0;
        kernels().dot(x, p.x_dtype, p.R, weight_rows(p.w, p.w_dtype, first - before, p.I), p.w_dtype, before + width, p.I,
                      stream, to, stride);
        return to + before;
      };
      float* own = dot(o, sums);
      float* gated = p.gated ? dot(p.O + o, up) : up;
      for (int64_t r = 0; r < p.R; ++r) {
        finish.row(r, o, width, own + r * stride, gated + r * stride);
        fetch_meanwhile(stream);
      }
    });
  });
}

}  // namespace pspec::cpu
