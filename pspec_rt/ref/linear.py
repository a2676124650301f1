"""linear in plain PyTorch: y = x w^T (+ b), with an RMS norm before it, a gate or a residual after it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..quantize import ZERO, Int8Weight, Weight, quantize_activations
from .add_rms_norm import add_rms_norm
from .silu_mul import silu_mul


def linear(
    x_RI: Tensor,
    w_OI: Weight,
    out_RO: Tensor,
    *,
    bias_O: Tensor | None = None,
    norm_I: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    add: bool = False,
    exact: bool = True,
) -> None:
    """out[r, o] = sum_i x[r, i] w[o, i] (+ bias[o]); see `pspec_rt.ops.linear`.

    `exact` changes nothing here: a library GEMM is exact only up to near-ties.
    """
    if norm_I is not None:
        normed_RI = torch.empty_like(x_RI)
        add_rms_norm(None, x_RI, norm_I, eps, normed_RI)
        x_RI = normed_RI
    if gated:
        y_RO = torch.empty_like(out_RO)
        gate_up_R2O = out_RO.new_empty(out_RO.shape[0], 2 * out_RO.shape[1])
        _product(x_RI, w_OI, gate_up_R2O, bias_O)
        silu_mul(gate_up_R2O, y_RO if add else out_RO)
    elif add:
        y_RO = torch.empty_like(out_RO)
        _product(x_RI, w_OI, y_RO, bias_O)
    else:
        _product(x_RI, w_OI, out_RO, bias_O)
    if add:
        out_RO.add_(y_RO)


def _product(x_RI: Tensor, w_OI: Weight, out_RO: Tensor, bias_O: Tensor | None) -> None:
    if out_RO.dtype == x_RI.dtype == w_OI.dtype:
        torch.mm(x_RI, w_OI.T, out=out_RO) if bias_O is None else out_RO.copy_(F.linear(x_RI, w_OI, bias_O))
        return
    y_RO = _int8_product(x_RI, w_OI) if isinstance(w_OI, Int8Weight) else x_RI.float() @ w_OI.float().T
    out_RO.copy_(y_RO if bias_O is None else y_RO + bias_O.float())


def _int8_product(x_RI: Tensor, w_OI: Int8Weight) -> Tensor:
    """Sums of a group are whole numbers below 2^29, exact in fp64 in any order."""
    q_RGK, x_scale_RG = quantize_activations(x_RI, w_OI.a8)
    w_OGK, w_scale_OG = w_OI.unpack()
    y_RO = x_scale_RG.new_zeros(q_RGK.shape[0], w_OI.O)
    for g in range(w_scale_OG.shape[1]):
        sum_RO = q_RGK[:, g].double() @ (w_OGK[:, g].double() - ZERO).T
        y_RO += sum_RO.float() * (x_scale_RG[:, g, None] * w_scale_OG[:, g])
    return y_RO
