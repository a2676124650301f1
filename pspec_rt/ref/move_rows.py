"""move_rows in plain PyTorch: rows of several buffers to other places in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._index import arange


def move_rows(buffers: Sequence[Tensor], addresses_L: Tensor, from_BP: Tensor, to_BP: Tensor) -> None:
    """Row from[b, i] -> to[b, i] of every buffer; see `pspec_rt.ops.move_rows`.

    Every row is gathered from where it comes from, most from itself: all is read before anything is written.
    """
    rows = buffers[0].shape[0]
    source_S = arange(rows + 1, from_BP.device).clone()  # the last entry takes what does not move
    moves_BP = from_BP >= 0
    target_BP = torch.where(moves_BP, to_BP, rows).long()
    source_S.scatter_(0, target_BP.view(-1), torch.where(moves_BP, from_BP, rows).long().view(-1))
    for buffer in buffers:
        buffer.copy_(buffer.index_select(0, source_S[:rows]))
