// draft_inputs: gathers the joined inputs of the accepted tokens, and runs them and their anchors through `linear`.
#include <algorithm>
#include <cstring>

#include "convert.h"
#include "launch.h"
#include "table_row.h"

namespace pspec::cpu {
namespace {

// Buffers of one call in the calling thread's scratch, all T but `sum`; linear leaves their slots alone.
struct Buffers {
  void* joined;         // [B*P, W]
  void* anchors;        // [B, W]
  void* rows;           // [B*P, M] fc(joined)
  void* anchor_inputs;  // [B, M] anchor_map(anchors)
  float* sum;           // [2, M]
};

Buffers carve(const DraftInputsParams& p) {
  const int64_t W = p.E + p.F, rows = p.B * p.P;
  float* in = scratch(ScratchSlot::kWork, (rows + p.B) * W);
  float* out = scratch(ScratchSlot::kPartials, (rows + p.B + 2) * p.M);
  return {in, at(in, p.dtype, rows * W), out + 2 * p.M, at(out + 2 * p.M, p.dtype, rows * p.M), out};
}

// joined[r] = [table[ids[r]] ; features[r]]
void join(const DraftInputsParams& p, int64_t r, void* joined) {
  if (p.table != nullptr) table_row(p.table, p.table_dtype, p.V, p.E, p.ids[r], joined, p.dtype);
  std::memcpy(at(joined, p.dtype, p.E), at(p.features, p.dtype, r * p.F), p.F * size_of(p.dtype));
}

void product(const DraftInputsParams& p, const void* x, const void* w, const void* bias, int64_t R, void* out) {
  linear({x, w, bias, nullptr, out, R, p.E + p.F, p.M, 0.0f, false, false, p.dtype, p.dtype, p.dtype});
}

// out[b, P + j] = masks[j] (+ the slot's anchor input)
void write_masks(const DraftInputsParams& p, const Buffers& buffers, int64_t b) {
  void* out = at(p.out, p.dtype, (b * (p.P + p.J) + p.P) * p.M);
  if (p.anchor_map == nullptr) {
    std::memcpy(out, p.masks, p.J * p.M * size_of(p.dtype));
    return;
  }
  float* anchor = buffers.sum + p.M;
  to_float(at(buffers.anchor_inputs, p.dtype, b * p.M), p.dtype, p.M, anchor);
  for (int64_t j = 0; j < p.J; ++j) {
    to_float(at(p.masks, p.dtype, j * p.M), p.dtype, p.M, buffers.sum);
    for (int64_t i = 0; i < p.M; ++i) buffers.sum[i] += anchor[i];
    from_float(buffers.sum, p.M, p.dtype, at(out, p.dtype, j * p.M));
  }
}

}  // namespace

void draft_inputs(const DraftInputsParams& p) {
  const int64_t W = p.E + p.F;
  const Buffers buffers = carve(p);
  for (int64_t r = 0; r < p.B * p.P; ++r) join(p, r, at(buffers.joined, p.dtype, r * W));
  product(p, buffers.joined, p.fc, p.bias, p.B * p.P, buffers.rows);
  if (p.anchor_map != nullptr && p.J > 0) {
    for (int64_t b = 0; b < p.B; ++b) {
      const int64_t anchor = b * p.P + std::clamp<int64_t>(p.count[b] - 1, 0, p.P - 1);
      join(p, anchor, at(buffers.anchors, p.dtype, b * W));
    }
    product(p, buffers.anchors, p.anchor_map, nullptr, p.B, buffers.anchor_inputs);
  }
  for (int64_t b = 0; b < p.B; ++b) {
    std::memcpy(at(p.out, p.dtype, b * (p.P + p.J) * p.M), at(buffers.rows, p.dtype, b * p.P * p.M),
                p.P * p.M * size_of(p.dtype));
    write_masks(p, buffers, b);
  }
}

}  // namespace pspec::cpu
