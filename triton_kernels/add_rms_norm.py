"""add_rms_norm in Triton: residual add and RMS norm, a program per row."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import Specialization, launch_options, narrow, upcast, widen
from ._math import LANES, lane_squares_of, normed, row_scales


@triton.jit
def _add_rms_norm_kernel(
    x, residual, weight, out, M, eps, stride_x, stride_residual, stride_out,
    BLOCK: tl.constexpr, ADD: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < M
    factor = widen(tl.load(weight + column, mask=inside, other=0.0), UPCAST)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    stream = residual + row * stride_residual + column
    hidden = widen(tl.load(stream, mask=inside, other=0.0), UPCAST)
    if ADD:
        added = hidden + widen(tl.load(x + row * stride_x + column, mask=inside, other=0.0), UPCAST)
        rounded = narrow(added, residual.dtype.element_ty, UPCAST)
        tl.store(stream, rounded, mask=inside)
        hidden = widen(rounded, UPCAST)
    scale = row_scales(lane_squares_of(hidden, BLOCK), M, eps, 1)
    result = normed(hidden, scale, factor, out.dtype.element_ty, UPCAST)
    tl.store(out + row * stride_out + column, result, mask=inside)


def add_rms_norm(x_RM: Tensor | None, residual_RM: Tensor, weight_M: Tensor, eps: float, out_RM: Tensor) -> None:
    """residual += x; out = rms_norm(residual) * weight; see `pspec_rt.ops.add_rms_norm`.

    Args:
        x_RM: [R, M] added to the residual, or None; dense rows.
        residual_RM: [R, M] bf16 or fp32, updated in place if x is given; dense rows.
        weight_M: [M] same dtype.
        eps: added to the mean square.
        out_RM: [R, M] written, same dtype, dense rows; may not alias residual_RM.

    Example:
        out = torch.empty_like(residual)
        add_rms_norm(x, residual, weight, 1e-5, out)
    """
    R, M = residual_RM.shape
    width = max(triton.next_power_of_2(M), LANES.value)
    added_RM = residual_RM if x_RM is None else x_RM
    _add_rms_norm_kernel[(R,)](
        added_RM, residual_RM, weight_M, out_RM, M, eps, added_RM.stride(0), residual_RM.stride(0), out_RM.stride(0),
        BLOCK=width, ADD=x_RM is not None, UPCAST=upcast(out_RM), num_warps=_warps(width),
        **launch_options(out_RM, fp_fusion=False),
    )  # fmt: skip


def _warps(width: int) -> int:
    """16 elements a lane, two 16-byte loads in bf16; a row is one block's, which has 32 warps at most."""
    return min(max(width // 512, 1), 32)


SPECIALIZATIONS = [
    Specialization(
        _add_rms_norm_kernel,
        {
            "x": f"*{dtype}", "residual": f"*{dtype}", "weight": f"*{dtype}", "out": f"*{dtype}", "M": "i32",
            "eps": "fp32", "stride_x": "i32", "stride_residual": "i32", "stride_out": "i32",
        },
        {"BLOCK": width, "ADD": add, "UPCAST": False, "PDL": pdl},
        num_warps=_warps(width),
        divisible=("x", "residual", "weight", "out", "M", "stride_x", "stride_residual", "stride_out"),
        name=f"{dtype}-{width}{'-add' * add}{'-pdl' * pdl}",
        fp_fusion=False,  # or x * x + ... would contract in one layout and not in another
        min_arch=90 if pdl else 80,
    )
    for dtype, width, add, pdl in [
        ("bf16", 4096, True, False), ("bf16", 4096, True, True), ("bf16", 4096, False, False),
        ("bf16", 1024, True, False), ("bf16", 16384, True, False), ("fp32", 4096, True, False),
    ]
]  # fmt: skip
