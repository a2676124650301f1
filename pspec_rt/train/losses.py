"""Losses against the target: cross-entropy and KL to its truncated distribution, fused with the output head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 512  # rows whose logits are held at once
TINY = 1e-30


@dataclass(frozen=True)
class Goal:
    """What rows should predict: sparse distributions over the draft vocabulary.

    `index_RC` are rows of the head (any where `p_RC` is 0); the masses of a row need not sum to 1: what lies outside
    the draft vocabulary or below the kept tokens is left out, so such a row counts less.
    """

    index_RC: Tensor  # int64
    p_RC: Tensor  # fp32


def goal(
    labels_R: Tensor, top_ids_RC: Tensor, top_logprobs_RC: Tensor, draft_row_V: Tensor | None, hard: float
) -> Goal:
    """`hard` parts the token that came (cross-entropy), the rest the target's best tokens (KL up to a constant).

    Args:
        labels_R: token ids, below 0 where a label is missing: such a row has no goal.
        draft_row_V: head row of every token id, -1 for those that cannot be drafted; None: the ids are the rows.
    """
    ids = torch.cat([labels_R[:, None], top_ids_RC], dim=1)
    p = torch.cat(
        [torch.full_like(labels_R, hard, dtype=torch.float32)[:, None], top_logprobs_RC.exp() * (1 - hard)], 1
    )
    present = (labels_R >= 0)[:, None] & (ids >= 0)
    index = ids.clamp(min=0) if draft_row_V is None else draft_row_V[ids.clamp(min=0)]
    return Goal(index.clamp(min=0), torch.where(present & (index >= 0), p, 0.0))


def head_loss(hidden_RM: Tensor, head_DM: Tensor, aim: Goal, weight_R: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over rows of weight * sum_c p_c * -log q(index_c), q the softmax of the head's logits; and each row's part.

    The gradients of the rows, and of the head if it wants one, come out of the forward pass, chunk by chunk: logits are
    never held for all rows.
    """
    loss, rows = _HeadLoss.apply(hidden_RM, head_DM, aim, weight_R)
    return loss, rows


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_RM: Tensor, head_DM: Tensor, aim: Goal, weight_R: Tensor) -> tuple[Tensor, Tensor]:
        R, weight_DM = len(hidden_RM), head_DM.to(hidden_RM.dtype)
        grad_RM = torch.empty_like(hidden_RM)
        grad_DM = torch.zeros_like(head_DM, dtype=torch.float32) if head_DM.requires_grad else None
        loss_R = torch.empty(R, device=hidden_RM.device)
        for start in range(0, R, CHUNK):
            part = slice(start, start + CHUNK)
            index, p, weight = aim.index_RC[part], aim.p_RC[part], weight_R[part, None]
            mass = p.sum(1, keepdim=True)
            logits = F.linear(hidden_RM[part], weight_DM)
            wanted = logits.gather(1, index).float()
            q = logits.softmax(-1)
            # The probability of one token gives the log-sum-exp of the row without another pass over its logits.
            best, at = wanted.max(1, keepdim=True)
            q_there = q.gather(1, index).float()
            lse = best - q_there.gather(1, at).clamp(min=TINY).log()
            loss_R[part] = (p * (lse - wanted)).sum(1)
            # Gradient of a row's logits: weight * mass * (q - p / mass). The factor is applied to the product instead.
            together = (_together(index, p) / mass.clamp(min=TINY)).float()
            first = torch.arange(len(q), device=q.device)[:, None] * q.shape[1]
            q.put_(first + index, (q_there - together).to(q.dtype))  # scatter_ would copy q in bf16
            factor = weight * mass
            grad_RM[part] = torch.mm(q, weight_DM) * factor.to(q.dtype)
            if grad_DM is not None:
                grad_DM += (q.T @ (hidden_RM[part] * factor.to(q.dtype))).float()
        ctx.save_for_backward(grad_RM, grad_DM)
        ctx.mark_non_differentiable(loss_R)
        return (loss_R * weight_R).sum(), loss_R

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        grad_RM, grad_DM = ctx.saved_tensors
        return grad_RM * grad.to(grad_RM.dtype), None if grad_DM is None else grad_DM * grad, None, None


def _together(index_RC: Tensor, p_RC: Tensor) -> Tensor:
    """[R, C] at every place the whole p of its index: an index may stand in several columns."""
    same_RCC = index_RC[:, :, None] == index_RC[:, None, :]
    return (same_RCC * p_RC[:, None, :]).sum(2)
