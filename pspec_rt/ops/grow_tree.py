"""grow_tree: one level of a tree whose candidates depend on the path, and the rows that the next level runs."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..ref.grow_tree import grow_tree as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native_launch, ptr

MAX_ROWS = 64  # one bit each in a word


def _native(backend: str, *tensors: Tensor, level: int, first: int, shift: int, picks_X: Tensor | None) -> None:
    (B, G, C), W, X = tensors[4].shape, tensors[3].shape[1], tensors[7].shape[1]
    native_launch("grow_tree", backend, *map(ptr, tensors), ptr(picks_X), B, G, C, W, X, level, first, shift)


_op = Op("grow_tree", ref=_ref, cpu=partial(_native, "cpu"), cuda=partial(_native, "cuda"))


def grow_tree(
    ids_RC: Tensor,
    scores_RC: Tensor,
    length_B: Tensor,
    words_BW: Tensor,
    pool_ids_BGC: Tensor,
    pool_scores_BGC: Tensor,
    origin_BG: Tensor,
    next_ids_BX: Tensor,
    next_positions_BX: Tensor,
    next_words_BX: Tensor,
    next_parent_BX: Tensor,
    prefix_B: Tensor,
    append_B: Tensor,
    *,
    level: int,
    first: int,
    shift: int,
    picks_X: Tensor | None = None,
) -> None:
    """Put the candidates of a level's W rows into the pool, and choose the X of them that the next level runs.

    The pool holds every candidate of every row drafted so far, G rows in all: row 0 is the anchor, which level 0
    consists of, then the rows of level 1, 2, ..; entry row * C + rank. A candidate's score in the pool is the sum of
    the scores on its path (each at most 0, NaN counting as -inf). The next level runs the X best of this level (the
    lowest entry first among equals), as EAGLE-2 (arXiv 2406.16858) does, or those that `picks_X` names.

    Args:
        ids_RC, scores_RC: [B*W, C] int32 and fp32 log-probabilities, row b*W + w: candidates of this level.
        length_B: [B] int32, committed tokens.
        words_BW: [B, W] int64 of this level's rows, bit i for drafted row i + 1; 0 at level 0.
        pool_ids_BGC, pool_scores_BGC: [B, G, C], rows first .. first+W-1 written.
        origin_BG: [B, G] int32, the entry a row was chosen from: read for this level, written for the next.
        next_ids_BX, next_positions_BX, next_words_BX: [B, X] written for the rows of the next level; X is 0 at the end.
        next_parent_BX: [B, X] int32 written: row of this level, 0..W-1, that each came from.
        prefix_B, append_B: [B] int32 written: cache row of drafted row 1, and of the next level's first.
        level: depth of this level's rows, 0 the anchor.
        first: this level's first row among the G.
        shift: see `draft_rows`.
        picks_X: [X] int32 entries of this level, w * C + rank, or None.
    """
    (B, G, C), W, X = pool_ids_BGC.shape, words_BW.shape[1], next_ids_BX.shape[1]
    expect_shape("ids_RC", ids_RC, B * W, C)
    expect_shape("scores_RC", scores_RC, B * W, C)
    expect_shape("pool_scores_BGC", pool_scores_BGC, B, G, C)
    expect_shape("origin_BG", origin_BG, B, G)
    for name, tensor in (("positions", next_positions_BX), ("words", next_words_BX), ("parent", next_parent_BX)):
        expect_shape(f"next_{name}_BX", tensor, B, X)
    if G > 1 + MAX_ROWS or first + W + X > G or X > W * C:
        raise ValueError(f"next_ids_BX: {X} rows after row {first + W} of {G}, of {W} x {C} candidates")
    expect_dtypes(torch.int32, ids_RC=ids_RC, length_B=length_B, pool_ids_BGC=pool_ids_BGC, origin_BG=origin_BG)
    expect_dtypes(torch.int32, next_ids_BX=next_ids_BX, next_positions_BX=next_positions_BX, picks_X=picks_X)
    expect_dtypes(torch.int32, next_parent_BX=next_parent_BX, prefix_B=prefix_B, append_B=append_B)
    expect_dtypes(torch.int64, words_BW=words_BW, next_words_BX=next_words_BX)
    expect_dtypes(torch.float32, scores_RC=scores_RC, pool_scores_BGC=pool_scores_BGC)
    _op(ids_RC.device)(
        ids_RC, scores_RC, length_B, words_BW, pool_ids_BGC, pool_scores_BGC, origin_BG,
        next_ids_BX, next_positions_BX, next_words_BX, next_parent_BX, prefix_B, append_B,
        level=level, first=first, shift=shift, picks_X=picks_X,
    )  # fmt: skip
