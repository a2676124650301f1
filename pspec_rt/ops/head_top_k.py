"""head_top_k: the best tokens of the output head, without writing a row of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantize import Weight
from ..ref.head_top_k import head_top_k as _ref
from ._dispatch import DTYPE_CODE, Op, expect_backend, expect_dtypes, expect_shape, native, ptr, triton_kernel

MAX_C = 16


def _cpu(
    x_RM: Tensor,
    w_DM: Weight,
    out_ids_RC: Tensor,
    out_scores_RC: Tensor | None,
    *,
    temperature_R: Tensor | None = None,
    noise_QV: Tensor | None = None,
    noise_row_R: Tensor | None = None,
    id_map_D: Tensor | None = None,
) -> None:
    (R, M), D, C = x_RM.shape, w_DM.shape[0], out_ids_RC.shape[1]
    V = D if noise_QV is None else noise_QV.shape[1]
    optional = (temperature_R, noise_QV, noise_row_R, id_map_D)
    native.head_top_k(
        ptr(x_RM), ptr(w_DM), ptr(out_ids_RC), ptr(out_scores_RC), *map(ptr, optional),
        R, M, D, V, C, DTYPE_CODE[x_RM.dtype], DTYPE_CODE[w_DM.dtype],
    )  # fmt: skip


_op = Op("head_top_k", ref=_ref, cpu=_cpu, triton=triton_kernel("head_top_k"))


def head_top_k(
    x_RM: Tensor,
    w_DM: Weight,
    out_ids_RC: Tensor,
    out_scores_RC: Tensor | None,
    *,
    temperature_R: Tensor | None = None,
    noise_QV: Tensor | None = None,
    noise_row_R: Tensor | None = None,
    id_map_D: Tensor | None = None,
) -> None:
    """ids of the C largest values of a row, descending, the lowest id first among equals.

    logit_v = x . w_v in fp32, the bits `linear` gives. value_v = logit_v, or logit_v / T +
    noise[noise_row[r], id_v] where the row's temperature T is above 0; id_v = id_map[v], or v. C =
    1 with noise is the seeded argmax. A value of NaN counts as -inf, and an id of -1 stands where only
    such values are left.

    Args:
        x_RM: [R, M] model dtype.
        w_DM: [D, M] head, of the whole vocabulary or a reduced one, also as an `Int8Weight`.
        out_ids_RC: [R, C] int32 written, C <= 16.
        out_scores_RC: [R, C] fp32 written: value - logsumexp of the row's values; or None.
        temperature_R: [R] fp32; None means all 0. Needs noise_QV and noise_row_R.
        noise_QV: [Q, V] fp32 Gumbel noise, V the whole vocabulary.
        noise_row_R: [R] int32 row of noise_QV.
        id_map_D: [D] int32 ascending token ids of a reduced vocabulary.
    """
    (R, M), (D, C) = x_RM.shape, (w_DM.shape[0], out_ids_RC.shape[1])
    expect_shape("w_DM", w_DM, D, M)
    expect_backend(_op, "w_DM", w_DM)
    expect_shape("out_ids_RC", out_ids_RC, R, C)
    if not 1 <= C <= min(MAX_C, D):
        raise ValueError(f"out_ids_RC: C must be in 1..{min(MAX_C, D)}, got {C}")
    if out_scores_RC is not None:
        expect_shape("out_scores_RC", out_scores_RC, R, C)
    sampling = (temperature_R, noise_QV, noise_row_R)
    if any(x is None for x in sampling) and any(x is not None for x in sampling):
        raise ValueError("temperature_R, noise_QV and noise_row_R go together: give all or none")
    expect_dtypes(torch.int32, out_ids_RC=out_ids_RC, noise_row_R=noise_row_R, id_map_D=id_map_D)
    expect_dtypes(torch.float32, out_scores_RC=out_scores_RC, temperature_R=temperature_R, noise_QV=noise_QV)
    noise = {"temperature_R": temperature_R, "noise_QV": noise_QV, "noise_row_R": noise_row_R}
    _op(x_RM.device)(x_RM, w_DM, out_ids_RC, out_scores_RC, **noise, id_map_D=id_map_D)
