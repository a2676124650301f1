"""The fast ways of attending over grouped rows against the explicit mask of the same rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt.train import attention
from pspec_rt.train.attention import FlexGroups, MaskedAttention, PackedAttention
from pspec_rt.train.groups import Layout, kept_depths, lay_out

LENGTHS = [37, 1, 90]


def layout(masks: int, keep: float) -> Layout:
    return lay_out(LENGTHS, kept_depths(sum(LENGTHS), masks, keep, 0.1, torch.Generator().manual_seed(0)))


def rows(plan: Layout, H: int, G: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    R = len(plan.rows.depth)
    q, k, v = (torch.randn(R, heads, 16).to(dtype).requires_grad_() for heads in (H, G, G))
    return q, k, v


@pytest.mark.parametrize("H, G", [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("masks, keep", [(0, 1.0), (1, 1.0), (3, 0.6), (7, 1.0)])
def test_packed_attention_is_the_rule(masks: int, keep: float, H: int, G: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CHUNK", 16)
    plan = layout(masks, keep)
    q, k, v = rows(plan, H, G)
    grad = torch.randn(q.shape)
    expected, found = MaskedAttention(plan)(q, k, v), PackedAttention(plan, H // G, torch.float32)(q, k, v)
    torch.testing.assert_close(found, expected)
    for own, theirs in zip(
        torch.autograd.grad(found, (q, k, v), grad), torch.autograd.grad(expected, (q, k, v), grad), strict=True
    ):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)


def test_packed_attention_in_bf16() -> None:
    plan = layout(3, 0.7)
    q, k, v = rows(plan, 6, 2, torch.bfloat16)
    grad = torch.randn(q.shape)
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    expected = torch.autograd.grad(MaskedAttention(plan)(*exact), exact, grad)
    found = torch.autograd.grad(PackedAttention(plan, 3, torch.bfloat16)(q, k, v), (q, k, v), grad.bfloat16())
    for own, theirs in zip(found, expected, strict=True):
        assert (own.float() - theirs).norm() < 0.02 * theirs.norm()


def test_block_mask_of_flex_attention_is_the_rule() -> None:
    plan = layout(3, 0.7)
    q, k, v = (x.detach() for x in rows(plan, 6, 2))
    torch.testing.assert_close(FlexGroups(plan, compiled=False)(q, k, v), MaskedAttention(plan)(q, k, v))


def test_a_mask_row_is_blind_to_other_groups_and_to_what_follows_its_anchor() -> None:
    plan = layout(2, 1.0)
    q, k, v = rows(plan, 2, 1)
    attend = PackedAttention(plan, 2, torch.float32)
    row = int(((plan.rows.text == 2) & (plan.rows.anchor == 40) & (plan.rows.depth == 2)).nonzero())
    grads = torch.autograd.grad(attend(q, k, v)[row].sum(), (k, v))
    fields = plan.rows
    own = (fields.text == 2) & (
        ((fields.depth == 0) & (fields.anchor <= 40)) | ((fields.depth > 0) & (fields.anchor == 40))
    )
    for grad in grads:
        assert torch.equal(grad.abs().sum((1, 2)) > 0, own)
