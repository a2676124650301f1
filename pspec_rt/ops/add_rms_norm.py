"""add_rms_norm: residual add and RMS norm in one pass over the rows."""

from __future__ import annotations

from torch import Tensor

from ..ref.add_rms_norm import add_rms_norm as _ref
from ._dispatch import DTYPE_CODE, Op, expect_dtype, expect_shape, native, ptr, triton_kernel


def _cpu(x_RM: Tensor | None, residual_RM: Tensor, weight_M: Tensor, eps: float, out_RM: Tensor) -> None:
    R, M = residual_RM.shape
    code = DTYPE_CODE[residual_RM.dtype]
    native.add_rms_norm(ptr(x_RM), ptr(residual_RM), ptr(weight_M), ptr(out_RM), R, M, eps, code)


_op = Op("add_rms_norm", ref=_ref, cpu=_cpu, triton=triton_kernel("add_rms_norm"))


def add_rms_norm(x_RM: Tensor | None, residual_RM: Tensor, weight_M: Tensor, eps: float, out_RM: Tensor) -> None:
    """residual += x, then out = (residual * rsqrt(mean(residual^2) + eps)) * weight.

    The sum is rounded to the residual's dtype; the norm is taken in fp32 and rounded to that dtype
    before the weight is applied, as Hugging Face models do. A row's bits do not depend on the other
    rows.

    Args:
        x_RM: [R, M] added to the residual, or None to only normalise it.
        residual_RM: [R, M] bf16 or fp32, updated in place.
        weight_M: [M] same dtype.
        eps: added to the mean square.
        out_RM: [R, M] written, same dtype; may not alias residual_RM.
    """
    expect_shape("weight_M", weight_M, residual_RM.shape[1])
    expect_shape("out_RM", out_RM, *residual_RM.shape)
    expect_dtype("weight_M", weight_M, residual_RM.dtype)
    expect_dtype("out_RM", out_RM, residual_RM.dtype)
    if x_RM is not None:
        expect_shape("x_RM", x_RM, *residual_RM.shape)
        expect_dtype("x_RM", x_RM, residual_RM.dtype)
    _op(out_RM.device)(x_RM, residual_RM, weight_M, eps, out_RM)
