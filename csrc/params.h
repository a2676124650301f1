// The nouns: one plain struct per kernel. Every pointer carries its shape and dtype.
//
// Letters as in docs: B slots, N nodes per slot, K drafted positions, P path slots, C candidates, V vocabulary,
// D draft vocabulary, M model width, H query heads, G KV heads, E head dim, I input width, O output width, S cache
// rows per slot, L layers, R = B*N rows, Q per use. "T" is DType::kFloat32 or kBFloat16. Matrices of the int8 types lie
// as cpu/isa/int8_layout.h says.
#pragma once

#include <cstdint>

namespace pspec {

// kInt8, kInt8A8: of weight matrices only. Activations are rounded to 16 bits relative to the largest of a group, or 8.
enum class DType : int32_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2, kInt8A8 = 3 };

struct LinearParams {
  const void* x;     // [R, I] x_dtype
  const void* w;     // [O, I] w_dtype; gated: [2 * O, I], the gate's rows first
  const void* bias;  // [rows of w] w_dtype, x_dtype if that is int8; or null
  const void* norm;  // [I] x_dtype, weight of an RMS norm of x before the product; null: none
  void* out;         // [R, O] out_dtype; add: in and out
  int64_t R, I, O;
  float eps;         // of the norm
  bool gated;        // out = silu(gate) * up
  bool add;          // out += instead of out =
  DType x_dtype, w_dtype, out_dtype;
};

struct TreeAttentionParams {
  const void* q;          // [B, N, H, E] T
  const void* k;          // [B, G, S, E] T, strides below
  const void* v;          // [B, G, S, E] T, strides below
  const int32_t* prefix;  // [B] committed cache rows of the slot
  const int64_t* words;   // [B, N] ancestor words; 0 marks a padding row
  void* out;              // [B, N, H, E] T
  int64_t B, N, H, G, S, E;
  float scale;
  int64_t window;  // 0: attend to everything before
  DType dtype;
  int64_t cache_stride_b, cache_stride_g;  // in elements; rows are E apart
};

struct HeadTopKParams {
  const void* x;             // [R, M] x_dtype
  const void* w;             // [D, M] w_dtype
  int32_t* out_ids;          // [R, C]
  float* out_scores;         // [R, C], or null
  const float* temperature;  // [R], or null: all zero
  const float* noise;        // [Q, V], or null
  const int32_t* noise_row;  // [R] row of `noise`, or null with it
  const int32_t* id_map;     // [D] ascending vocabulary ids, or null: identity
  int64_t R, M, D, V, C;
  DType x_dtype, w_dtype;
};

struct GumbelNoiseParams {
  const int64_t* seed;            // [B]
  const int32_t* first_position;  // [B]
  float* out;                     // [B, P, V]
  int64_t B, P, V;
};

struct BuildTreeParams {
  const int32_t* candidate_ids;   // [B, K, C], -1: no candidate
  const float* candidate_scores;  // [B, K, C]
  const int32_t* bonus;           // [B]
  const int32_t* length;          // [B]
  int32_t* ids;                   // [B, N]
  int32_t* parent;                // [B, N]
  int32_t* depth;                 // [B, N]
  int64_t* words;                 // [B, N]
  int32_t* positions;             // [B, N]
  int32_t* prefix;                // [B] out, length - 1
  int32_t* noise_row;             // [B, N] out, b * noise_stride + depth; or null
  const int32_t* t_parent;        // [N] template, or null: best-first
  const int32_t* t_depth;         // [N]
  const int32_t* t_rank;          // [N]
  const int64_t* t_words;         // [N]
  int64_t B, K, C, N;
  int64_t noise_stride;           // rows of noise per slot
};

struct AcceptParams {
  const int32_t* ids;       // [B, N]
  const int32_t* parent;    // [B, N]
  const int32_t* target;    // [B, N]
  const int32_t* stop_ids;  // [B, Q], -1 unused
  const int32_t* limit;     // [B]
  int32_t* length;          // [B] in and out
  int32_t* finished;        // [B] in and out
  int32_t* bonus;           // [B] out, unless finished
  int32_t* tokens;          // [B, S] out at length .. length + count - 1
  int32_t* path;            // [B, P] out, -1 padded
  int32_t* emitted;         // [B, P] out, -1 padded
  int32_t* count;           // [B] out
  int32_t* ring_words;      // as common/ring.h says; or null
  int32_t* ring_control;    // [8]; null with it
  int64_t B, N, Q, S, P;
  int64_t ring_capacity;
};

struct EmbedParams {
  const int32_t* ids;  // [R], below 0: row 0
  const void* table;   // [V, M] table_dtype
  void* out;           // [R, M] T; table_dtype unless that is int8
  int64_t R, V, M;
  DType table_dtype, dtype;
};

struct AddRmsNormParams {
  const void* x;       // [R, M] T, or null
  void* residual;      // [R, M] T in place
  const void* weight;  // [M] T
  void* out;           // [R, M] T
  int64_t R, M;
  float eps;
  DType dtype;
};

struct SiluMulParams {
  const void* gate_up;  // [R, 2I] T, the gate first
  void* out;            // [R, I] T
  int64_t R, I;
  DType dtype;
};

struct RopeAppendParams {
  const void* qkv;           // [B*N, (H+2G)*E] T, q heads, k heads, v heads
  const int32_t* positions;  // [B, N] clamped to 0 .. max_positions-1
  const int32_t* prefix;     // [B] cache row of node 0
  const float* cos;          // [max_positions, E/2]
  const float* sin;          // [max_positions, E/2]
  void* k;                   // [B, G, S, E] T out at rows prefix .. prefix+N-1, strides below
  void* v;                   // [B, G, S, E] T likewise
  void* q;                   // [B, N, H, E] T out
  const void* q_norm;        // [E] T, or null
  const void* k_norm;        // [E] T, or null
  int64_t B, N, H, G, S, E, max_positions;
  float eps;
  DType dtype;
  int64_t cache_stride_b, cache_stride_g;  // in elements; rows are E apart
};

