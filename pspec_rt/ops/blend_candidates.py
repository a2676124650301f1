"""blend_candidates: the proposals of a lookup among a drafter's candidates, in place."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..ref.blend_candidates import blend_candidates as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native_launch, ptr


def _native(backend: str, *tensors: Tensor) -> None:
    B, K, C = tensors[2].shape
    native_launch("blend_candidates", backend, *map(ptr, tensors), B * K, C)


_op = Op("blend_candidates", ref=_ref, cpu=partial(_native, "cpu"), cuda=partial(_native, "cuda"))


def blend_candidates(
    ids_BK: Tensor, scores_BK: Tensor, candidate_ids_BKC: Tensor, candidate_scores_BKC: Tensor
) -> None:
    """Put a proposed token among the C candidates of every depth, which stay sorted by falling score.

    A token that is a candidate already takes the higher of the two scores. Any other takes the place of the last
    candidate, if it scores higher. Among equal scores a token that moves up comes last; the others keep their order.

    Args:
        ids_BK: [B, K] int32 proposals; below 0: none, the depth stays as it is.
        scores_BK: [B, K] fp32 log-probabilities, not NaN.
        candidate_ids_BKC: [B, K, C] int32 in place, no token twice.
        candidate_scores_BKC: [B, K, C] fp32 log-probabilities in place, descending; NaN, last, counts as -inf.
    """
    B, K, C = candidate_ids_BKC.shape
    expect_shape("ids_BK", ids_BK, B, K)
    expect_shape("scores_BK", scores_BK, B, K)
    expect_shape("candidate_scores_BKC", candidate_scores_BKC, B, K, C)
    expect_dtypes(torch.int32, ids_BK=ids_BK, candidate_ids_BKC=candidate_ids_BKC)
    expect_dtypes(torch.float32, scores_BK=scores_BK, candidate_scores_BKC=candidate_scores_BKC)
    _op(ids_BK.device)(ids_BK, scores_BK, candidate_ids_BKC, candidate_scores_BKC)
