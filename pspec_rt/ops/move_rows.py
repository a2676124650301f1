"""move_rows: cache rows to other places in the buffers of a serving stack, for all layers at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..ref.move_rows import move_rows as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native_launch, ptr


def _native(backend: str, buffers: Sequence[Tensor], addresses_L: Tensor, from_BP: Tensor, to_BP: Tensor) -> None:
    row_bytes = buffers[0][0].nbytes
    native_launch(
        "move_rows", backend, *map(ptr, (addresses_L, from_BP, to_BP)), len(buffers), *from_BP.shape, row_bytes
    )


_op = Op("move_rows", ref=_ref, cpu=partial(_native, "cpu"), cuda=partial(_native, "cuda"))


def move_rows(buffers: Sequence[Tensor], addresses_L: Tensor, from_BP: Tensor, to_BP: Tensor) -> None:
    """Row from[b, i] of every buffer -> row to[b, i], in place: `compact_kv` for caches whose rows lie by a slot
    mapping, as in paged pools.

    With node n of sequence b in cache row slot[b, n], from = slot[b, path[b, i]] and to = slot[b, i] do what
    compact_kv does. As there, no move may overwrite a row that a later one of its sequence reads, and sequences share
    no rows that move.

    Args:
        buffers: L tensors [rows, ...] of one shape and dtype, contiguous, aligned to 16 bytes: K and V of each layer.
        addresses_L: [L] int64 their data_ptrs, where the kernel can read them; they are made once, not per call.
        from_BP, to_BP: [B, P] int32 row numbers; -1 in from_BP: no move.
    """
    if not buffers or any(x.shape != buffers[0].shape or not x.is_contiguous() for x in buffers):
        raise ValueError("buffers: expected one or more contiguous tensors of one shape")
    expect_shape("addresses_L", addresses_L, len(buffers))
    expect_shape("to_BP", to_BP, *from_BP.shape)
    expect_dtypes(torch.int64, addresses_L=addresses_L)
    expect_dtypes(torch.int32, from_BP=from_BP, to_BP=to_BP)
    _op(from_BP.device)(buffers, addresses_L, from_BP, to_BP)
