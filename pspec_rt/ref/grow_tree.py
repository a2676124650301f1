"""grow_tree in plain PyTorch: one level of candidates into the pool, and the rows of the next."""

from __future__ import annotations

import torch
from torch import Tensor

from ._index import arange


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
    """Candidates of W rows into the pool, X of them chosen; see `pspec_rt.ops.grow_tree`."""
    (B, W), C, X = words_BW.shape, ids_RC.shape[1], next_ids_BX.shape[1]
    level_ids_BY, scores_BWC = ids_RC.view(B, W * C), scores_RC.view(B, W, C)
    path_BWC = torch.where(scores_BWC.isnan(), -torch.inf, scores_BWC).clamp(max=0)
    if level > 0:
        above_BW = pool_scores_BGC.flatten(1).gather(1, origin_BG[:, first : first + W].long())
        path_BWC = path_BWC + above_BW[:, :, None]
    pool_ids_BGC[:, first : first + W] = ids_RC.view(B, W, C)
    pool_scores_BGC[:, first : first + W] = path_BWC
    prefix_B.copy_((length_B + shift).clamp(min=0))
    append_B.copy_(prefix_B + first + W - 1)
    if X == 0:
        return
    if picks_X is None:
        entry_BX = path_BWC.flatten(1).sort(dim=1, descending=True, stable=True).indices[:, :X]
    else:
        entry_BX = picks_X.long().expand(B, X)
    next_ids_BX.copy_(level_ids_BY.gather(1, entry_BX))
    next_parent_BX.copy_(entry_BX // C)
    next_positions_BX.copy_((length_B + shift + level).clamp(min=0)[:, None].expand(B, X))
    own_X = torch.bitwise_left_shift(
        torch.ones(X, dtype=torch.int64, device=ids_RC.device), arange(X, ids_RC.device) + first + W - 1
    )
    next_words_BX.copy_(words_BW.gather(1, entry_BX // C) | own_X)
    origin_BG[:, first + W : first + W + X] = first * C + entry_BX
