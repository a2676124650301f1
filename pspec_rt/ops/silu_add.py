"""silu_add: the end of a residual block, x + silu(y)."""

from __future__ import annotations

from torch import Tensor

from ..ref.silu_add import silu_add as _ref
from ._dispatch import DTYPE_CODE, Op, expect_dtype, expect_shape, native, ptr, triton_kernel


def _cpu(y_RM: Tensor, out_RM: Tensor) -> None:
    native.silu_add(ptr(y_RM), ptr(out_RM), *out_RM.shape, DTYPE_CODE[out_RM.dtype])


_op = Op("silu_add", ref=_ref, cpu=_cpu, triton=triton_kernel("silu_add"))


def silu_add(y_RM: Tensor, out_RM: Tensor) -> None:
    """out += silu(y): silu in fp32, rounded to the dtype, then added and rounded again.

    Args:
        y_RM: [R, M] bf16 or fp32.
        out_RM: [R, M] same dtype, read and written.
    """
    expect_shape("y_RM", y_RM, *out_RM.shape)
    expect_dtype("y_RM", y_RM, out_RM.dtype)
    _op(out_RM.device)(y_RM, out_RM)
