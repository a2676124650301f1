"""blend_candidates in plain PyTorch: a proposed token finds its place among the candidates of its depth."""

from __future__ import annotations

import torch
from torch import Tensor

from ._index import arange


def blend_candidates(
    ids_BK: Tensor, scores_BK: Tensor, candidate_ids_BKC: Tensor, candidate_scores_BKC: Tensor
) -> None:
    """Candidates with the proposals among them, in place; see `pspec_rt.ops.blend_candidates`."""
    C = candidate_ids_BKC.shape[2]
    id_BK1, score_BK1, rank_C = ids_BK[..., None], scores_BK[..., None], arange(C, ids_BK.device)
    own_BKC = candidate_ids_BKC == id_BK1
    # The entry that goes: the token's own, or the last. Those ahead of it that score less move down by one.
    goes_BK1 = torch.where(own_BKC, rank_C, C - 1).amin(dim=2, keepdim=True)
    ahead_BKC = (candidate_scores_BKC >= score_BK1) & (rank_C < goes_BK1)
    to_BK1 = ahead_BKC.sum(dim=2, keepdim=True)
    better_BK1 = (id_BK1 >= 0) & ~(candidate_scores_BKC.gather(2, goes_BK1) >= score_BK1)
    moved_BKC = rank_C - ((rank_C > to_BK1) & (rank_C <= goes_BK1)).long()
    for all_BKC, new_BK1 in ((candidate_ids_BKC, id_BK1), (candidate_scores_BKC, score_BK1)):
        blended_BKC = torch.where(rank_C == to_BK1, new_BK1, all_BKC.gather(2, moved_BKC))
        all_BKC.copy_(torch.where(better_BK1, blended_BKC, all_BKC))
