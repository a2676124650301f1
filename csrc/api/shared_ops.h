// Integers -> checks -> Params, of the ops that CPU and CUDA share, and the bindings made from them.
#pragma once

#include "api.h"

namespace pspec::api {

using Int = int64_t;

inline BuildTreeParams build_tree_params(Address candidate_ids, Address candidate_scores, Address bonus, Address length,
                                         Address ids, Address parent, Address depth, Address words, Address positions,
                                         Address prefix, Address noise_row, Address t_parent, Address t_depth,
                                         Address t_rank, Address t_words, Int B, Int K, Int C, Int N,
                                         Int noise_stride) {
  check(N >= 1 && N <= 64, "build_tree: N must be 1..64");
  check(N == 1 || (K >= 1 && C >= 1), "build_tree: a tree of more than the root needs candidates");
  return {pointer<int32_t>(candidate_ids), pointer<float>(candidate_scores), pointer<int32_t>(bonus),
          pointer<int32_t>(length), pointer<int32_t>(ids), pointer<int32_t>(parent), pointer<int32_t>(depth),
          pointer<int64_t>(words), pointer<int32_t>(positions), pointer<int32_t>(prefix), pointer<int32_t>(noise_row),
          pointer<int32_t>(t_parent), pointer<int32_t>(t_depth), pointer<int32_t>(t_rank), pointer<int64_t>(t_words),
          B, K, C, N, noise_stride};
}

inline DraftRowsParams draft_rows_params(Address emitted, Address count, Address length, Address ids, Address positions,
                                         Address prefix, Address words, Address take, Address source, Int B, Int P,
                                         Int N, int shift, int mask_id, int vocab) {
  check(B >= 0 && P >= 1 && P <= N && N <= 64, "draft_rows: 1 <= P <= N <= 64 rows");
  return {pointer<int32_t>(emitted), pointer<int32_t>(count), pointer<int32_t>(length), pointer<int32_t>(ids),
          pointer<int32_t>(positions), pointer<int32_t>(prefix), pointer<int64_t>(words), pointer<int32_t>(take),
          pointer<int32_t>(source), B, P, N, shift, mask_id, vocab};
}

inline GrowTreeParams grow_tree_params(Address ids, Address scores, Address length, Address words, Address pool_ids,
                                       Address pool_scores, Address origin, Address next_ids, Address next_positions,
                                       Address next_words, Address next_parent, Address prefix, Address append,
                                       Address picks, Int B, Int G, Int C, Int W, Int X, int level, int first,
                                       int shift) {
  check(B >= 0 && W >= 1 && X >= 0 && first >= 0 && first + W + X <= G && G <= 65, "grow_tree: rows lie outside the pool");
  check(C >= 1 && C <= 16 && X <= W * C && W <= 64, "grow_tree: C must be 1..16, X at most W * C");
  return {pointer<int32_t>(ids), pointer<float>(scores), pointer<int32_t>(length), pointer<int64_t>(words),
          pointer<int32_t>(pool_ids), pointer<float>(pool_scores), pointer<int32_t>(origin), pointer<int32_t>(next_ids),
          pointer<int32_t>(next_positions), pointer<int64_t>(next_words), pointer<int32_t>(next_parent),
          pointer<int32_t>(prefix), pointer<int32_t>(append), pointer<int32_t>(picks), B, G, C, W, X, level, first,
          shift};
}

inline PruneTreeParams prune_tree_params(Address pool_ids, Address pool_scores, Address origin, Address bonus,
                                         Address length, Address ids, Address parent, Address depth, Address words,
                                         Address positions, Address prefix, Address noise_row, Address picks, Int B,
                                         Int G, Int C, Int N, Int noise_stride) {
  check(G >= 1 && G <= 65 && C >= 1 && C <= 16, "prune_tree: G must be 1..65, C 1..16");
  check(N >= 1 && N <= 64 && N <= 1 + G * C, "prune_tree: N must be 1..64, at most the pool and the root");
  return {pointer<int32_t>(pool_ids), pointer<float>(pool_scores), pointer<int32_t>(origin), pointer<int32_t>(bonus),
          pointer<int32_t>(length), pointer<int32_t>(ids), pointer<int32_t>(parent), pointer<int32_t>(depth),
          pointer<int64_t>(words), pointer<int32_t>(positions), pointer<int32_t>(prefix), pointer<int32_t>(noise_row),
          pointer<int32_t>(picks), B, G, C, N, noise_stride};
}

inline AcceptParams accept_params(Address ids, Address parent, Address target, Address stop_ids, Address limit,
                                  Address length, Address finished, Address bonus, Address tokens, Address path,
                                  Address emitted, Address count, Address ring_words, Address ring_control, Int B,
                                  Int N, Int Q, Int S, Int P, Int ring_capacity) {
  check(N >= 1 && N <= 64, "accept: N must be 1..64");
  check(P >= 1 && Q >= 0 && S > 0, "accept: sizes must be positive");
  const bool power_of_two = ring_capacity > 0 && (ring_capacity & (ring_capacity - 1)) == 0;
  check((ring_words == 0) == (ring_control == 0) && (ring_words == 0 || power_of_two),
        "accept: a ring has control words, and a power of two of records");
  return {pointer<int32_t>(ids), pointer<int32_t>(parent), pointer<int32_t>(target), pointer<int32_t>(stop_ids),
          pointer<int32_t>(limit), pointer<int32_t>(length), pointer<int32_t>(finished), pointer<int32_t>(bonus),
          pointer<int32_t>(tokens), pointer<int32_t>(path), pointer<int32_t>(emitted), pointer<int32_t>(count),
          pointer<int32_t>(ring_words), pointer<int32_t>(ring_control), B, N, Q, S, P, ring_capacity};
}

inline CompactKvParams compact_kv_params(Address kv, Address path, Address count, Address length, Int L2, Int B, Int G,
                                         Int S, Int row_bytes, Int P) {
  check(row_bytes > 0 && S > 0 && P >= 1, "compact_kv: sizes must be positive");
  return {pointer<char>(kv), pointer<int32_t>(path), pointer<int32_t>(count), pointer<int32_t>(length), L2,
          B, G, S, row_bytes, P};
}

inline MoveRowsParams move_rows_params(Address buffers, Address from, Address to, Int L, Int B, Int P, Int row_bytes) {
  check(L >= 0 && B >= 0 && P >= 0 && row_bytes > 0, "move_rows: sizes must be positive");
  return {pointer<uint64_t>(buffers), pointer<int32_t>(from), pointer<int32_t>(to), L, B, P, row_bytes};
}

inline NgramDraftParams ngram_draft_params(Address tokens, Address length, Address out_ids, Address out_scores, Int B,
                                           Int S, Int K, Int stride_b, Int stride_k, int max_ngram, int min_ngram) {
  check(B >= 0 && S > 0 && K >= 0, "ngram_draft: sizes must be positive");
  check(min_ngram >= 1 && max_ngram >= min_ngram, "ngram_draft: 1 <= min_ngram <= max_ngram");
  return {pointer<int32_t>(tokens), pointer<int32_t>(length), pointer<int32_t>(out_ids), pointer<float>(out_scores),
          B, S, K, stride_b, stride_k, max_ngram, min_ngram};
}

inline BlendCandidatesParams blend_candidates_params(Address ids, Address scores, Address candidate_ids,
                                                     Address candidate_scores, Int R, Int C) {
  check(R >= 0 && C >= 1, "blend_candidates: sizes must be positive");
  return {pointer<int32_t>(ids), pointer<float>(scores), pointer<int32_t>(candidate_ids),
          pointer<float>(candidate_scores), R, C};
}

}  // namespace pspec::api