struct DraftInputsParams {
  const int32_t* ids;      // [B, P], below 0: row 0 of the table
  const void* features;    // [B, P, F] T
  const int32_t* count;    // [B] accepted rows
  const void* masks;       // [J, M] T
  const void* fc;          // [M, E+F] T
  void* out;               // [B, P+J, M] T
  const void* table;       // [V, E] table_dtype, T or int8; or null with E = 0: no embedding
  const void* bias;        // [M] T, or null
  const void* anchor_map;  // [M, E+F] T, or null
  int64_t B, P, J, M, F, E, V;
  DType dtype, table_dtype;
};

struct SelectTokensParams {
  const float* logits;       // [R, V]
  int32_t* out_ids;          // [R]
  const float* temperature;  // [R]
  const int32_t* top_k;      // [R], <= 0 off
  const float* top_p;        // [R], >= 1 off
  const float* min_p;        // [R], 0 off
  const float* noise;        // [Q, V]
  const int32_t* noise_row;  // [R] row of `noise`
  float* out_logprob;        // [R], or null
  int32_t* out_top_ids;      // [R, top], or null
  float* out_top_logprobs;   // [R, top], or null with it
  int64_t R, V, top;
};

struct DraftRowsParams {
  const int32_t* emitted;       // [B, P] tokens of last round, -1 padded
  const int32_t *count, *length;  // [B]
  int32_t *ids, *positions;     // [B, N]
  int32_t* prefix;              // [B]
  int64_t* words;               // [B, N]
  int32_t* take;                // [B, 1+N-P] rows that predict
  int32_t* source;              // [B, N] token row that a row's feature comes from
  int64_t B, P, N;
  int32_t shift, mask_id, vocab;  // vocab: ids from here on become -1; 0: none
};

struct GrowTreeParams {
  const int32_t* ids;     // [B*W, C]
  const float* scores;    // [B*W, C]
  const int32_t* length;  // [B]
  const int64_t* words;   // [B, W]
  int32_t* pool_ids;      // [B, G, C], rows first .. first+W-1 written
  float* pool_scores;     // [B, G, C], the same; sums along the path
  int32_t* origin;        // [B, G] entry of the pool a row was chosen from
  int32_t *next_ids, *next_positions;  // [B, X]
  int64_t* next_words;    // [B, X]
  int32_t* next_parent;   // [B, X]
  int32_t *prefix, *append;  // [B]
  const int32_t* picks;   // [X], or null: the best
  int64_t B, G, C, W, X;
  int32_t level, first, shift;
};

struct PruneTreeParams {
  const int32_t* pool_ids;   // [B, G, C]
  const float* pool_scores;  // [B, G, C]
  const int32_t* origin;     // [B, G]
  const int32_t *bonus, *length;  // [B]
  int32_t *ids, *parent, *depth;  // [B, N]
  int64_t* words;            // [B, N]
  int32_t* positions;        // [B, N]
  int32_t* prefix;           // [B]
  int32_t* noise_row;        // [B, N]
  const int32_t* picks;      // [N], or null: the best
  int64_t B, G, C, N, noise_stride;
};

struct CastParams {
  const void* x;  // [size] x_dtype
  void* out;      // [size] out_dtype
  int64_t size;
  DType x_dtype, out_dtype;
};

struct SiluAddParams {
  const void* y;  // [R, M] T
  void* out;      // [R, M] T, += silu(y)
  int64_t R, M;
  DType dtype;
};

struct MoveRowsParams {
  const uint64_t* buffers;  // [L] addresses of [any, row_bytes], the same rows in each
  const int32_t* from;      // [B, P] rows, in the order they move; -1: none
  const int32_t* to;        // [B, P]
  int64_t L, B, P, row_bytes;
};

struct NgramDraftParams {
  const int32_t* tokens;  // [B, S] history
  const int32_t* length;  // [B] of the history
  int32_t* out_ids;       // [B, K] strides below, -1: nothing found
  float* out_scores;      // [B, K] the same strides, log-probabilities; or null
  int64_t B, S, K;
  int64_t stride_b, stride_k;  // in elements
  int32_t max_ngram, min_ngram;
};

struct BlendCandidatesParams {
  const int32_t* ids;       // [R] proposals, below 0: none
  const float* scores;      // [R] theirs
  int32_t* candidate_ids;   // [R, C] in place
  float* candidate_scores;  // [R, C] in place, descending
  int64_t R, C;
};

struct GatherFeaturesParams {
  const char* features;  // [B*N, row_bytes]
  const int32_t* path;   // [B, P] rows of the slot, -1: none
  char* out;             // [B, P, row_bytes], unchanged where the path is -1
  int64_t B, P, N, row_bytes;
};

struct StoreTapParams {
  const char* state;  // [R, row_bytes]
  char* features;     // [R, features_row_bytes], written from column_bytes on
  int64_t R, row_bytes, features_row_bytes, column_bytes;
};

struct CompactKvParams {
  char* kv;               // [2L, B, G, S, row_bytes] in place
  const int32_t* path;    // [B, P]
  const int32_t* count;   // [B]
  const int32_t* length;  // [B] after accept
  int64_t L2, B, G, S, row_bytes, P;
};

}  // namespace pspec
