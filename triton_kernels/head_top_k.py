"""head_top_k in Triton: the head's GEMM with the best tokens of every tile as its epilogue, then a merge of tiles."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..scratch import scratch
from . import _linear_tiles as tiles
from ._common import Specialization, device_function, launch_options, upcast
from ._product import prefetch, whole_product
from ._top import (
    NO_KEY,
    NO_ORDER,
    empty_top,
    finite,
    insert,
    join,
    key_index,
    key_value,
    not_nan,
    ordered,
    ranks,
    value_of,
)

BLOCK = 1024  # keys of a row at a time in the merge


@triton.jit(do_not_specialize=["R"])
def _tile_kernel(
    x, w, temperature, noise, noise_row, id_map, keys, sums, R, D, V, stride_x, stride_w,
    I: tl.constexpr, BUCKET: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr, STEP: tl.constexpr,
    SPLIT: tl.constexpr, C: tl.constexpr, SCORES: tl.constexpr, WIDE: tl.constexpr, UPCAST: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Program (tile of the vocabulary and of the rows): keys [R, vocabulary tiles, C], sums [R, vocabulary tiles]."""
    row_tiles, vocabulary_tiles = tl.cdiv(R, BUCKET), tl.cdiv(D, ROWS)
    tile = tl.program_id(0) // row_tiles
    v = tile * ROWS + tl.arange(0, ROWS)
    w_rows = w + tl.minimum(v, D - 1).to(tl.int64) * stride_w
    if PDL:
        prefetch(w_rows, 0, I, CHUNKS, STEP, SPLIT)
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0) % row_tiles * BUCKET + tl.arange(0, BUCKET)
    inside = row < R
    x_rows = x + row.to(tl.int64) * stride_x
    value = whole_product(
        x_rows,
        None,
        inside,
        None,
        None,
        w_rows,
        0,
        CHUNKS // SPLIT,
        I,
        I,
        ROWS,
        BUCKET,
        CHUNKS,
        STEP,
        SPLIT,
        WIDE,
        UPCAST,
    )
    if temperature is not None:
        warmth = tl.load(temperature + row, mask=inside, other=0.0)
        sampled = warmth > 0
        token = v if id_map is None else tl.load(id_map + v, mask=v < D, other=0)
        noise_rows = noise + tl.load(noise_row + row, mask=sampled, other=0).to(tl.int64) * V
        at = noise_rows[None, :] + token[:, None]
        g = tl.load(at, mask=sampled[None, :] & (v < D)[:, None], other=0.0)
        divisor = tl.where(sampled, warmth, 1.0)
        value = tl.where(
            sampled[None, :], tl.div_rn(value, tl.broadcast_to(divisor[None, :], (ROWS, BUCKET))) + g, value
        )
    value = not_nan(value)
    order = tl.where((v < D)[:, None], ordered(value), NO_ORDER)
    most = tl.max(order, 0)
    place = row.to(tl.int64) * vocabulary_tiles + tile
    if SCORES:
        exps = tl.exp(value - finite(value_of(most))[None, :])
        tl.store(sums + place, tl.sum(tl.where((v < D)[:, None], exps, 0.0), 0), mask=inside)
    for i in tl.range(0, C):
        # 32-bit numbers here, as 64-bit keys of a tile of 64 tokens and 64 rows take all registers.
        best = tl.min(tl.where(order == most[None, :], v[:, None], D), 0)
        key = tl.where(most > NO_ORDER, join(most, best), NO_KEY)
        tl.store(keys + place * C + i, key, mask=inside)
        order = tl.where(v[:, None] == best[None, :], NO_ORDER, order)
        most = tl.max(order, 0)


