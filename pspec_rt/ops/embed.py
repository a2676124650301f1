"""embed: rows of the embedding table."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantize import Int8Weight, Weight
from ..ref.embed import embed as _ref
from ._dispatch import DTYPE_CODE, Op, expect_backend, expect_dtype, expect_shape, native, ptr, triton_kernel


def _cpu(ids_R: Tensor, table_VM: Weight, out_RM: Tensor) -> None:
    (R, M), V = out_RM.shape, table_VM.shape[0]
    codes = (DTYPE_CODE[table_VM.dtype], DTYPE_CODE[out_RM.dtype])
    native.embed(ptr(ids_R), ptr(table_VM), ptr(out_RM), R, V, M, *codes)


_op = Op("embed", ref=_ref, cpu=_cpu, triton=triton_kernel("embed"))


def embed(ids_R: Tensor, table_VM: Weight, out_RM: Tensor) -> None:
    """out[r] = table[ids[r]]; ids < 0 are padding and read row 0.

    Args:
        ids_R: [R] int32, at most V - 1.
        table_VM: [V, M] model dtype, or an `Int8Weight`.
        out_RM: [R, M] written, same dtype; bf16 or fp32 with an `Int8Weight`.
    """
    expect_dtype("ids_R", ids_R, torch.int32)
    expect_shape("out_RM", out_RM, ids_R.shape[0], table_VM.shape[1])
    if isinstance(table_VM, Int8Weight):
        expect_dtype("out_RM", out_RM, torch.bfloat16, torch.float32)
        expect_backend(_op, "table_VM", table_VM)
    else:
        expect_dtype("out_RM", out_RM, table_VM.dtype)
    _op(out_RM.device)(ids_R, table_VM, out_RM)
