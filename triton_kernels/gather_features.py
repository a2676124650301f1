"""gather_features in Triton: rows of the accepted path, a program per path entry and block of columns."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import BLOCK, Specialization, launch_options


@triton.jit
def _gather_features_kernel(
    features, path, out, N, P, F,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    entry = tl.program_id(0)  # b * P + i
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    node = tl.load(path + entry)
    row = (entry // P * N + node).to(tl.int64)
    inside = column < tl.where(node >= 0, F, 0)  # padding keeps what it holds
    values = tl.load(features + row * F + column, mask=inside)
    tl.store(out + entry.to(tl.int64) * F + column, values, mask=inside)


def gather_features(features_RF: Tensor, path_BP: Tensor, out_BPF: Tensor) -> None:
    """out[b, i] = features[b*N + path[b, i]] where path >= 0; see `pspec_rt.ops.gather_features`.

    Args:
        features_RF: [B*N, F] any dtype, contiguous.
        path_BP: [B, P] int32, -1 padded.
        out_BPF: [B, P, F] same dtype, contiguous; rows with path >= 0 are written.

    Example:
        out = torch.zeros(B, P, F, dtype=features.dtype, device=features.device)
        gather_features(features, path, out)
    """
    B, P, F = out_BPF.shape
    _gather_features_kernel[B * P, triton.cdiv(F, BLOCK)](
        features_RF, path_BP, out_BPF, features_RF.shape[0] // B, P, F,
        BLOCK=BLOCK, **launch_options(out_BPF), num_warps=4,
    )  # fmt: skip


SPECIALIZATIONS = [
    Specialization(
        _gather_features_kernel,
        {"features": f"*{dtype}", "path": "*i32", "out": f"*{dtype}", "N": "i32", "P": "i32", "F": "i32"},
        {"BLOCK": BLOCK, "PDL": pdl},
        divisible=("features", "path", "out", "F"),
        name=f"{dtype}{'-pdl' * pdl}",
        min_arch=90 if pdl else 80,
    )
    for dtype, pdl in [("bf16", False), ("bf16", True), ("fp32", False)]
]
