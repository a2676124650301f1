"""store_tap in Triton: one hidden state into its columns of the features, a program per row and block of columns."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import BLOCK, Specialization, launch_options


@triton.jit
def _store_tap_kernel(
    state, features, M, column, stride_state, stride_features,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = m < M
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    values = tl.load(state + row * stride_state + m, mask=inside)
    tl.store(features + row * stride_features + column + m, values, mask=inside)


def store_tap(state_RM: Tensor, features_RF: Tensor, column: int) -> None:
    """features[r, column : column + M] = state[r]; see `pspec_rt.ops.store_tap`.

    Args:
        state_RM: [R, M] any dtype, dense rows.
        features_RF: [R, F] same dtype, dense rows; columns column .. column+M-1 are written.
        column: 0 <= column <= F - M.

    Example:
        features = torch.empty(R, 3 * M, dtype=state.dtype, device=state.device)
        store_tap(state, features, 2 * M)
    """
    R, M = state_RM.shape
    _store_tap_kernel[R, triton.cdiv(M, BLOCK)](
        state_RM, features_RF, M, column, state_RM.stride(0), features_RF.stride(0),
        BLOCK=BLOCK, **launch_options(state_RM), num_warps=4,
    )  # fmt: skip


SPECIALIZATIONS = [
    Specialization(
        _store_tap_kernel,
        {
            "state": f"*{dtype}", "features": f"*{dtype}",
            "M": "i32", "column": "i32", "stride_state": "i32", "stride_features": "i32",
        },
        {"BLOCK": BLOCK, "PDL": pdl},
        divisible=("state", "features", "M", "column", "stride_state", "stride_features"),
        name=f"{dtype}{'-pdl' * pdl}",
        min_arch=90 if pdl else 80,
    )
    for dtype, pdl in [("bf16", False), ("bf16", True), ("fp32", False)]
]  # fmt: skip
