"""linear: rows times a weight matrix, the op that streams the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import env
from ..quantize import Weight
from ..ref.linear import linear as _ref
from ._dispatch import (
    DTYPE_CODE,
    Op,
    expect_backend,
    expect_dtype,
    expect_shape,
    native,
    native_launch,
    obstacle,
    ptr,
    triton_kernel,
)

FUSED_NORM_ROWS = 16  # up to which the CUDA kernel norms on the way; of more rows, a launch before it
MOST_ROWS = 64  # beyond, and with exact=False, a library GEMM may win


def _cpu(
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
    (R, I), O = x_RI.shape, out_RO.shape[1]
    codes = (DTYPE_CODE[x_RI.dtype], DTYPE_CODE[w_OI.dtype], DTYPE_CODE[out_RO.dtype])
    addresses = (ptr(x_RI), ptr(w_OI), ptr(bias_O), ptr(norm_I), ptr(out_RO))
    native.linear(*addresses, R, I, O, eps, gated, add, *codes)


_triton = triton_kernel("linear")


def linear_on_cuda(
    x_RI: Tensor,
    w_OI: Tensor,
    out_RO: Tensor,
    *,
    bias_O: Tensor | None = None,
    norm_I: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    add: bool = False,
) -> None:
    """csrc/cuda/linear.cu on weights that `fits_cuda`; arguments as in `linear`."""
    (R, I), O = x_RI.shape, out_RO.shape[1]
    normed_RI = torch.empty_like(x_RI) if norm_I is not None and R > FUSED_NORM_ROWS else None
    codes = (DTYPE_CODE[x_RI.dtype], DTYPE_CODE[w_OI.dtype], DTYPE_CODE[out_RO.dtype])
    addresses = (ptr(x_RI), ptr(w_OI), ptr(bias_O), ptr(norm_I), ptr(out_RO))
    native_launch("linear", "cuda", *addresses, R, I, O, eps, gated, add, *codes, ptr(normed_RI), env.pdl())


def fits_cuda(x_RI: Tensor, w_OI: Tensor) -> bool:
    """Whether csrc/cuda/linear.cu takes such a product: bf16, rows of whole 16 bytes."""
    return x_RI.dtype is w_OI.dtype is torch.bfloat16 and x_RI.shape[1] % 8 == 0


def _cuda(x_RI: Tensor, w_OI: Tensor, out_RO: Tensor, *, exact: bool = True, **options: Any) -> None:
    """The faster kernel for this weight, as measured: one for all row counts, whose bits it fixes.

    An output in fp32 is a head's logits: they have the bits of head_top_k, which is Triton's.
    """
    if obstacle("triton", "cuda") is not None:
        run = linear_on_cuda if fits_cuda(x_RI, w_OI) else _ref
        run(x_RI, w_OI, out_RO, **options)
        return
    from ..triton_kernels import _linear_tiles as tiles

    chosen = fits_cuda(x_RI, w_OI) and tiles.cuda_is_faster(*w_OI.shape, tiles.arch_of(x_RI.device))
    if chosen and out_RO.dtype is x_RI.dtype and (exact or x_RI.shape[0] <= MOST_ROWS):
        linear_on_cuda(x_RI, w_OI, out_RO, **options)
    else:
        _triton(x_RI, w_OI, out_RO, exact=exact, **options)


_op = Op("linear", ref=_ref, cpu=_cpu, triton=_triton, cuda=_cuda)


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
    """out = x @ w.T (+ bias), accumulated in fp32; optionally normed before, gated and added after.

    Each option gives the bits of the separate op on the same backend: `norm_I` those of
    `add_rms_norm(None, x, norm_I, eps, x)`, `gated` those of `silu_mul` on a [R, 2 * out] result of
    out's dtype, `add` those of rounding to out's dtype and then adding to out.

    With an `Int8Weight` activations, too, are whole numbers times a scale, per row and group of 64 inputs: x = q *
    largest / limit, limit 32639 (finer than bf16), or 127 with `a8`. A group's sum of products is exact; the sums of
    the groups, times both scales, are added in fp32 in ascending order. So all backends give the same bits; a NaN or an
    infinity in a row makes the whole row NaN.

    Args:
        x_RI: [R, in] bf16 or fp32.
        w_OI: [out, in] bf16, fp32 or an `Int8Weight`; gated: [2 * out, in], the gate's rows first.
        out_RO: [R, out] written, with `add` also read; dtype of x, or fp32.
        bias_O: [rows of w], dtype of w, of x with an `Int8Weight`; or None.
        norm_I: [in], dtype of x: weight of an RMS norm of x that comes first; None: no norm.
        eps: of that norm, added to the mean square.
        gated: out = silu(gate) * up, y = x @ w.T being [gate | up].
        add: out += the result instead of out = the result.
        exact: a row's value depends neither on the other rows, nor on R, nor on the number of
            threads (holds for native backends; `ref` is exact up to near-ties). False lets a
            library GEMM run (prefill on a GPU); the CPU kernels are exact either way.
    """
    (R, I), rows_of_w = x_RI.shape, w_OI.shape[0]
    O = rows_of_w // 2 if gated else rows_of_w
    expect_shape("w_OI", w_OI, 2 * O if gated else O, I)
    expect_backend(_op, "w_OI", w_OI)
    expect_shape("out_RO", out_RO, R, O)
    expect_dtype("out_RO", out_RO, x_RI.dtype, torch.float32)
    if bias_O is not None:
        expect_shape("bias_O", bias_O, rows_of_w)
    if norm_I is not None:
        expect_shape("norm_I", norm_I, I)
        expect_dtype("norm_I", norm_I, x_RI.dtype)
    options = {"bias_O": bias_O, "norm_I": norm_I, "eps": eps, "gated": gated, "add": add, "exact": exact}
    _op(x_RI.device)(x_RI, w_OI, out_RO, **options)
