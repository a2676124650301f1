"""prune_tree: the draft tree out of the pool of candidates that grow_tree filled."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..ref.prune_tree import prune_tree as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native_launch, ptr

MAX_NODES = 64  # one bit per node in an ancestor word


def _native(backend: str, *tensors: Tensor, noise_stride: int, picks_N: Tensor | None) -> None:
    (B, G, C), N = tensors[0].shape, tensors[5].shape[1]
    native_launch("prune_tree", backend, *map(ptr, tensors), ptr(picks_N), B, G, C, N, noise_stride)


_op = Op("prune_tree", ref=_ref, cpu=partial(_native, "cpu"), cuda=partial(_native, "cuda"))


def prune_tree(
    pool_ids_BGC: Tensor,
    pool_scores_BGC: Tensor,
    origin_BG: Tensor,
    bonus_B: Tensor,
    length_B: Tensor,
    ids_BN: Tensor,
    parent_BN: Tensor,
    depth_BN: Tensor,
    words_BN: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    noise_row_BN: Tensor,
    *,
    noise_stride: int,
    picks_N: Tensor | None = None,
) -> None:
    """Node 0 is the bonus token, the others are the N - 1 best entries of the pool, in the pool's order.

    A path score is at most its parent's and a parent comes first among equals, so with an entry all its ancestors are
    taken, and a parent precedes its children.

    Args:
        pool_ids_BGC, pool_scores_BGC, origin_BG: as `grow_tree` left them.
        bonus_B, length_B: [B] int32 newest token, and number of committed tokens with it.
        ids_BN, parent_BN, depth_BN, words_BN, positions_BN, prefix_B, noise_row_BN: written as by `build_tree`.
        noise_stride: rows of noise per slot: a node's is b * noise_stride + depth.
        picks_N: [N] int32, the entries of a fixed tree, ascending from index 1 on; None: the best.
    """
    (B, G, C), N = pool_ids_BGC.shape, ids_BN.shape[1]
    if not 1 <= N <= min(MAX_NODES, 1 + G * C):
        raise ValueError(f"ids_BN: {N} nodes of a pool of {G} x {C}; at most {MAX_NODES}")
    expect_shape("pool_scores_BGC", pool_scores_BGC, B, G, C)
    expect_shape("origin_BG", origin_BG, B, G)
    ints = {"ids_BN": ids_BN, "parent_BN": parent_BN, "depth_BN": depth_BN, "positions_BN": positions_BN}
    for name, tensor in {**ints, "words_BN": words_BN, "noise_row_BN": noise_row_BN}.items():
        expect_shape(name, tensor, B, N)
    if picks_N is not None:
        expect_shape("picks_N", picks_N, N)
    expect_dtypes(torch.int32, **ints, noise_row_BN=noise_row_BN, prefix_B=prefix_B, picks_N=picks_N)
    expect_dtypes(torch.int32, pool_ids_BGC=pool_ids_BGC, origin_BG=origin_BG, bonus_B=bonus_B, length_B=length_B)
    expect_dtypes(torch.int64, words_BN=words_BN)
    expect_dtypes(torch.float32, pool_scores_BGC=pool_scores_BGC)
    tree = (ids_BN, parent_BN, depth_BN, words_BN, positions_BN, prefix_B, noise_row_BN)
    options = {"noise_stride": noise_stride, "picks_N": picks_N}
    _op(ids_BN.device)(pool_ids_BGC, pool_scores_BGC, origin_BG, bonus_B, length_B, *tree, **options)
