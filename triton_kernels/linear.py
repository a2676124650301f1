"""linear in Triton: rows times a weight matrix, a program per tile of the weight's rows, bits that ignore the rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ref.linear import linear as library
from ..scratch import scratch
from . import _linear_tiles as tiles
from ._common import Specialization, device_function, interpreting, launch_options, narrow, upcast, widen
from ._math import LANES, lane_squares, row_scales, silu_product
from ._product import add_chunks, add_partials, prefetch, product
from .add_rms_norm import add_rms_norm

# Up to so many every program norms for itself; more cost more than a launch, or spill.
NORM_ROWS, NORM_COLUMNS = 16, 4096
LAUNCH_ROWS = 256  # rows of a launch whose partial sums go through memory: bounds what they need


@device_function
def _finish(
    sums,
    bias,
    rows_of_w,
    at,
    mask,
    ROWS: tl.constexpr,
    BUCKET: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Bias, gate and residual of the complete sums [ROWS, BUCKET], each rounded as the separate op would, stored."""
    dtype: tl.constexpr = at.dtype.element_ty
    if bias is not None:
        sums += widen(tl.load(bias + rows_of_w), UPCAST)[:, None]
    if GATED:
        halves = widen(narrow(sums, dtype, UPCAST), UPCAST)
        gate, up = tl.split(tl.permute(tl.reshape(halves, (2, ROWS // 2, BUCKET)), (1, 2, 0)))
        sums = silu_product(gate, up)
    if ADD:
        before = widen(tl.load(at, mask=mask, other=0.0), UPCAST)
        sums = before + widen(narrow(sums, dtype, UPCAST), UPCAST)
    tl.store(at, narrow(sums, dtype, UPCAST), mask=mask)


@triton.jit(do_not_specialize=["R"])
def _linear_kernel(
    x, w, bias, norm, out, partial, ticket, R, O, stride_x, stride_w, stride_out, eps,
    I: tl.constexpr, WIDTH: tl.constexpr, BUCKET: tl.constexpr, ROWS: tl.constexpr,
    CHUNKS: tl.constexpr, STEP: tl.constexpr, SPLIT: tl.constexpr,
    GATED: tl.constexpr, ADD: tl.constexpr, WIDE: tl.constexpr, UPCAST: tl.constexpr, PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Program (tile of w's rows and of x's rows; which SPLIT of the CHUNKS); the last of a tile adds partial sums."""
    row_tiles = tl.cdiv(R, BUCKET)
    tile = tl.program_id(0)
    part = tl.program_id(1)
    OUT: tl.constexpr = ROWS // 2 if GATED else ROWS
    first_out = tile // row_tiles * OUT
    lane = tl.arange(0, ROWS)
    rows_of_w = tl.minimum(first_out + lane % OUT, O - 1) + lane // OUT * O  # gated: rows of the gate, then of up
    w_rows = w + rows_of_w.to(tl.int64) * stride_w
    if PREFETCH:
        prefetch(w_rows, part * SPLIT, I, CHUNKS, STEP, SPLIT)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row = tile % row_tiles * BUCKET + tl.arange(0, BUCKET)
    inside = row < R
    x_rows = x + row.to(tl.int64) * stride_x
    scale = None
    if norm is not None:
        scale = row_scales(lane_squares(x_rows[:, None], inside[:, None], I, 0, WIDTH // LANES, UPCAST), I, eps, BUCKET)
    sums = product(
        x_rows, None, inside, scale, norm, w_rows, part * SPLIT, I, I, ROWS, BUCKET, CHUNKS, STEP, SPLIT, WIDE, UPCAST
    )
    sums = add_chunks(sums, ROWS, BUCKET, SPLIT)
    column = first_out + tl.arange(0, OUT)
    at = out + row.to(tl.int64)[None, :] * stride_out + column[:, None]
    mask = inside[None, :] & (column < O)[:, None]
    if SPLIT == CHUNKS:
        _finish(sums, bias, rows_of_w, at, mask, ROWS, BUCKET, GATED, ADD, UPCAST)
    else:
        PARTS: tl.constexpr = CHUNKS // SPLIT
        own = (
            partial
            + tile.to(tl.int64) * (PARTS * ROWS * BUCKET)
            + (lane[:, None] * BUCKET + tl.arange(0, BUCKET)[None, :])
        )
        tl.store(own + part * (ROWS * BUCKET), sums, mask=inside[None, :])
        tl.debug_barrier()  # all of the program's stores are before its ticket
        if tl.atomic_add(ticket + tile, 1, sem="acq_rel") == PARTS - 1:
            tl.store(ticket + tile, 0)  # for the next launch
            sums = add_partials(own, inside[None, :], ROWS * BUCKET, PARTS)
            _finish(sums, bias, rows_of_w, at, mask, ROWS, BUCKET, GATED, ADD, UPCAST)


def linear(
    x_RI: Tensor,
    w_OI: Tensor,
    out_RO: Tensor,
    *,
    bias_O: Tensor | None = None,
    norm_I: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    add: bool = False,
    exact: bool = True,
) -> None:
    """out = x @ w.T (+ bias) with fp32 sums, normed before, gated and added after if asked; see `pspec_rt.ops.linear`.

    Args:
        x_RI: [R, in] bf16 or fp32, dense rows, any R.
        w_OI: [out, in] bf16 or fp32, dense rows; gated: [2 * out, in], the gate's rows first.
        out_RO: [R, out] written, with `add` also read; dtype of x or fp32, dense rows.
        bias_O: [rows of w] or None.
        norm_I: [in] weight of an RMS norm of x, dtype of x, or None; `eps` is its constant.
        gated, add: see `pspec_rt.ops.linear`.
        exact: False lets a library GEMM run where the table of plans says that it measured faster.

    Example:
        out = torch.empty(R, w.shape[0], dtype=x.dtype, device=x.device)
        linear(x, w, out)
    """
    (R, I), N = x_RI.shape, w_OI.shape[0]
    wide = torch.float32 in (x_RI.dtype, w_OI.dtype)
    plan = tiles.plan_of(N, I, wide, tiles.arch_of(x_RI.device))
    if not exact and plan.library_from is not None and R >= plan.library_from:
        library(x_RI, w_OI, out_RO, bias_O=bias_O, norm_I=norm_I, eps=eps, gated=gated, add=add)
        return
    if norm_I is not None and (R > NORM_ROWS or I > NORM_COLUMNS):
        normed_RI = scratch(x_RI.device, "linear_normed", R * I, x_RI.dtype)[: R * I].view(R, I)
        add_rms_norm(None, x_RI, norm_I, eps, normed_RI)
        x_RI, norm_I = normed_RI, None
    bucket, tile = plan.tile(R)
    most = R if tile.split == plan.order.chunks else LAUNCH_ROWS
    for start in range(0, R, max(most, 1)):
        rows = slice(start, start + most)
        _launch(x_RI[rows], w_OI, out_RO[rows], bias_O, norm_I, eps, gated, add, wide, plan.order, tile, bucket)


def _launch(
    x_RI: Tensor, w_OI: Tensor, out_RO: Tensor, bias_O: Tensor | None, norm_I: Tensor | None, eps: float,
    gated: bool, add: bool, wide: bool, order: tiles.Order, tile: tiles.Tile, bucket: int,
) -> None:  # fmt: skip
    (R, I), O = x_RI.shape, out_RO.shape[1]
    parts = order.chunks // tile.split
    blocks = triton.cdiv(O, tile.rows // 2 if gated else tile.rows) * triton.cdiv(R, bucket)
    partial = ticket = None
    if parts > 1:
        partial = scratch(x_RI.device, "linear_partial", blocks * parts * tile.rows * bucket, torch.float32)
        ticket = scratch(x_RI.device, "linear_ticket", blocks, torch.int32)
    up, launch = upcast(x_RI, w_OI, out_RO), launch_options(x_RI, fp_fusion=False)
    waits = launch["PDL"] or norm_I is not None  # before its loop: time in which weights can come from memory
    _linear_kernel[blocks, parts](
        x_RI, w_OI, bias_O, norm_I, out_RO, partial, ticket, R, O, x_RI.stride(0), w_OI.stride(0), out_RO.stride(0),
        eps, I=I, WIDTH=_width(I), BUCKET=bucket, ROWS=tile.rows, CHUNKS=order.chunks, STEP=order.step,
        SPLIT=tile.split, GATED=gated, ADD=add, WIDE=wide or up, UPCAST=up,
        PREFETCH=waits and not interpreting(), **launch, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def _width(I: int) -> int:
    return max(triton.next_power_of_2(I), LANES.value)


def specialization(
    N: int, K: int, bucket: int, arch: int, *, gated: bool = False, add: bool = False, norm: bool = False,
    bias: bool = False, dtype: str = "bf16", pdl: bool = False, plan: tiles.Plan | None = None,
) -> Specialization:  # fmt: skip
    wide = dtype == "fp32"
    plan = plan or tiles.plan_of(N, K, wide, arch)
    tile, parts = plan.tiles[bucket], plan.order.chunks // plan.tiles[bucket].split
    pointers = {name: f"*{dtype}" for name in ("x", "w", "out")}
    pointers |= {"bias": f"*{dtype}"} if bias else {}
    pointers |= {"norm": f"*{dtype}"} if norm else {}
    pointers |= {"partial": "*fp32", "ticket": "*i32"} if parts > 1 else {}
    strides = {name: "i32" for name in ("stride_x", "stride_w", "stride_out")}
    absent = {name: None for name in ("bias", "norm", "partial", "ticket") if name not in pointers}
    constants = {
        "I": K, "WIDTH": _width(K), "BUCKET": bucket, "ROWS": tile.rows, "CHUNKS": plan.order.chunks,
        "STEP": plan.order.step, "SPLIT": tile.split, "GATED": gated, "ADD": add, "WIDE": wide, "UPCAST": False,
        "PREFETCH": pdl or norm, "PDL": pdl,
    }  # fmt: skip
    words = [plan.order.unit, "gated" * gated, "add" * add, "norm" * norm, "bias" * bias, "pdl" * pdl]
    return Specialization(
        _linear_kernel,
        {**pointers, "R": "i32", "O": "i32", **strides, "eps": "fp32"},
        {**absent, **constants},
        num_warps=tile.warps,
        num_stages=tile.stages,
        divisible=(*pointers, "O", *strides),
        name="-".join([dtype, f"{N}x{K}", f"R{bucket}", f"sm{arch}", *filter(None, words)]),
        fp_fusion=False,
        min_arch=arch,
    )


def _specializations() -> Iterator[Specialization]:
    """Every bucket and option at the weights of an 8B model, and the narrow ones of a 135M model."""
    for arch, bucket in itertools.product((80, 90), tiles.BUCKETS):
        norm = bucket <= NORM_ROWS
        yield specialization(4096, 4096, bucket, arch, add=True)
        yield specialization(6144, 4096, bucket, arch, norm=norm, bias=True)
        yield specialization(28672, 4096, bucket, arch, gated=True, norm=norm)
        yield specialization(4096, 14336, bucket, arch, add=True, pdl=arch >= 90)
        yield specialization(576, 576, bucket, arch)
        yield specialization(4096, 4096, bucket, arch, plan=BLOCK_PLAN)
    for bucket in tiles.BUCKETS:
        yield specialization(28672, 4096, bucket, 80, gated=True, plan=BLOCK_PLAN)
        yield specialization(1152, 576, bucket, 80, gated=True, add=True, norm=bucket <= NORM_ROWS, dtype="fp32")


# Chunks of a block each, whose dots are wgmma on sm_90 and tcgen05 on sm_100.
BLOCK_PLAN = tiles.Plan(tiles.Order("block", 4, 64), dict.fromkeys(tiles.BUCKETS, tiles.Tile(64, 1, 4, 4)))
SPECIALIZATIONS = list(_specializations())
