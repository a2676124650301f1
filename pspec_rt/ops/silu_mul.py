"""silu_mul: the gated activation of the MLP."""

from __future__ import annotations

from torch import Tensor

from ..ref.silu_mul import silu_mul as _ref
from ._dispatch import DTYPE_CODE, Op, expect_dtype, expect_shape, native, ptr, triton_kernel


def _cpu(gate_up_R2I: Tensor, out_RI: Tensor) -> None:
    native.silu_mul(ptr(gate_up_R2I), ptr(out_RI), *out_RI.shape, DTYPE_CODE[out_RI.dtype])


_op = Op("silu_mul", ref=_ref, cpu=_cpu, triton=triton_kernel("silu_mul"))


def silu_mul(gate_up_R2I: Tensor, out_RI: Tensor) -> None:
    """out = silu(gate) * up, computed in fp32 and rounded once. A row's bits do not depend on the
    other rows.

    Args:
        gate_up_R2I: [R, 2*I] bf16 or fp32; the gate is the first I columns.
        out_RI: [R, I] written, same dtype.
    """
    expect_shape("gate_up_R2I", gate_up_R2I, out_RI.shape[0], 2 * out_RI.shape[1])
    expect_dtype("gate_up_R2I", gate_up_R2I, out_RI.dtype)
    _op(out_RI.device)(gate_up_R2I, out_RI)
