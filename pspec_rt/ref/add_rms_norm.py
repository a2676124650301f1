"""add_rms_norm in plain PyTorch: residual add, RMS norm, weight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def add_rms_norm(x_RM: Tensor | None, residual_RM: Tensor, weight_M: Tensor, eps: float, out_RM: Tensor) -> None:
    """residual += x; out = rms_norm(residual) * weight; see `pspec_rt.ops.add_rms_norm`."""
    if x_RM is not None:
        residual_RM.add_(x_RM)
    # Without a weight, F.rms_norm is x.float() * rsqrt(mean(x.float()^2) + eps), rounded once to
    # the dtype.
    normed_RM = F.rms_norm(residual_RM, (residual_RM.shape[-1],), None, eps)
    torch.mul(normed_RM, weight_M, out=out_RM)
