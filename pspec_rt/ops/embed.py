"""embed: rows of the embedding table."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.embed import embed as _ref
from ._dispatch import Op, expect_dtype, expect_shape, native, ptr


def _cpu(ids_R: Tensor, table_VM: Tensor, out_RM: Tensor) -> None:
    (R, M), V = out_RM.shape, table_VM.shape[0]
    native.embed(ptr(ids_R), ptr(table_VM), ptr(out_RM), R, V, M * table_VM.itemsize)


_op = Op("embed", ref=_ref, cpu=_cpu)


def embed(ids_R: Tensor, table_VM: Tensor, out_RM: Tensor) -> None:
    """out[r] = table[ids[r]]; ids < 0 are padding and read row 0.

    Args:
        ids_R: [R] int32, at most V - 1.
        table_VM: [V, M] model dtype.
        out_RM: [R, M] written, same dtype.
    """
    expect_dtype("ids_R", ids_R, torch.int32)
    expect_shape("out_RM", out_RM, ids_R.shape[0], table_VM.shape[1])
    expect_dtype("out_RM", out_RM, table_VM.dtype)
    _op(out_RM.device)(ids_R, table_VM, out_RM)
