// draft_forward on a GPU: its arguments, and what the bindings and the tests call.
#pragma once

#include <cstdint>

namespace pspec::cuda {

// Letters as in params.h; Z is the width of the embeddings, W = Z + F. Matrices are bf16, all tensors contiguous and
// 16-byte aligned.
struct DraftForwardParams {
  const int32_t* ids;        // [B, P], below 0: row 0 of the table
  const uint16_t* features;  // [B, P, F]
  const uint16_t* masks;     // [J, M]
  const int32_t* positions;  // [B, N], N = P + J
  const int32_t* prefix;     // [B]
  const int64_t* words;      // [B, N]
  const int32_t* take;       // [B, K] rows n of the slot that predict
  const uint16_t *fc, *fc_bias, *table;  // [M, W]; [M] or null; [table_rows, Z] or null with Z = 0
  const uint16_t *input_norm, *qkv, *o;  // [M], [(H+2G)*E, M], [M, H*E]
  const uint16_t *post_norm, *gate_up, *down;  // [M], [2*I, M], [M, I]
  const uint16_t *norm, *head;                 // [M], [D, M]
  const float *cos, *sin;                      // [max_positions, E/2]
  uint16_t *k, *v;                             // [B, G, S, E], strides below, rows E apart
  int32_t* out_ids;                            // [B*K, C]
  float* out_scores;                           // [B*K, C]
  const float* temperature;                    // [B*K], or null: all zero
  const float* noise;                          // [Q, V], null with it
  const int32_t* noise_row;                    // [B*K], null with it
  const int32_t* id_map;                       // [D] ascending, or null
  unsigned char* work;  // draft_forward_work_bytes, zeros before the first launch; one launch at a time
  int B, P, J, K, F, Z, table_rows, V, M, H, G, E, S, I, D, C, max_positions;
  int64_t cache_stride_b, cache_stride_g;
  float eps, scale;
};

// Of addresses and sizes in the order in which the struct names them.
constexpr int kDraftPointers = 29, kDraftSizes = 19;
DraftForwardParams draft_forward_params(const uint64_t* addresses, const int64_t* sizes, float eps, float scale);

// Why the kernel does not take these sizes, or null.
const char* draft_forward_misfit(const DraftForwardParams& params);
int64_t draft_forward_work_bytes(const DraftForwardParams& params);

// The drafter's pass as one launch of a block per multiprocessor, which wait for each other: all must be resident, so
// two of these may not run at the same time on one GPU. pdl: it may start while the kernel before it ends.
void draft_forward(const DraftForwardParams& params, bool pdl, void* stream);

}  // namespace pspec::cuda
