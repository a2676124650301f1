// The integer kernels of a round on a GPU: what the bindings call. All may be captured.
#pragma once

#include "../params.h"

namespace pspec::cuda {

void draft_rows(const DraftRowsParams& p, void* stream);
void grow_tree(const GrowTreeParams& p, void* stream);
void prune_tree(const PruneTreeParams& p, void* stream);
void build_tree(const BuildTreeParams& p, void* stream);
void accept(const AcceptParams& p, void* stream);
void compact_kv(const CompactKvParams& p, void* stream);
void move_rows(const MoveRowsParams& p, void* stream);
void ngram_draft(const NgramDraftParams& p, void* stream);
void blend_candidates(const BlendCandidatesParams& p, void* stream);

}  // namespace pspec::cuda
