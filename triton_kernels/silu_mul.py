"""silu_mul in Triton: the gated activation of the MLP, a program per row and block of columns."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import BLOCK, launch_options, narrow, row_specializations, upcast, widen
from ._math import silu_product


@triton.jit
def _silu_mul_kernel(
    gate_up, out, I, stride_in, stride_out,
    BLOCK: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < I
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    gate = widen(tl.load(gate_up + row * stride_in + column, mask=inside, other=0.0), UPCAST)
    up = widen(tl.load(gate_up + row * stride_in + I + column, mask=inside, other=0.0), UPCAST)
    tl.store(out + row * stride_out + column, narrow(silu_product(gate, up), out.dtype.element_ty, UPCAST), mask=inside)


def silu_mul(gate_up_R2I: Tensor, out_RI: Tensor) -> None:
    """out = silu(gate) * up in fp32, rounded once; see `pspec_rt.ops.silu_mul`.

    Args:
        gate_up_R2I: [R, 2*I] bf16 or fp32, dense rows; the gate is the first I columns.
        out_RI: [R, I] written, same dtype, dense rows.

    Example:
        out = torch.empty(R, I, dtype=x.dtype, device=x.device)
        silu_mul(x, out)
    """
    R, I = out_RI.shape
    _silu_mul_kernel[R, triton.cdiv(I, BLOCK)](
        gate_up_R2I, out_RI, I, gate_up_R2I.stride(0), out_RI.stride(0),
        BLOCK=BLOCK, UPCAST=upcast(out_RI), **launch_options(out_RI), num_warps=4,
    )  # fmt: skip


SPECIALIZATIONS = row_specializations(_silu_mul_kernel, "gate_up", "out", "I", "stride_in", "stride_out")
