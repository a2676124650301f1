// The CPU launch functions, one per op: what the bindings call.
#pragma once

#include "../params.h"

namespace pspec::cpu {

void linear(const LinearParams& p);
void tree_attention(const TreeAttentionParams& p);
void head_top_k(const HeadTopKParams& p);
void gumbel_noise(const GumbelNoiseParams& p);
void build_tree(const BuildTreeParams& p);
void accept(const AcceptParams& p);
void draft_rows(const DraftRowsParams& p);
void grow_tree(const GrowTreeParams& p);
void prune_tree(const PruneTreeParams& p);
void cast(const CastParams& p);
void silu_add(const SiluAddParams& p);
void store_tap(const StoreTapParams& p);
void move_rows(const MoveRowsParams& p);
void ngram_draft(const NgramDraftParams& p);
void blend_candidates(const BlendCandidatesParams& p);
void gather_features(const GatherFeaturesParams& p);
void compact_kv(const CompactKvParams& p);
void embed(const EmbedParams& p);
void add_rms_norm(const AddRmsNormParams& p);
void silu_mul(const SiluMulParams& p);
void draft_inputs(const DraftInputsParams& p);
void select_tokens(const SelectTokensParams& p);
void rope_append(const RopeAppendParams& p);

}  // namespace pspec::cpu
