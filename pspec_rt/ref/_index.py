"""Small constant index tensors the reference ops share, made once per size and device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def arange(n: int, device: torch.device) -> Tensor:
    """[n] int64: 0 .. n-1. Cached: the decode path asks for the same few again and again."""
    return torch.arange(n, device=device)
