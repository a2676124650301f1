"""tree_attention: a node attends to the whole prefix and to its ancestors in the draft tree."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.tree_attention import tree_attention as _ref
from ._dispatch import (
    DTYPE_CODE,
    Op,
    cache_strides,
    expect_block_table,
    expect_dtype,
    expect_shape,
    native,
    ptr,
    triton_kernel,
)


def _cpu(
    q_BNHE: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    prefix_B: Tensor,
    words_BN: Tensor,
    out_BNHE: Tensor,
    *,
    scale: float,
    window: int = 0,
    block_table_BT: Tensor | None = None,
) -> None:
    if block_table_BT is not None:
        raise ValueError("block_table_BT: paged caches run on the backends ref and triton")
    (B, N, H, E), (G, S) = q_BNHE.shape, k_BGSE.shape[1:3]
    stride_b, stride_g = cache_strides(k_BGSE, v_BGSE)
    native.tree_attention(
        ptr(q_BNHE), k_BGSE.data_ptr(), v_BGSE.data_ptr(),
        ptr(prefix_B), ptr(words_BN), ptr(out_BNHE),
        B, N, H, G, S, E, scale, window, DTYPE_CODE[q_BNHE.dtype], stride_b, stride_g,
    )  # fmt: skip


_op = Op("tree_attention", ref=_ref, cpu=_cpu, triton=triton_kernel("tree_attention"))


def tree_attention(
    q_BNHE: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    prefix_B: Tensor,
    words_BN: Tensor,
    out_BNHE: Tensor,
    *,
    scale: float,
    window: int = 0,
    block_table_BT: Tensor | None = None,
) -> None:
    """out = softmax(scale * q k^T) v over the cache rows a node sees, in fp32.

    Node (b, n) sees rows 0 .. prefix-1 and then rows prefix + i for the set bits i of its word,
    ascending: its keys in logical order, of which it is itself the last, number t = prefix +
    popcount(word) - 1. Query head h reads KV head h // (H/G). Native kernels sum keys in logical
    order, so the result does not depend on where a key lies, on the other rows or on threads.
    Whatever rows a node does not see hold (NaN too) never reaches its output.

    Args:
        q_BNHE: [B, N, H, E] model dtype.
        k_BGSE, v_BGSE: [B, G, S, E] same dtype; rows dense, slot and head strides free.
        prefix_B: [B] int32.
        words_BN: [B, N] int64 ancestor words, bit n of node n's own word set; 0 for a padding node. Bits may also name
            rows of the cache that are not among these N.
        out_BNHE: [B, N, H, E] written; zeros for padding nodes.
        scale: multiplies the scores.
        window: if > 0, a node sees only its logical rows > t - window (sliding window attention).
        block_table_BT: [B, T] int32 or None. If given, the cache is paged: k_BGSE, v_BGSE are pages
            [num_pages, G, page, E] of 16, 32, .. or 256 rows, and cache row s of slot b is row s % page of page
            block_table[b, s // page]. Entries of rows that no node sees may hold anything.
    """
    B, N, H, E = q_BNHE.shape
    if block_table_BT is not None:
        expect_block_table(block_table_BT, B, k_BGSE.shape[2])
    slots = B if block_table_BT is None else k_BGSE.shape[0]
    expect_shape("k_BGSE", k_BGSE, slots, *k_BGSE.shape[1:3], E)
    expect_shape("v_BGSE", v_BGSE, *k_BGSE.shape)
    expect_shape("words_BN", words_BN, B, N)
    expect_shape("out_BNHE", out_BNHE, B, N, H, E)
    expect_dtype("words_BN", words_BN, torch.int64)
    expect_dtype("k_BGSE", k_BGSE, q_BNHE.dtype)
    options = {"scale": scale, "window": window, "block_table_BT": block_table_BT}
    _op(q_BNHE.device)(q_BNHE, k_BGSE, v_BGSE, prefix_B, words_BN, out_BNHE, **options)
