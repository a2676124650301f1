"""select_tokens: the seeded argmax over filtered logits, and log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.select_tokens import select_tokens as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native, ptr, triton_kernel


def _cpu(
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
    inputs = (temperature_R, top_k_R, top_p_R, min_p_R, noise_QV, noise_row_R)
    outputs = (out_logprob_R, out_top_ids_RT, out_top_logprobs_RT)
    top = 0 if out_top_ids_RT is None else out_top_ids_RT.shape[1]
    native.select_tokens(*map(ptr, (logits_RV, out_ids_R, *inputs, *outputs)), *logits_RV.shape, top)


_op = Op("select_tokens", ref=_ref, cpu=_cpu, triton=triton_kernel("select_tokens"))


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
    """out_id = argmax over the kept tokens of z + noise, z = logits / T; lowest id on ties. T = 0:
    argmax of the logits.

    Kept, in this order: top_k, the tokens with z >= the k-th largest z; top_p, those whose
    predecessors' summed probability is < top_p, ranked by z descending then id ascending,
    probabilities a softmax over what top_k kept; min_p, those with p >= min_p * max p. With Gumbel
    noise this is an exact draw from softmax(filter(z)). A logit of NaN counts as -inf, and an id of -1,
    log-probability -inf, stands where only such logits are left.

    Args:
        logits_RV: [R, V] fp32.
        out_ids_R: [R] int32 written.
        temperature_R: [R] fp32.
        top_k_R: [R] int32, <= 0 is off.
        top_p_R: [R] fp32 > 0, >= 1 is off.
        min_p_R: [R] fp32, 0 is off.
        noise_QV: [Q, V] fp32 Gumbel noise.
        noise_row_R: [R] int32 row of noise_QV.
        out_logprob_R: [R] fp32 written: log_softmax of the raw logits (T = 1, no filter) at the
            chosen token; or None.
        out_top_ids_RT, out_top_logprobs_RT: [R, T'] int32 and fp32 written: the T' largest of the
            raw logits, lowest id first among equals, with their log_softmax; both or neither.
    """
    R, V = logits_RV.shape
    expect_shape("out_ids_R", out_ids_R, R)
    expect_shape("noise_QV", noise_QV, noise_QV.shape[0], V)
    if (out_top_ids_RT is None) != (out_top_logprobs_RT is None):
        raise ValueError("out_top_ids_RT and out_top_logprobs_RT go together: give both or neither")
    ints = {"out_ids_R": out_ids_R, "top_k_R": top_k_R, "noise_row_R": noise_row_R}
    expect_dtypes(torch.int32, **ints, out_top_ids_RT=out_top_ids_RT)
    floats = {"logits_RV": logits_RV, "temperature_R": temperature_R, "top_p_R": top_p_R}
    expect_dtypes(torch.float32, **floats, min_p_R=min_p_R, noise_QV=noise_QV)
    outputs = {"out_logprob_R": out_logprob_R, "out_top_logprobs_RT": out_top_logprobs_RT}
    expect_dtypes(torch.float32, **outputs)
    _op(logits_RV.device)(
        logits_RV, out_ids_R,
        temperature_R=temperature_R, top_k_R=top_k_R, top_p_R=top_p_R, min_p_R=min_p_R,
        noise_QV=noise_QV, noise_row_R=noise_row_R, out_logprob_R=out_logprob_R,
        out_top_ids_RT=out_top_ids_RT, out_top_logprobs_RT=out_top_logprobs_RT,
    )  # fmt: skip