@device_function
def _log_sum_exp(keys, sums, vocabulary_tiles, most, C: tl.constexpr, BLOCK: tl.constexpr):
    """log of the sum of exp(value) over a row, from its tiles' maxima (their first keys) and sums; `most` is the
    largest."""
    total = tl.full((BLOCK,), 0.0, tl.float32)
    for first in range(0, vocabulary_tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        inside = tile < vocabulary_tiles
        maximum = key_value(tl.load(keys + tile * C, mask=inside, other=0))
        share = tl.load(sums + tile, mask=inside, other=0.0) * tl.exp(maximum - finite(most))
        total += tl.where(inside, share, 0.0)
    return finite(most) + tl.log(tl.sum(total, 0))


@triton.jit
def _merge_kernel(
    keys, sums, id_map, out_ids, out_scores, vocabulary_tiles,
    C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SCORES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (row): the best of all its tiles' best."""
    row = tl.program_id(0).to(tl.int64)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row_keys = keys + row * vocabulary_tiles * C
    top = empty_top(WIDTH)
    for first in range(0, vocabulary_tiles * C, BLOCK):
        i = first + tl.arange(0, BLOCK)
        top = insert(top, tl.load(row_keys + i, mask=i < vocabulary_tiles * C, other=NO_KEY))
    place, value, token = ranks(top), key_value(top), key_index(top)
    found = (place < C) & (value > float("-inf"))
    if id_map is not None:
        token = tl.load(id_map + token, mask=found, other=0)
    tl.store(out_ids + row * C + place, tl.where(found, token, -1), mask=place < C)
    if SCORES:
        row_sums = sums + row * vocabulary_tiles
        most = key_value(tl.max(top, 0))
        log_sum = _log_sum_exp(row_keys, row_sums, vocabulary_tiles, most, C, BLOCK)
        tl.store(out_scores + row * C + place, value - log_sum, mask=place < C)


def head_top_k(
    x_RM: Tensor,
    w_DM: Tensor,
    out_ids_RC: Tensor,
    out_scores_RC: Tensor | None,
    *,
    temperature_R: Tensor | None = None,
    noise_QV: Tensor | None = None,
    noise_row_R: Tensor | None = None,
    id_map_D: Tensor | None = None,
) -> None:
    """ids and scores of the C largest values logit / T + noise of each row; see `pspec_rt.ops.head_top_k`.

    The logits have the bits of `linear`; they stay in registers. Noise of rows with T = 0 is not read.

    Args:
        x_RM: [R, M] bf16 or fp32, dense rows, any R.
        w_DM: [D, M] bf16 or fp32, dense rows.
        out_ids_RC: [R, C] int32 written, C <= 16, contiguous.
        out_scores_RC: [R, C] fp32 written, contiguous, or None, which saves the sums of exponentials.
        temperature_R, noise_QV, noise_row_R: [R] and [Q, V] fp32, [R] int32, contiguous, or all None.
        id_map_D: [D] int32 ascending, or None.

    Example:
        ids = torch.empty(R, 8, dtype=torch.int32, device=x.device)
        head_top_k(x, w, ids, None)
    """
    (R, M), D, C = x_RM.shape, w_DM.shape[0], out_ids_RC.shape[1]
    wide, scores = torch.float32 in (x_RM.dtype, w_DM.dtype), out_scores_RC is not None
    arch, bucket = tiles.arch_of(x_RM.device), tiles.bucket_of(R)
    plan = tiles.plan_of(D, M, wide, arch)
    tile = tiles.whole(plan, bucket, arch, D)
    vocabulary_tiles = triton.cdiv(D, tile.rows)
    keys = scratch(x_RM.device, "head_top_k.keys", R * vocabulary_tiles * C, torch.int64)
    sums = scratch(x_RM.device, "head_top_k.sums", R * vocabulary_tiles, torch.float32)
    V = D if noise_QV is None else noise_QV.shape[1]
    up = upcast(x_RM, w_DM)
    options = launch_options(x_RM, fp_fusion=False)
    _tile_kernel[vocabulary_tiles * triton.cdiv(R, bucket),](
        x_RM, w_DM, temperature_R, noise_QV, noise_row_R, id_map_D, keys, sums, R, D, V, x_RM.stride(0), w_DM.stride(0),
        I=M, BUCKET=bucket, ROWS=tile.rows, CHUNKS=plan.order.chunks, STEP=plan.order.step, SPLIT=tile.split, C=C,
        SCORES=scores, WIDE=wide or up, UPCAST=up, **options, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    _merge_kernel[R,](
        keys, sums, id_map_D, out_ids_RC, out_scores_RC, vocabulary_tiles,
        C=C, WIDTH=triton.next_power_of_2(C), BLOCK=BLOCK, SCORES=scores, **options, num_warps=8,
    )  # fmt: skip


def _tile_specialization(
    D: int, M: int, bucket: int, arch: int, C: int, *, noise: bool = False, mapped: bool = False, dtype: str = "bf16",
    pdl: bool = False,
) -> Specialization:  # fmt: skip
    wide = dtype == "fp32"
    plan = tiles.plan_of(D, M, wide, arch)
    tile = tiles.whole(plan, bucket, arch, D)
    pointers = {"x": f"*{dtype}", "w": f"*{dtype}", "keys": "*i64", "sums": "*fp32"}
    pointers |= {"temperature": "*fp32", "noise": "*fp32", "noise_row": "*i32"} if noise else {}
    pointers |= {"id_map": "*i32"} if mapped else {}
    absent = {name: None for name in ("temperature", "noise", "noise_row", "id_map") if name not in pointers}
    constants = {
        "I": M, "BUCKET": bucket, "ROWS": tile.rows, "CHUNKS": plan.order.chunks, "STEP": plan.order.step,
        "SPLIT": tile.split, "C": C, "SCORES": C > 1, "WIDE": wide, "UPCAST": False, "PDL": pdl,
    }  # fmt: skip
    sizes = {name: "i32" for name in ("R", "D", "V", "stride_x", "stride_w")}
    words = ["noise" * noise, "map" * mapped, "pdl" * pdl]
    return Specialization(
        _tile_kernel,
        {**pointers, **sizes},
        {**absent, **constants},
        num_warps=tile.warps,
        num_stages=tile.stages,
        divisible=(*pointers, *(name for name in sizes if name != "R")),
        name="-".join([dtype, f"{D}x{M}", f"R{bucket}", f"top{C}", f"sm{arch}", *filter(None, words)]),
        fp_fusion=False,
        min_arch=arch,
    )


def _merge_specialization(C: int, mapped: bool) -> Specialization:
    pointers = {"keys": "*i64", "sums": "*fp32", "out_ids": "*i32", "out_scores": "*fp32"}
    pointers |= {"id_map": "*i32"} if mapped else {}
    absent = {} if mapped else {"id_map": None}
    constants = {"C": C, "WIDTH": triton.next_power_of_2(C), "BLOCK": BLOCK, "SCORES": C > 1, "PDL": False}
    return Specialization(
        _merge_kernel,
        {**pointers, "vocabulary_tiles": "i32"},
        {**absent, **constants},
        num_warps=8,
        divisible=tuple(pointers),
        name=f"top{C}{'-map' * mapped}",
        fp_fusion=False,
    )


def _specializations() -> list[Specialization]:
    """Every bucket at the heads of an 8B and a 135M model and a reduced one: greedy, sampled and ranked."""
    found = []
    for arch in (80, 90):
        for bucket in tiles.BUCKETS:
            found.append(_tile_specialization(128256, 4096, bucket, arch, 1, noise=True))
            found.append(_tile_specialization(32000, 4096, bucket, arch, 8, noise=True, mapped=True, pdl=arch >= 90))
            found.append(_tile_specialization(49152, 576, bucket, arch, 16))
        found.append(_tile_specialization(128256, 4096, 16, arch, 1))
        found.append(_tile_specialization(4096, 4096, 64, arch, 8))  # of many chunks
    found.append(_tile_specialization(49152, 576, 16, 80, 8, noise=True, dtype="fp32"))
    return [*found, _merge_specialization(1, False), _merge_specialization(8, True), _merge_specialization(16, False)]


SPECIALIZATIONS = _specializations()
