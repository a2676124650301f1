"""draft_forward: the whole pass of a feature drafter of one layer, from tokens and features to candidates."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from .. import env
from ..ref.draft_forward import DraftHead
from ..ref.draft_forward import draft_forward as _ref
from ..scratch import scratch
from ._dispatch import Op, cache_strides, cuda_stream, expect_dtypes, expect_shape, native, ptr

__all__ = ["DraftHead", "draft_forward", "draft_forward_misfit"]
MAX_ROWS, MAX_C = 64, 16
LEAST_SHARED = 166_912  # bytes, as sm_80 has


def _cuda(
    head: DraftHead,
    ids_BP: Tensor,
    features_BPF: Tensor,
    mask_inputs_JM: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    words_BN: Tensor,
    take_BK: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    out_ids_RC: Tensor,
    out_scores_RC: Tensor,
    *,
    temperature_R: Tensor | None = None,
    noise_QV: Tensor | None = None,
    noise_row_R: Tensor | None = None,
    id_map_D: Tensor | None = None,
) -> None:
    (B, P, F), (J, M), (_, G, S, E) = features_BPF.shape, mask_inputs_JM.shape, k_BGSE.shape
    D, I, C = head.head_DM.shape[0], head.down_MI.shape[1], out_ids_RC.shape[1]
    V, Z = (1, 0) if head.table_VZ is None else head.table_VZ.shape
    rows = (ids_BP, features_BPF, mask_inputs_JM, positions_BN, prefix_B, words_BN, take_BK)
    weights = (getattr(head, field.name) for field in fields(head) if field.name != "eps")
    sampling = (temperature_R, noise_QV, noise_row_R, id_map_D)
    noise_V = D if noise_QV is None else noise_QV.shape[1]
    addresses = [*map(ptr, (*rows, *weights)), k_BGSE.data_ptr(), v_BGSE.data_ptr()]
    addresses += map(ptr, (out_ids_RC, out_scores_RC, *sampling))
    sizes = [B, P, J, take_BK.shape[1], F, Z, V, noise_V, M, head.o_MO.shape[1] // E, G, E, S, I, D, C]
    sizes += [head.cos_SE.shape[0], *cache_strides(k_BGSE, v_BGSE)]
    work = scratch(ids_BP.device, "draft_forward", native.cuda_draft_forward_bytes(sizes), torch.uint8)
    native.cuda_draft_forward([*addresses, ptr(work)], sizes, head.eps, E**-0.5, env.pdl(), cuda_stream())


def _block_memory(device: torch.device) -> int:
    """Bytes of shared memory that a block of this GPU may have."""
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]


_op = Op("draft_forward", ref=_ref, cuda=_cuda)


def draft_forward_misfit(
    head: DraftHead, B: int, N: int, C: int, k_BGSE: Tensor, device_type: str = "cuda"
) -> str | None:
    """Why one launch cannot run this drafter here, None if it can; then the pass runs op by op."""
    tables = ("cos_SE", "sin_SE", "eps")
    weights = [getattr(head, field.name) for field in fields(head) if field.name not in tables]
    E, widths = k_BGSE.shape[3], (*head.fc_MW.shape, head.down_MI.shape[1])
    table_width = 8 if head.table_VZ is None else head.table_VZ.shape[1]
    if _op.backend(device_type) != "cuda":
        return f"op draft_forward runs on backend {_op.backend(device_type)}"
    if any(x is not None and x.dtype is not torch.bfloat16 for x in (*weights, k_BGSE)):
        return "its weights are not bf16"
    if E not in (64, 128) or any(width % 8 for width in (*widths, table_width)):
        return f"its sizes: heads of {E} (64 or 128 are possible), widths {widths} (multiples of 8)"
    if k_BGSE.is_cuda and _block_memory(k_BGSE.device) < LEAST_SHARED:
        return f"its GPU gives a block {_block_memory(k_BGSE.device)} bytes of shared memory, not {LEAST_SHARED}"
    if B * N > MAX_ROWS or C > MAX_C:
        return f"{B} slots with {N} rows and {C} candidates each: at most {MAX_ROWS} rows, {MAX_C} candidates"
    return None


def draft_forward(
    head: DraftHead,
    ids_BP: Tensor,
    features_BPF: Tensor,
    mask_inputs_JM: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    words_BN: Tensor,
    take_BK: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    out_ids_RC: Tensor,
    out_scores_RC: Tensor,
    *,
    temperature_R: Tensor | None = None,
    noise_QV: Tensor | None = None,
    noise_row_R: Tensor | None = None,
    id_map_D: Tensor | None = None,
) -> None:
    """draft_inputs, one decoder layer over the drafter's cache, the final norm and head_top_k of the rows in `take_BK`.

    The arithmetic is a drafter's: any order of sums, the same in every run. On CUDA it is one launch whose blocks wait
    for each other, so two may not run at the same time on a GPU, and sizes must fit (`draft_forward_misfit`).

    Args:
        head: the weights.
        ids_BP: [B, P] int32 tokens, -1 padded.
        features_BPF: [B, P, F] model dtype.
        mask_inputs_JM: [J, M] inputs of the mask rows, N = P + J.
        positions_BN, prefix_B, words_BN: as in `rope_append` and `tree_attention`.
        take_BK: [B, K] int32 rows of the slot that predict.
        k_BGSE, v_BGSE: the layer's cache; rows prefix .. prefix+N-1 are written.
        out_ids_RC, out_scores_RC: [B*K, C] int32 and fp32 written, as in `head_top_k`; so are the other arguments.
    """
    (B, P), (J, M), (D, C) = ids_BP.shape, mask_inputs_JM.shape, (head.head_DM.shape[0], out_ids_RC.shape[1])
    R = B * take_BK.shape[1]
    for name, tensor in (("positions_BN", positions_BN), ("words_BN", words_BN)):
        expect_shape(name, tensor, B, P + J)
    expect_shape("prefix_B", prefix_B, B)
    width = features_BPF.shape[2] + (0 if head.table_VZ is None else head.table_VZ.shape[1])
    expect_shape("head.fc_MW", head.fc_MW, M, width)
    expect_shape("out_ids_RC", out_ids_RC, R, C)
    expect_shape("out_scores_RC", out_scores_RC, R, C)
    if not 1 <= C <= min(MAX_C, D):
        raise ValueError(f"out_ids_RC: C must be in 1..{min(MAX_C, D)}, got {C}")
    expect_dtypes(torch.int32, ids_BP=ids_BP, positions_BN=positions_BN, prefix_B=prefix_B, take_BK=take_BK)
    expect_dtypes(torch.int32, out_ids_RC=out_ids_RC, noise_row_R=noise_row_R, id_map_D=id_map_D)
    expect_dtypes(head.fc_MW.dtype, features_BPF=features_BPF, mask_inputs_JM=mask_inputs_JM, k_BGSE=k_BGSE)
    expect_dtypes(torch.float32, out_scores_RC=out_scores_RC, temperature_R=temperature_R, noise_QV=noise_QV)
    expect_dtypes(torch.int64, words_BN=words_BN)
    _op(ids_BP.device)(
        head, ids_BP, features_BPF, mask_inputs_JM, positions_BN, prefix_B, words_BN, take_BK, k_BGSE, v_BGSE,
        out_ids_RC, out_scores_RC, temperature_R=temperature_R, noise_QV=noise_QV, noise_row_R=noise_row_R,
        id_map_D=id_map_D,
    )  # fmt: skip
