"""embed in Triton: rows of the embedding table, a program per row and block of columns."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import BLOCK, Specialization, launch_options


@triton.jit
def _embed_kernel(
    ids, table, out, M, stride_table, stride_out,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < M
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    token = tl.maximum(tl.load(ids + row), 0).to(tl.int64)
    tl.store(out + row * stride_out + column, tl.load(table + token * stride_table + column, mask=inside), mask=inside)


def embed(ids_R: Tensor, table_VM: Tensor, out_RM: Tensor) -> None:
    """out[r] = table[max(ids[r], 0)]; see `pspec_rt.ops.embed`.

    Args:
        ids_R: [R] int32, at most V - 1.
        table_VM: [V, M] any dtype, dense rows.
        out_RM: [R, M] written, same dtype, dense rows.

    Example:
        out = torch.empty(len(ids), table.shape[1], dtype=table.dtype, device=table.device)
        embed(ids, table, out)
    """
    R, M = out_RM.shape
    _embed_kernel[R, triton.cdiv(M, BLOCK)](
        ids_R, table_VM, out_RM, M, table_VM.stride(0), out_RM.stride(0),
        BLOCK=BLOCK, **launch_options(out_RM), num_warps=4,
    )  # fmt: skip


SPECIALIZATIONS = [
    Specialization(
        _embed_kernel,
        {
            "ids": "*i32", "table": f"*{dtype}", "out": f"*{dtype}",
            "M": "i32", "stride_table": "i32", "stride_out": "i32",
        },
        {"BLOCK": BLOCK, "PDL": pdl},
        divisible=("ids", "table", "out", "M", "stride_table", "stride_out"),
        name=f"{dtype}{'-pdl' * pdl}",
        min_arch=90 if pdl else 80,
    )
    for dtype, pdl in [("bf16", False), ("bf16", True), ("fp32", False)]
]  # fmt: skip
