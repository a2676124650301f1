"""tree_attention in Triton: the launcher of `_tree_kernels`, and the tile sizes of each model."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..scratch import scratch
from ._common import Specialization, capability, interpreting, launch_options, upcast
from ._tree_kernels import fold_kernel, partials_kernel

RUN, GRAIN = 256, 64
SPLITS = 64  # programs that share a body, fixed so that the grid does not grow with the capacity
LOG2E = 1.4426950408889634
FOLD_WARPS = 8
FP_FUSION = False  # paged or not, windowed or not: one way to round


class Tiles(NamedTuple):
    """Sizes of what a program computes, fixed by the model, so that they cannot change a row's bits.

    tile and edge_tile: query rows of a program of the body and of the edge. block: keys of a dot. heads: query rows of
    a program of the fold. chunk: runs it loads at once.
    """

    block_e: int
    tile: int
    edge_tile: int
    block: int
    heads: int
    chunk: int
    warps: int
    stages: int


@lru_cache(maxsize=64)
def tiles(ratio: int, E: int, dtype: torch.dtype, *, windowed: bool, wgmma: bool) -> Tiles:
    """For `ratio` query heads per KV head of size E, on a GPU with or without wgmma (sm_90 or later)."""
    block_e, heads = max(16, triton.next_power_of_2(E)), triton.next_power_of_2(ratio)
    edge_tile, chunk = max(16, heads), max(2, min(32, 16384 // (heads * block_e)))
    wide = block_e > 128
    if dtype is torch.float32:  # no tensor cores: keys and values go through registers
        tile, block, warps = (32, 16, 8) if block_e > 64 else (16, 32, 4)
        return Tiles(block_e, tile, edge_tile, block, heads, chunk, warps, 2)
    if wgmma and not windowed and E == block_e and not wide:
        return Tiles(block_e, 64, edge_tile, 64, heads, chunk, 4, 3)
    # 64 keys would spill: mma.sync holds keys and values in registers, masks of rows and columns cost some, too.
    return Tiles(block_e, 64, edge_tile, 32, heads, chunk, 8 if wide else 4, 4)


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
    """Attention of tree nodes to prefix and ancestors; see `pspec_rt.ops.tree_attention`.

    Args:
        q_BNHE: [B, N, H, E] bf16 or fp32, contiguous.
        k_BGSE, v_BGSE: [B, G, S, E] same dtype, elements of a row dense; with a block table [pages, G, page, E].
        prefix_B: [B] int32.
        words_BN: [B, N] int64.
        out_BNHE: [B, N, H, E] written, contiguous.
        scale: multiplies the scores.
        window: if > 0, of sliding window attention.
        block_table_BT: [B, T] int32, or None.

    Example:
        q = torch.randn(1, 3, 32, 128, dtype=torch.bfloat16, device="cuda")
        k, v = (torch.randn(1, 8, 1024, 128, dtype=torch.bfloat16, device="cuda") for _ in "kv")
        prefix = torch.tensor([1000], dtype=torch.int32, device="cuda")  # nodes are in rows 1000 .. 1002
        words = torch.tensor([[0b001, 0b011, 0b101]], device="cuda")  # a root and two children
        out = torch.empty_like(q)
        tree_attention(q, k, v, prefix, words, out, scale=128**-0.5)
    """
    (B, N, H, E), (G, S) = q_BNHE.shape, k_BGSE.shape[1:3]
    if k_BGSE.stride() != v_BGSE.stride() or k_BGSE.stride()[2:] != (E, 1):
        strides = f"{k_BGSE.stride()} and {v_BGSE.stride()}"
        raise ValueError(f"k_BGSE, v_BGSE: rows must be dense and both caches laid out alike, got strides {strides}")
    page, T = (S, block_table_BT.shape[1]) if block_table_BT is not None else (0, 1)
    runs, rows = triton.cdiv(S * T, RUN), B * N * H
    wgmma = interpreting() or capability(q_BNHE.device) >= (9, 0)
    shape = tiles(H // G, E, q_BNHE.dtype, windowed=window > 0, wgmma=wgmma)
    sums = scratch(q_BNHE.device, "tree_attention.sums", (runs + 1) * rows * E, torch.float32)
    stats = scratch(q_BNHE.device, "tree_attention.stats", (runs + 1) * rows * 2, torch.float32)
    splits = 2 if interpreting() else SPLITS  # there, an idle program takes as long as others
    options = launch_options(q_BNHE, fp_fusion=FP_FUSION) | _model(H, G, E, shape, window > 0)
    partials_kernel[B * G, N + triton.cdiv(N * (H // G), shape.tile) * min(runs, splits)](
        q_BNHE, k_BGSE, v_BGSE, prefix_B, words_BN, block_table_BT, sums, stats,
        scale * LOG2E, window, N, T, *k_BGSE.stride()[:2],
        TILE=shape.tile, EDGE_TILE=shape.edge_tile, BLOCK=shape.block, SPLITS=splits, PAGE=page,
        UPCAST=upcast(q_BNHE), num_warps=shape.warps, num_stages=shape.stages, **options,
    )  # fmt: skip
    fold_kernel[B * N, G](
        prefix_B, words_BN, sums, stats, out_BNHE, window, N,
        HEADS=shape.heads, CHUNK=shape.chunk, UPCAST=upcast(q_BNHE), num_warps=FOLD_WARPS, **options,
    )  # fmt: skip


def _model(H: int, G: int, E: int, shape: Tiles, windowed: bool) -> dict[str, object]:
    """Constants both kernels take."""
    sizes = {"H": H, "G": G, "E": E, "BLOCK_E": shape.block_e, "GRAIN": GRAIN, "RUN": RUN}
    return sizes | {"WINDOWED": windowed}


def _specializations(
    ratio: int, E: int, dtype: torch.dtype = torch.bfloat16, *, page: int = 0, window: bool = False,
    pdl: bool = False, wgmma: bool = False,
) -> list[Specialization]:  # fmt: skip
    """Both kernels for one shape of model and cache."""
    shape = tiles(ratio, E, dtype, windowed=window, wgmma=wgmma)
    kind = f"*{'fp32' if dtype is torch.float32 else 'bf16'}"
    pointers = {"prefix": "*i32", "words": "*i64", "sums": "*fp32", "stats": "*fp32"}
    cache, table = dict.fromkeys("qkv", kind), {"table": "*i32"} if page else {}
    counts, strides = {"window": "i32", "N": "i32"}, {"stride_p": "i32", "stride_g": "i32"}
    model = _model(8 * ratio, 8, E, shape, window) | {"UPCAST": False, "PDL": pdl}
    traits = f"{'-page' * (page > 0)}{page or ''}{'-window' * window}{'-wgmma' * wgmma}{'-pdl' * pdl}"
    name, min_arch = f"{kind[1:]}-E{E}-ratio{ratio}{traits}", 90 if pdl or wgmma else 80
    partials = Specialization(
        partials_kernel,
        cache | pointers | counts | table | strides | {"scale2": "fp32", "T": "i32"},
        model | ({} if page else {"table": None})
        | {"TILE": shape.tile, "EDGE_TILE": shape.edge_tile, "BLOCK": shape.block, "SPLITS": SPLITS, "PAGE": page},
        num_warps=shape.warps, num_stages=shape.stages, divisible=(*cache, *pointers, *table, *strides),
        name=name, fp_fusion=FP_FUSION, min_arch=min_arch,
    )  # fmt: skip
    fold = Specialization(
        fold_kernel,
        {"out": kind} | pointers | counts,
        model | {"HEADS": shape.heads, "CHUNK": shape.chunk},
        num_warps=FOLD_WARPS, divisible=("out", *pointers), name=name, fp_fusion=FP_FUSION, min_arch=min_arch,
    )  # fmt: skip
    return [partials, fold]


SPECIALIZATIONS = [
    spec
    for specs in [
        _specializations(4, 128, wgmma=True),
        _specializations(4, 128),
        _specializations(4, 64, wgmma=True),
        *(_specializations(4, E) for E in (64, 96, 256)),
        *(_specializations(4, E, page=16, window=True) for E in (64, 96, 128, 256)),
        *(_specializations(4, E, page=256, window=True) for E in (64, 128)),
        *(_specializations(4, E, page=page, wgmma=True) for E in (64, 128) for page in (16, 256)),
        *(_specializations(4, E, torch.float32, page=16, window=True) for E in (64, 96, 128, 256)),
        *(_specializations(ratio, 128, wgmma=True) for ratio in (1, 8)),
        _specializations(8, 256, torch.float32),
        _specializations(4, 128, wgmma=True, pdl=True),
    ]
    for spec in specs
]
