"""Small constant index tensors the reference ops share, made once per size and device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def arange(n: int, device: torch.device) -> Tensor:
    """[n] int64: 0 .. n-1. Cached: the decode path asks for the same few again and again."""
    return torch.arange(n, device=device)


def page_and_offset(block_table_BT: Tensor, row_BX: Tensor, page: int) -> tuple[Tensor, Tensor]:
    """(page_BX int64, offset_BX): where rows of slot b lie in a paged cache; only their table entries are read."""
    page_BX = block_table_BT.gather(1, (row_BX // page).long())
    return page_BX.long(), row_BX % page
