"""silu_add in plain PyTorch: the end of a residual block."""

from __future__ import annotations

import torch
from torch import Tensor

from .silu_mul import silu_mul


def silu_add(y_RM: Tensor, out_RM: Tensor) -> None:
    """out += silu(y); see `pspec_rt.ops.silu_add`."""
    silu_RM = torch.empty_like(out_RM)
    silu_mul(torch.cat([y_RM, torch.ones_like(y_RM)], dim=1), silu_RM)
    out_RM += silu_RM
