"""linear in plain PyTorch: y = x w^T (+ b)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(x_RI: Tensor, w_OI: Tensor, out_RO: Tensor, *, bias_O: Tensor | None = None, exact: bool = True) -> None:
    """out[r, o] = sum_i x[r, i] w[o, i] (+ bias[o]); see `pspec_rt.ops.linear`.

    `exact` changes nothing here: a library GEMM is exact only up to near-ties.
    """
    if out_RO.dtype == x_RI.dtype == w_OI.dtype:
        torch.mm(x_RI, w_OI.T, out=out_RO) if bias_O is None else out_RO.copy_(F.linear(x_RI, w_OI, bias_O))
        return
    y_RO = x_RI.float() @ w_OI.float().T
    out_RO.copy_(y_RO if bias_O is None else y_RO + bias_O.float())
