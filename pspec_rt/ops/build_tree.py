"""build_tree: candidates per depth become the nodes of a draft tree."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..ref.build_tree import build_tree as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native_launch, ptr

MAX_NODES = 64  # one bit per node in an ancestor word


def _native(
    backend: str,
    candidate_ids_BKC: Tensor,
    candidate_scores_BKC: Tensor | None,
    bonus_B: Tensor,
    length_B: Tensor,
    ids_BN: Tensor,
    parent_BN: Tensor,
    depth_BN: Tensor,
    words_BN: Tensor,
    positions_BN: Tensor,
    *,
    prefix_B: Tensor,
    noise_row_BN: Tensor | None = None,
    noise_stride: int = 0,
    template: Sequence[Tensor] | None = None,
) -> None:
    (B, K, C), N = candidate_ids_BKC.shape, ids_BN.shape[1]
    inputs = (candidate_ids_BKC, candidate_scores_BKC, bonus_B, length_B)
    outputs = (ids_BN, parent_BN, depth_BN, words_BN, positions_BN, prefix_B, noise_row_BN)
    addresses = map(ptr, (*inputs, *outputs, *(template or (None,) * 4)))
    native_launch("build_tree", backend, *addresses, B, K, C, N, noise_stride)


_op = Op("build_tree", ref=_ref, cpu=partial(_native, "cpu"), cuda=partial(_native, "cuda"))


def build_tree(
    candidate_ids_BKC: Tensor,
    candidate_scores_BKC: Tensor | None,
    bonus_B: Tensor,
    length_B: Tensor,
    ids_BN: Tensor,
    parent_BN: Tensor,
    depth_BN: Tensor,
    words_BN: Tensor,
    positions_BN: Tensor,
    *,
    prefix_B: Tensor,
    noise_row_BN: Tensor | None = None,
    noise_stride: int = 0,
    template: Sequence[Tensor] | None = None,
) -> None:
    """Node 0 is the bonus token; every other node is one candidate of its depth. A parent precedes
    its children.

    With a template, node n is candidate `rank[n]` of depth `depth[n]`. Without one the tree is
    grown best first: take the open node with the largest path score (candidate scores summed from
    the root in fp32; NaN counts as -inf), among equals the one opened first, N - 1 times; taking
    (depth d, rank r, parent p) opens its sibling (d, r+1, p), then its child (d+1, 0). Start: (1,
    0, root). With ranked log-probabilities that is the N-node tree of largest expected acceptance
    (DDTree, arXiv 2604.12989).

    Args:
        candidate_ids_BKC: [B, K, C] int32, best first; -1 is no candidate (the node then never
            matches).
        candidate_scores_BKC: [B, K, C] fp32; may be None with a template.
        bonus_B, length_B: [B] int32 newest token, and number of committed tokens with it.
        ids_BN, parent_BN, depth_BN, positions_BN: [B, N] int32 written; parent of node 0 is -1,
            position is length - 1 + depth.
        words_BN: [B, N] int64 written; bit i set iff node i is the node itself or an ancestor.
        prefix_B: [B] int32 written: length - 1, the cache row of node 0.
        noise_row_BN: [B, N] int32 written: b * noise_stride + depth, the row of the noise that the
            token after the node is chosen with; or None.
        template: (parent_N, depth_N, rank_N int32, words_N int64) or None. N <= 64, at most the
            nodes of the full tree.
    """
    B, K, C = candidate_ids_BKC.shape
    N = ids_BN.shape[1]
    if not 1 <= N <= MAX_NODES:
        raise ValueError(f"ids_BN: a tree has 1..{MAX_NODES} nodes, got {N}")
    ints = {"ids_BN": ids_BN, "parent_BN": parent_BN, "depth_BN": depth_BN}
    ints["positions_BN"] = positions_BN
    if noise_row_BN is not None:
        ints["noise_row_BN"] = noise_row_BN
    for name, tensor in {**ints, "words_BN": words_BN}.items():
        expect_shape(name, tensor, B, N)
    expect_shape("prefix_B", prefix_B, B)
    expect_dtypes(torch.int32, **ints, prefix_B=prefix_B, candidate_ids_BKC=candidate_ids_BKC)
    expect_dtypes(torch.int32, bonus_B=bonus_B, length_B=length_B)
    expect_dtypes(torch.int64, words_BN=words_BN)
    expect_dtypes(torch.float32, candidate_scores_BKC=candidate_scores_BKC)
    if template is not None:
        for tensor in template:
            expect_shape("template", tensor, N)
    elif candidate_scores_BKC is None:
        raise ValueError("candidate_scores_BKC: a best-first tree (template None) needs scores")
    else:
        expect_shape("candidate_scores_BKC", candidate_scores_BKC, B, K, C)
    tree = (ids_BN, parent_BN, depth_BN, words_BN, positions_BN)
    candidates = (candidate_ids_BKC, candidate_scores_BKC)
    more = {"prefix_B": prefix_B, "noise_row_BN": noise_row_BN, "noise_stride": noise_stride, "template": template}
    _op(ids_BN.device)(*candidates, bonus_B, length_B, *tree, **more)
