"""draft_inputs in Triton: embedding and feature joined while they are read, the fc GEMM, and the mask rows, at once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import _linear_tiles as tiles
from ._common import Specialization, device_function, launch_options, narrow, upcast, widen
from ._product import prefetch, whole_product


@device_function
def _store_masks(anchor, mask_inputs, out, slot, inside, column, P, J, M, UPCAST: tl.constexpr):
    """Rows P .. P+J-1 of the slots: the mask inputs, plus `anchor` [ROWS, BUCKET] fp32 unless it is None."""
    dtype: tl.constexpr = out.dtype.element_ty
    valid = inside[None, :] & (column < M)[:, None]
    for j in range(J):
        value = tl.load(mask_inputs + j * M + column, mask=column < M, other=0.0)[:, None]
        if anchor is not None:
            value = narrow(widen(value, UPCAST) + widen(narrow(anchor, dtype, UPCAST), UPCAST), dtype, UPCAST)
        at = out + (slot.to(tl.int64) * (P + J) + P + j)[None, :] * M + column[:, None]
        tl.store(at, tl.broadcast_to(value, valid.shape), mask=valid)


@triton.jit(do_not_specialize=["B", "P", "J"])
def _draft_inputs_kernel(
    ids, features, count, mask_inputs, fc, out, table, bias, anchor_map, B, P, J, M,
    F: tl.constexpr, E: tl.constexpr, BUCKET: tl.constexpr, ROWS: tl.constexpr,
    CHUNKS: tl.constexpr, STEP: tl.constexpr, SPLIT: tl.constexpr,
    WIDE: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (tile of fc's rows; tile of the B * P token rows, or after those, of the B slots' mask rows)."""
    W: tl.constexpr = E + F
    dtype: tl.constexpr = out.dtype.element_ty
    column = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token_tiles = tl.cdiv(B * P, BUCKET)
    masks = tl.program_id(1) >= token_tiles
    weight = fc
    if anchor_map is not None:
        weight = tl.where(masks, anchor_map, fc)
    w_rows = weight + tl.minimum(column, M - 1).to(tl.int64) * W
    if PDL:
        prefetch(w_rows, 0, W, CHUNKS, STEP, SPLIT)
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    index = (tl.program_id(1) - tl.where(masks, token_tiles, 0)) * BUCKET + tl.arange(0, BUCKET)
    inside = index < tl.where(masks, B, B * P)
    if anchor_map is None and masks:
        _store_masks(None, mask_inputs, out, index, inside, column, P, J, M, UPCAST)
    else:
        anchor = tl.maximum(tl.load(count + tl.where(masks, index, 0), mask=inside, other=0) - 1, 0)
        row = tl.where(masks, index * P + anchor, index).to(tl.int64)  # an anchor is its slot's newest token row
        x_rows, tail = features + row * F, None
        if table is not None:
            token = tl.maximum(tl.load(ids + row, mask=inside, other=0), 0).to(tl.int64)
            x_rows, tail = table + token * E, x_rows - E
        sums = whole_product(
            x_rows, tail, inside, None, None, w_rows, 0, CHUNKS // SPLIT,
            W, E, ROWS, BUCKET, CHUNKS, STEP, SPLIT, WIDE, UPCAST,
        )  # fmt: skip
        if masks:
            _store_masks(sums, mask_inputs, out, index, inside, column, P, J, M, UPCAST)
        else:
            if bias is not None:
                sums += widen(tl.load(bias + column, mask=column < M, other=0.0), UPCAST)[:, None]
            at = out + (row // P * (P + J) + row % P)[None, :] * M + column[:, None]
            tl.store(at, narrow(sums, dtype, UPCAST), mask=inside[None, :] & (column < M)[:, None])


def draft_inputs(
    ids_BP: Tensor,
    features_BPF: Tensor,
    count_B: Tensor,
    mask_inputs_JM: Tensor,
    fc_MW: Tensor,
    out_BNM: Tensor,
    *,
    table_VM: Tensor | None = None,
    bias_M: Tensor | None = None,
    anchor_map_MW: Tensor | None = None,
) -> None:
    """Token rows fc([embed(id) ; feature]) and mask rows of a parallel drafter; see `pspec_rt.ops.draft_inputs`.

    The joined rows are never written, and a token row has the bits of `linear` over its joined row. All contiguous.

    Args:
        ids_BP: [B, P] int32, -1 padded.
        features_BPF: [B, P, F] bf16 or fp32, as are all that follow but count.
        count_B: [B] int32, accepted rows of each slot.
        mask_inputs_JM: [J, M] inputs of the mask rows; J may be 0.
        fc_MW: [M, W], W = E + F with a table, else F.
        out_BNM: [B, P+J, M] written.
        table_VM: [V, E] token embeddings, or None: the joined input is the feature alone.
        bias_M: [M] or None.
        anchor_map_MW: [M, W] or None: mask rows get its product with the joined row count-1 added.

    Example:
        out = torch.empty(B, P + J, M, dtype=features.dtype, device=features.device)
        draft_inputs(ids, features, count, mask_inputs, fc, out, table_VM=embedding)
    """
    (B, P, F), (J, M) = features_BPF.shape, mask_inputs_JM.shape
    W, up = fc_MW.shape[1], upcast(out_BNM)
    wide = out_BNM.itemsize == 4
    arch = tiles.arch_of(out_BNM.device)
    plan, bucket = tiles.plan_of(M, W, wide, arch), tiles.bucket_of(B * P)
    tile = tiles.whole(plan, bucket, arch, M)
    blocks = triton.cdiv(M, tile.rows), triton.cdiv(B * P, bucket) + (triton.cdiv(B, bucket) if J else 0)
    _draft_inputs_kernel[blocks](
        ids_BP, features_BPF, count_B, mask_inputs_JM, fc_MW, out_BNM, table_VM, bias_M, anchor_map_MW, B, P, J, M,
        F=F, E=W - F, BUCKET=bucket, ROWS=tile.rows, CHUNKS=plan.order.chunks, STEP=plan.order.step, SPLIT=tile.split,
        WIDE=wide or up, UPCAST=up, **launch_options(out_BNM, fp_fusion=False),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def _specialization(
    M: int, F: int, bucket: int, arch: int, *, table: bool = True, anchor: bool = False, bias: bool = False,
    dtype: str = "bf16", pdl: bool = False,
) -> Specialization:  # fmt: skip
    W, wide = F + M * table, dtype == "fp32"
    plan = tiles.plan_of(M, W, wide, arch)
    tile = tiles.whole(plan, bucket, arch, M)
    pointers = {"ids": "*i32", "count": "*i32"}
    pointers |= {name: f"*{dtype}" for name in ("features", "mask_inputs", "fc", "out")}
    optional = {"table": table, "bias": bias, "anchor_map": anchor}
    pointers |= {name: f"*{dtype}" for name, given in optional.items() if given}
    constants = {
        "F": F, "E": W - F, "BUCKET": bucket, "ROWS": tile.rows, "CHUNKS": plan.order.chunks, "STEP": plan.order.step,
        "SPLIT": tile.split, "WIDE": wide, "UPCAST": False, "PDL": pdl,
    }  # fmt: skip
    words = [dtype, f"{W}to{M}", f"R{bucket}", f"sm{arch}", "anchor" * anchor, "bias" * bias, "pdl" * pdl]
    return Specialization(
        _draft_inputs_kernel,
        {**pointers, "B": "i32", "P": "i32", "J": "i32", "M": "i32"},
        {**{name: None for name, given in optional.items() if not given}, **constants},
        num_warps=tile.warps,
        num_stages=tile.stages,
        divisible=(*pointers, "M"),
        name="-".join(filter(None, words)),
        fp_fusion=False,
        min_arch=arch,
    )


SPECIALIZATIONS = [
    _specialization(4096, 4096, 16, 80, anchor=True),
    _specialization(4096, 4096, 16, 90, anchor=True, pdl=True),
    _specialization(4096, 12288, 16, 90, bias=True),
    _specialization(4096, 12288, 32, 90),
    _specialization(4096, 4096, 64, 90),
    _specialization(4096, 4096, 16, 90, table=False, bias=True),
    _specialization(576, 576, 16, 80, anchor=True),
    _specialization(576, 1728, 32, 80, anchor=True, bias=True, dtype="fp32"),
]
