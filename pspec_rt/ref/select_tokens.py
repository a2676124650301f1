"""select_tokens in plain PyTorch: filter, add noise, argmax; and raw log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .head_top_k import top_lowest_index


def select_tokens(
    logits_RV: Tensor,
    out_ids_R: Tensor,
    *,
    temperature_R: Tensor,
    top_k_R: Tensor,
    top_p_R: Tensor,
    min_p_R: Tensor,
    noise_QV: Tensor,
    noise_row_R: Tensor,
    out_logprob_R: Tensor | None = None,
    out_top_ids_RT: Tensor | None = None,
    out_top_logprobs_RT: Tensor | None = None,
) -> None:
    """argmax over the kept tokens of logit / T + noise; see `pspec_rt.ops.select_tokens`."""
    lowest = float("-inf")
    logits_RV = torch.where(logits_RV.isnan(), lowest, logits_RV)
    sampled_R1 = (temperature_R > 0)[:, None]
    z_RV = logits_RV / torch.where(sampled_R1, temperature_R[:, None], 1.0)
    kept_RV = _keep(z_RV, top_k_R[:, None], top_p_R[:, None], min_p_R[:, None])
    noisy_RV = torch.where(kept_RV, z_RV + noise_QV.index_select(0, noise_row_R), lowest)
    best_R, id_R = torch.where(sampled_R1, noisy_RV, logits_RV).max(dim=1)
    out_ids_R.copy_(torch.where(best_R > lowest, id_R, -1))
    if out_logprob_R is None and out_top_ids_RT is None:
        return
    logprob_RV = torch.log_softmax(logits_RV, dim=1)
    logprob_RV = torch.where(logprob_RV.isnan(), lowest, logprob_RV)  # a row of nothing but NaN
    if out_logprob_R is not None:
        out_logprob_R.copy_(logprob_RV.gather(1, id_R[:, None])[:, 0])
    if out_top_ids_RT is not None and out_top_logprobs_RT is not None:
        # Ranked by logit: log_softmax may round two logits to one value.
        top_RT, top_id_RT = top_lowest_index(logits_RV, out_top_ids_RT.shape[1])
        out_top_ids_RT.copy_(torch.where(top_RT > lowest, top_id_RT, -1))
        out_top_logprobs_RT.copy_(logprob_RV.gather(1, top_id_RT))


def _keep(z_RV: Tensor, top_k_R1: Tensor, top_p_R1: Tensor, min_p_R1: Tensor) -> Tensor:
    """kept_RV: what top_k, then top_p, then min_p keep; ranked by z descending, id ascending."""
    V = z_RV.shape[1]
    ranked_RV, id_RV = torch.sort(z_RV, dim=1, descending=True, stable=True)
    last_rank_R1 = torch.where(top_k_R1 > 0, top_k_R1, V).clamp(max=V).long() - 1
    kept_RV = ranked_RV >= ranked_RV.gather(1, last_rank_R1)  # equals of the k-th stay
    p_RV = torch.softmax(torch.where(kept_RV, ranked_RV, float("-inf")), dim=1)
    before_RV = F.pad(p_RV.cumsum(dim=1)[:, :-1], (1, 0))  # probability of the tokens ranked before
    kept_RV &= (before_RV < top_p_R1) | (top_p_R1 >= 1)
    kept_RV &= p_RV >= min_p_R1 * p_RV[:, :1]
    return torch.zeros_like(kept_RV).scatter_(1, id_RV, kept_RV)
