"""compact_kv: the accepted nodes' cache rows move to their final places, in place."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..ref.compact_kv import compact_kv as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native_launch, ptr


def _native(backend: str, kv_L2BGSE: Tensor, path_BP: Tensor, count_B: Tensor, length_B: Tensor) -> None:
    L, _, B, G, S, E = kv_L2BGSE.shape
    addresses = map(ptr, (kv_L2BGSE, path_BP, count_B, length_B))
    row_bytes = E * kv_L2BGSE.itemsize
    native_launch("compact_kv", backend, *addresses, 2 * L, B, G, S, row_bytes, path_BP.shape[1])


_op = Op("compact_kv", ref=_ref, cpu=partial(_native, "cpu"), cuda=partial(_native, "cuda"))


def compact_kv(kv_L2BGSE: Tensor, path_BP: Tensor, count_B: Tensor, length_B: Tensor) -> None:
    """Cache row base + path[i] -> base + i for i = 1 .. count-1, base = length - count - 1; k, v,
    all layers and heads.

    Runs after `accept`, so base is where the root of the round's tree lies. path[i] >= i, hence
    ascending moves in place never overwrite a row still to be read. Keys are stored rotated at
    their final position: nothing is rotated.

    Args:
        kv_L2BGSE: [L, 2, B, G, S, E] the whole cache, updated in place; other rows keep their bits.
        path_BP: [B, P] int32 accepted nodes, strictly ascending over the first count.
        count_B: [B] int32, 0 for a slot that emitted nothing.
        length_B: [B] int32 committed tokens after acceptance.
    """
    B = kv_L2BGSE.shape[2]
    expect_shape("path_BP", path_BP, B, path_BP.shape[1])
    expect_shape("count_B", count_B, B)
    expect_shape("length_B", length_B, B)
    expect_dtypes(torch.int32, path_BP=path_BP, count_B=count_B, length_B=length_B)
    _op(kv_L2BGSE.device)(kv_L2BGSE, path_BP, count_B, length_B)
