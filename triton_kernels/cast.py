"""cast in Triton: values in another dtype, a program per block of them."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import BLOCK, Specialization, launch_options, narrow, upcast, widen


@triton.jit
def _cast_kernel(x, out, size, BLOCK: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    values = widen(tl.load(x + at, mask=inside, other=0.0), UPCAST)
    tl.store(out + at, narrow(values, out.dtype.element_ty, UPCAST), mask=inside)


def cast(x: Tensor, out: Tensor) -> None:
    """out = x, rounded to nearest even; see `pspec_rt.ops.cast`.

    Args:
        x: bf16 or fp32, contiguous.
        out: bf16 or fp32, the same shape, contiguous, written.

    Example:
        out = torch.empty(features.shape, dtype=torch.float32, device=features.device)
        cast(features, out)
    """
    size = out.numel()
    _cast_kernel[(triton.cdiv(size, BLOCK),)](
        x, out, size, BLOCK=BLOCK, UPCAST=upcast(x, out), **launch_options(out), num_warps=4
    )


SPECIALIZATIONS = [
    Specialization(
        _cast_kernel,
        {"x": f"*{dtype}", "out": f"*{to}", "size": "i32"},
        {"BLOCK": BLOCK, "UPCAST": False, "PDL": pdl},
        divisible=("x", "out", "size"),
        name=f"{dtype}to{to}{'-pdl' * pdl}",
        min_arch=90 if pdl else 80,
    )
    for dtype, to, pdl in [
        ("bf16", "fp32", False), ("bf16", "fp32", True), ("fp32", "bf16", False), ("bf16", "bf16", False),
        ("fp32", "fp32", False),
    ]
]  # fmt: skip
