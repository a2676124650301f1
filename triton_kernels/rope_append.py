"""rope_append in Triton: norm and rotation of queries and keys, append to the cache; a program per row and 8 heads."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import Specialization, launch_options, narrow, upcast, widen
from ._math import rms_scale

FP_FUSION = False  # a row has one way to round, whether N is 1 or 16, paged or not: each is a compilation of its own
HEADS = 8  # of a program: 8 heads of 128 elements are 32 bytes a lane, and a row of Llama-3.1-8B is 6 programs


@triton.jit
def _rope_append_kernel(
    qkv, positions, prefix, cos, sin, k_cache, v_cache, q_out, q_norm, k_norm, block_table,
    N, H, G, E, T, max_positions, eps,
    stride_k_b, stride_k_g, stride_k_s, stride_v_b, stride_v_g, stride_v_s,
    HALF: tl.constexpr, HEADS: tl.constexpr, NORM: tl.constexpr, PAGE: tl.constexpr,
    UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    half = tl.arange(0, HALF)[None, :]
    column_inside = half < E // 2
    b = row // N
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    inside = (head < H + 2 * G) & column_inside
    source = qkv + row.to(tl.int64) * ((H + 2 * G) * E) + head * E + half
    first_in = tl.load(source, mask=inside, other=0.0)
    second_in = tl.load(source + E // 2, mask=inside, other=0.0)
    first, second = widen(first_in, UPCAST), widen(second_in, UPCAST)
    if NORM:
        scale = rms_scale(tl.sum(first * first + second * second, axis=1), E, eps)[:, None]
        norm = tl.where(head < H, q_norm, k_norm) + half
        first *= scale * widen(tl.load(norm, mask=inside, other=0.0), UPCAST)
        second *= scale * widen(tl.load(norm + E // 2, mask=inside, other=0.0), UPCAST)
    position = tl.minimum(tl.maximum(tl.load(positions + row), 0), max_positions - 1).to(tl.int64)
    cosine = tl.load(cos + position * (E // 2) + half, mask=column_inside, other=0.0)
    sine = tl.load(sin + position * (E // 2) + half, mask=column_inside, other=0.0)
    dtype: tl.constexpr = q_out.dtype.element_ty
    first_out = narrow(first * cosine - second * sine, dtype, UPCAST)
    second_out = narrow(second * cosine + first * sine, dtype, UPCAST)

    target = q_out + row.to(tl.int64) * (H * E) + head * E + half
    is_query = inside & (head < H)
    tl.store(target, first_out, mask=is_query)
    tl.store(target + E // 2, second_out, mask=is_query)
    cache_row = tl.load(prefix + b) + row % N
    if PAGE:
        b = tl.load(block_table + b * T + cache_row // PAGE)
        cache_row = cache_row % PAGE
    b, cache_row = b.to(tl.int64), cache_row.to(tl.int64)
    target = k_cache + b * stride_k_b + cache_row * stride_k_s + (head - H).to(tl.int64) * stride_k_g + half
    is_key = inside & (head >= H) & (head < H + G)
    tl.store(target, first_out, mask=is_key)
    tl.store(target + E // 2, second_out, mask=is_key)
    target = v_cache + b * stride_v_b + cache_row * stride_v_s + (head - H - G).to(tl.int64) * stride_v_g + half
    is_value = inside & (head >= H + G)
    tl.store(target, first_in, mask=is_value)
    tl.store(target + E // 2, second_in, mask=is_value)


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
    """q = rope(norm(q)), cache row prefix[b] + n = rope(norm(k)) and v; see `pspec_rt.ops.rope_append`.

    Args:
        qkv_RX: [B*N, (H+2G)*E] bf16 or fp32, contiguous; a row is [q heads | k heads | v heads].
        positions_BN: [B, N] int32, clamped to the tables.
        prefix_B: [B] int32, the first cache row written.
        cos_SE, sin_SE: [max_positions, E/2] fp32.
        k_BGSE, v_BGSE: [B, G, S, E], or pages [num_pages, G, page, E]; any strides, dense elements; rows
            prefix .. prefix+N-1 of each slot are written.
        q_BNHE: [B, N, H, E] written, contiguous.
        q_norm_E, k_norm_E: [E] same dtype, both or neither.
        eps: of those norms.
        block_table_BT: [B, T] int32 pages of each slot, or None.

    Example:
        rope_append(qkv, positions, prefix, cos, sin, k_cache, v_cache, q)
    """
    (B, N, H, E), (G, S) = q_BNHE.shape, k_BGSE.shape[1:3]
    paged = block_table_BT is not None
    norm = q_norm_E is not None and k_norm_E is not None
    _rope_append_kernel[B * N, triton.cdiv(H + 2 * G, HEADS)](
        qkv_RX, positions_BN, prefix_B, cos_SE, sin_SE, k_BGSE, v_BGSE, q_BNHE,
        q_norm_E if norm else qkv_RX, k_norm_E if norm else qkv_RX, block_table_BT if paged else prefix_B,
        N, H, G, E, block_table_BT.shape[1] if paged else 0, cos_SE.shape[0], eps,
        *k_BGSE.stride()[:3], *v_BGSE.stride()[:3],
        HALF=triton.next_power_of_2(E // 2), HEADS=HEADS, NORM=norm, PAGE=S if paged else 0,
        UPCAST=upcast(q_BNHE), **launch_options(q_BNHE, fp_fusion=FP_FUSION), num_warps=2,
    )  # fmt: skip


POINTERS = ("qkv", "k_cache", "v_cache", "q_out", "q_norm", "k_norm")
INDICES = ("positions", "prefix", "block_table")
SIZES = ("N", "H", "G", "E", "T", "max_positions")
STRIDES = ("stride_k_b", "stride_k_g", "stride_k_s", "stride_v_b", "stride_v_g", "stride_v_s")
SPECIALIZATIONS = [
    Specialization(
        _rope_append_kernel,
        {
            **dict.fromkeys(POINTERS, f"*{dtype}"), **dict.fromkeys(INDICES, "*i32"), "cos": "*fp32", "sin": "*fp32",
            **dict.fromkeys(SIZES + STRIDES, "i32"), "eps": "fp32",
        },
        {"HALF": half, "HEADS": HEADS, "NORM": norm, "PAGE": page, "UPCAST": False, "PDL": pdl},
        num_warps=2,
        divisible=(*POINTERS, *INDICES, "cos", "sin", "E", *STRIDES),
        name=f"{dtype}-{2 * half}{'-norm' * norm}{f'-page{page}' if page else ''}{'-pdl' * pdl}",
        fp_fusion=FP_FUSION,
        min_arch=90 if pdl else 80,
    )
    for dtype, half, norm, page, pdl in [
        ("bf16", 64, False, 0, False), ("bf16", 64, True, 16, False), ("bf16", 64, False, 0, True),
        ("bf16", 32, False, 0, False), ("bf16", 128, True, 256, False), ("fp32", 64, True, 0, False),
    ]
]  # fmt: skip
