"""silu_add in Triton: the end of a residual block, a program per row and block of columns."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import BLOCK, launch_options, narrow, row_specializations, upcast, widen
from ._math import silu_product


@triton.jit
def _silu_add_kernel(
    y, out, M, stride_y, stride_out,
    BLOCK: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < M
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    at = out + row * stride_out + column
    x = widen(tl.load(at, mask=inside, other=0.0), UPCAST)
    silu = silu_product(widen(tl.load(y + row * stride_y + column, mask=inside, other=0.0), UPCAST), 1.0)
    sums = x + widen(narrow(silu, dtype, UPCAST), UPCAST)
    tl.store(at, narrow(sums, dtype, UPCAST), mask=inside)


def silu_add(y_RM: Tensor, out_RM: Tensor) -> None:
    """out += silu(y), silu in fp32 and rounded, then the sum rounded; see `pspec_rt.ops.silu_add`.

    Args:
        y_RM: [R, M] bf16 or fp32, dense rows.
        out_RM: [R, M] read and written, same dtype, dense rows.

    Example:
        silu_add(block(x), x)
    """
    R, M = out_RM.shape
    _silu_add_kernel[R, triton.cdiv(M, BLOCK)](
        y_RM, out_RM, M, y_RM.stride(0), out_RM.stride(0),
        BLOCK=BLOCK, UPCAST=upcast(out_RM), **launch_options(out_RM), num_warps=4,
    )  # fmt: skip


SPECIALIZATIONS = row_specializations(_silu_add_kernel, "y", "out", "M", "stride_y", "stride_out")
