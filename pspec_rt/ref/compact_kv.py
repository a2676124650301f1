"""compact_kv in plain PyTorch: accepted nodes' cache rows move to their final places."""

from __future__ import annotations

import torch
from torch import Tensor

from ._index import arange


def compact_kv(kv_L2BGSE: Tensor, path_BP: Tensor, count_B: Tensor, length_B: Tensor) -> None:
    """Row base + path[i] -> base + i for 1 <= i < count; see `pspec_rt.ops.compact_kv`.

    All sources are read before anything is written; that equals the ascending order because path[i]
    >= i.
    """
    B, P = path_BP.shape
    if P == 1:
        return
    base_B1 = (length_B - count_B - 1)[:, None]
    step_P = arange(P, path_BP.device)[1:]
    # Beyond count the root row moves onto itself: the one row no accepted node moves to.
    moves_BP = step_P < count_B[:, None]
    source_BP = base_B1 + torch.where(moves_BP, path_BP[:, 1:], 0)
    target_BP = base_B1 + torch.where(moves_BP, step_P, 0)
    slot_B1 = arange(B, path_BP.device)[:, None]
    rows = kv_L2BGSE[:, :, slot_B1, :, source_BP]  # [B, P-1, L, 2, G, E], a copy
    kv_L2BGSE[:, :, slot_B1, :, target_BP] = rows
