"""head_top_k in plain PyTorch: the best tokens of the output head, with or without noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantize import Weight
from ._index import arange
from .linear import linear


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
    """ids and scores of the C largest values logit / T + noise; see `pspec_rt.ops.head_top_k`."""
    value_RD = torch.empty(x_RM.shape[0], w_DM.shape[0], device=x_RM.device)
    linear(x_RM, w_DM, value_RD)
    if temperature_R is not None and noise_QV is not None and noise_row_R is not None:
        noise_RD = noise_QV.index_select(0, noise_row_R)
        if id_map_D is not None:
            noise_RD = noise_RD.index_select(1, id_map_D)
        sampled_R1 = (temperature_R > 0)[:, None]
        divisor_R1 = torch.where(sampled_R1, temperature_R[:, None], 1.0)
        value_RD = torch.where(sampled_R1, value_RD / divisor_R1 + noise_RD, value_RD)
    value_RD = torch.where(value_RD.isnan(), float("-inf"), value_RD)
    best_RC, index_RC = top_lowest_index(value_RD, out_ids_RC.shape[1])
    id_RC = index_RC if id_map_D is None else id_map_D[index_RC]
    out_ids_RC.copy_(torch.where(best_RC > float("-inf"), id_RC, -1))
    if out_scores_RC is not None:
        torch.sub(best_RC, value_RD.logsumexp(dim=1, keepdim=True), out=out_scores_RC)


def top_lowest_index(value_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """values and int64 indices [R, count] of the largest values, descending, the lowest index first
    among equals.

    torch.topk leaves the order of equals open, so it gets keys without equals: the float's bits,
    made monotone as a signed integer, above the index counted down. (+ 0.0 turns -0.0 into 0.0.)
    """
    V = value_RV.shape[1]
    bits_RV = (value_RV + 0.0).view(torch.int32).long()
    ordered_RV = torch.where(bits_RV < 0, bits_RV ^ 0x7FFFFFFF, bits_RV)
    key_RV = (ordered_RV << 32) | (V - 1 - arange(V, value_RV.device))
    index_RC = key_RV.topk(count, dim=1).indices
    return value_RV.gather(1, index_RC), index_RC
