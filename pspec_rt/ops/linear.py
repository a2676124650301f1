"""linear: rows times a weight matrix, the op that streams the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.linear import linear as _ref
from ._dispatch import DTYPE_CODE, Op, expect_dtype, expect_shape, native, ptr


def _cpu(x_RI: Tensor, w_OI: Tensor, out_RO: Tensor, *, bias_O: Tensor | None = None, exact: bool = True) -> None:
    if not exact:  # prefill: many rows, where a blocked library GEMM wins and rows need not be independent
        _ref(x_RI, w_OI, out_RO, bias_O=bias_O)
        return
    (R, I), O = x_RI.shape, w_OI.shape[0]
    codes = (DTYPE_CODE[x_RI.dtype], DTYPE_CODE[w_OI.dtype], DTYPE_CODE[out_RO.dtype])
    native.linear(ptr(x_RI), ptr(w_OI), ptr(bias_O), ptr(out_RO), R, I, O, *codes)


_op = Op("linear", ref=_ref, cpu=_cpu)


def linear(x_RI: Tensor, w_OI: Tensor, out_RO: Tensor, *, bias_O: Tensor | None = None, exact: bool = True) -> None:
    """out = x @ w.T (+ bias), accumulated in fp32.

    Args:
        x_RI: [R, in] bf16 or fp32.
        w_OI: [out, in] bf16 or fp32.
        out_RO: [R, out] written; dtype of x, or fp32.
        bias_O: [out], dtype of w, or None.
        exact: a row's value depends neither on the other rows, nor on R, nor on the number of
            threads (holds for native backends; `ref` is exact up to near-ties). False lets a
            library GEMM run (prefill).
    """
    R, I = x_RI.shape
    O = w_OI.shape[0]
    expect_shape("w_OI", w_OI, O, I)
    expect_shape("out_RO", out_RO, R, O)
    expect_dtype("out_RO", out_RO, x_RI.dtype, torch.float32)
    _op(x_RI.device)(x_RI, w_OI, out_RO, bias_O=bias_O, exact=exact)
