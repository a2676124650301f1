"""rope_append: rotate queries and keys, append keys and values to the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.rope_append import rope_append as _ref
from ._dispatch import (
    DTYPE_CODE,
    Op,
    cache_strides,
    expect_block_table,
    expect_dtypes,
    expect_shape,
    native,
    ptr,
    triton_kernel,
)


def _cpu(
    qkv_RX: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    cos_SE: Tensor,
    sin_SE: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    q_BNHE: Tensor,
    *,
    q_norm_E: Tensor | None = None,
    k_norm_E: Tensor | None = None,
    eps: float = 1e-6,
    block_table_BT: Tensor | None = None,
) -> None:
    if block_table_BT is not None:
        raise ValueError("block_table_BT: paged caches run on the backends ref and triton")
    (B, N, H, E), (G, S) = q_BNHE.shape, k_BGSE.shape[1:3]
    native.rope_append(
        ptr(qkv_RX), ptr(positions_BN), ptr(prefix_B), ptr(cos_SE), ptr(sin_SE),
        k_BGSE.data_ptr(), v_BGSE.data_ptr(), ptr(q_BNHE), ptr(q_norm_E), ptr(k_norm_E),
        B, N, H, G, S, E, cos_SE.shape[0], eps, DTYPE_CODE[q_BNHE.dtype], *cache_strides(k_BGSE, v_BGSE),
    )  # fmt: skip


_op = Op("rope_append", ref=_ref, cpu=_cpu, triton=triton_kernel("rope_append"))


def rope_append(
    qkv_RX: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    cos_SE: Tensor,
    sin_SE: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    q_BNHE: Tensor,
    *,
    q_norm_E: Tensor | None = None,
    k_norm_E: Tensor | None = None,
    eps: float = 1e-6,
    block_table_BT: Tensor | None = None,
) -> None:
    """q = rope(norm(q)), cache row prefix[b] + n = rope(norm(k)) and v, for row r = b*N + n.

    rope is the rotate_half form: element e < E/2 turns with element e + E/2 by the angle of
    (position, e). The norm is an RMS norm per head (Qwen3), if its weights are given. All in fp32,
    rounded once on the store.

    Args:
        qkv_RX: [B*N, (H+2G)*E] model dtype, a row is [q heads | k heads | v heads].
        positions_BN: [B, N] int32; clamped to the tables (padding, scratch past the end).
        prefix_B: [B] int32, 0 <= prefix and prefix + N <= S (T * page).
        cos_SE, sin_SE: [max_positions, E/2] fp32 tables, attention factor folded in.
        k_BGSE, v_BGSE: [B, G, S, E] one layer's cache; rows prefix .. prefix+N-1 are written.
        q_BNHE: [B, N, H, E] written.
        q_norm_E, k_norm_E: [E] weights of the per-head norms, both or neither.
        eps: of those norms.
        block_table_BT: [B, T] int32 or None. If given, the cache is paged: k_BGSE, v_BGSE are pages
            [num_pages, G, page, E] of 16, 32, .. or 256 rows, and cache row s of slot b is row s % page of page
            block_table[b, s // page]. Entries of rows that are not written may hold anything.
    """
    (B, N, H, E), G = q_BNHE.shape, k_BGSE.shape[1]
    expect_shape("qkv_RX", qkv_RX, B * N, (H + 2 * G) * E)
    expect_shape("positions_BN", positions_BN, B, N)
    expect_dtypes(torch.int32, positions_BN=positions_BN, prefix_B=prefix_B)
    expect_shape("prefix_B", prefix_B, B)
    expect_shape("cos_SE", cos_SE, sin_SE.shape[0], E // 2)
    expect_dtypes(torch.float32, cos_SE=cos_SE, sin_SE=sin_SE)
    expect_dtypes(q_BNHE.dtype, qkv_RX=qkv_RX, k_BGSE=k_BGSE, v_BGSE=v_BGSE, q_norm_E=q_norm_E, k_norm_E=k_norm_E)
    if block_table_BT is not None:
        expect_block_table(block_table_BT, B, k_BGSE.shape[2])
    tables = (cos_SE, sin_SE, k_BGSE, v_BGSE, q_BNHE)
    options = {"q_norm_E": q_norm_E, "k_norm_E": k_norm_E, "eps": eps, "block_table_BT": block_table_BT}
    _op(q_BNHE.device)(qkv_RX, positions_BN, prefix_B, *tables, **options)
