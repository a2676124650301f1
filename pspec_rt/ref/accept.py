"""accept in plain PyTorch: walk each tree while a child is the token the target chose."""

from __future__ import annotations

import torch
from torch import Tensor

RUNNING, STOP, LENGTH, _IDLE, ERROR = range(5)


def accept(
    ids_BN: Tensor,
    parent_BN: Tensor,
    target_BN: Tensor,
    stop_ids_BQ: Tensor,
    limit_B: Tensor,
    length_B: Tensor,
    finished_B: Tensor,
    bonus_B: Tensor,
    tokens_BS: Tensor,
    path_BP: Tensor,
    emitted_BP: Tensor,
    count_B: Tensor,
    *,
    ring: object = None,
) -> None:
    """Emit 1..P tokens per running slot and advance it; see `pspec_rt.ops.accept`."""
    assert ring is None, "the ring is written by the native kernels only"
    S, P = tokens_BS.shape[1], path_BP.shape[1]
    node_B1 = torch.zeros_like(length_B)[:, None]
    walking_B1 = (finished_B == RUNNING)[:, None]
    count_B.zero_()
    for i in range(P):
        token_B1 = target_BN.gather(1, node_B1.long())
        position_B1 = length_B[:, None] + i
        path_BP[:, i : i + 1] = torch.where(walking_B1, node_B1, -1)
        emitted_BP[:, i : i + 1] = torch.where(walking_B1, token_B1, -1)
        _store(tokens_BS, position_B1.clamp(0, S - 1).long(), token_B1, walking_B1)
        bonus_B.copy_(torch.where(walking_B1, token_B1, bonus_B[:, None])[:, 0])
        count_B += walking_B1[:, 0]

        is_stop_B1 = ((stop_ids_BQ == token_B1) & (stop_ids_BQ >= 0)).any(dim=1, keepdim=True)
        is_full_B1 = position_B1 + 1 >= limit_B[:, None]
        code_B1 = torch.where(is_stop_B1, STOP, torch.where(is_full_B1, LENGTH, RUNNING))
        code_B1 = torch.where(token_B1 < 0, ERROR, code_B1)
        finished_B.copy_(torch.where(walking_B1, code_B1, finished_B[:, None])[:, 0])

        matches_BN = (parent_BN == node_B1) & (ids_BN == token_B1) & (ids_BN >= 0)
        walking_B1 = walking_B1 & (code_B1 == RUNNING) & matches_BN.any(dim=1, keepdim=True)
        node_B1 = matches_BN.int().argmax(dim=1, keepdim=True)  # the lowest index among equals
    length_B += count_B


def _store(tokens_BS: Tensor, column_B1: Tensor, token_B1: Tensor, where_B1: Tensor) -> None:
    """tokens[b, column] = token for the slots of the mask; the others get back what they hold."""
    held_B1 = tokens_BS.gather(1, column_B1)
    tokens_BS.scatter_(1, column_B1, torch.where(where_B1, token_B1, held_B1))
