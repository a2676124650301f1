"""cast: values in another dtype, where drafter and target differ in theirs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.cast import cast as _ref
from ._dispatch import DTYPE_CODE, Op, expect_dtype, expect_shape, native, ptr, triton_kernel


def _cpu(x: Tensor, out: Tensor) -> None:
    native.cast(ptr(x), ptr(out), out.numel(), DTYPE_CODE[x.dtype], DTYPE_CODE[out.dtype])


_op = Op("cast", ref=_ref, cpu=_cpu, triton=triton_kernel("cast"))


def cast(x: Tensor, out: Tensor) -> None:
    """out = x, rounded to nearest even.

    Args:
        x: bf16 or fp32, contiguous.
        out: bf16 or fp32, the same shape, written.
    """
    expect_shape("out", out, *x.shape)
    for name, tensor in (("x", x), ("out", out)):
        expect_dtype(name, tensor, torch.bfloat16, torch.float32)
    _op(out.device)(x, out)
