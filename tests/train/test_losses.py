"""The fused head loss against log_softmax, and what rows are asked to predict."""

from __future__ import annotations

import pytest
import torch

from pspec_rt.train import losses
from pspec_rt.train.losses import Goal, goal, head_loss


@pytest.mark.parametrize("trained_head", [False, True])
def test_head_loss_is_cross_entropy_against_the_goal(trained_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK", 8)
    hidden = torch.randn(21, 16, requires_grad=True)
    head = torch.randn(30, 16, requires_grad=trained_head)
    aim = Goal(torch.stack([torch.randperm(30)[:5] for _ in range(21)]), torch.rand(21, 5))
    weight = torch.rand(21)
    logq = (hidden @ head.T).log_softmax(-1)
    expected = -(aim.p_RC * logq.gather(1, aim.index_RC)).sum(1)
    loss, rows = head_loss(hidden, head, aim, weight)
    torch.testing.assert_close(rows, expected.detach())
    torch.testing.assert_close(loss, (expected * weight).sum())
    wanted = (hidden, head) if trained_head else (hidden,)
    found = torch.autograd.grad(3 * loss, wanted)
    for own, theirs in zip(found, torch.autograd.grad(3 * (expected * weight).sum(), wanted), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)


def test_a_token_named_twice_counts_twice() -> None:
    hidden, head = torch.randn(1, 4, requires_grad=True), torch.randn(5, 4)
    once = head_loss(hidden, head, Goal(torch.tensor([[2, 0]]), torch.tensor([[1.0, 0.0]])), torch.ones(1))[0]
    twice = head_loss(hidden, head, Goal(torch.tensor([[2, 2]]), torch.tensor([[0.4, 0.6]])), torch.ones(1))[0]
    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(*(torch.autograd.grad(x, hidden)[0] for x in (once, twice)))


def test_goal_mixes_hard_and_soft_and_drops_what_is_outside_the_draft_vocabulary() -> None:
    labels, tops = torch.tensor([3, 4, -100]), torch.tensor([[3, 5], [5, 9], [3, 5]])
    logs = torch.tensor([[0.5, 0.25]] * 3).log()
    rows = torch.full((10,), -1)
    rows[torch.tensor([3, 5])] = torch.tensor([0, 1])
    aim = goal(labels, tops, logs, rows, hard=0.2)
    torch.testing.assert_close(aim.p_RC, torch.tensor([[0.2, 0.4, 0.2], [0.0, 0.4, 0.0], [0.0, 0.0, 0.0]]))
    assert aim.index_RC[0].tolist() == [0, 0, 1] and aim.index_RC[1, 1] == 1
    whole = goal(labels, tops, logs, None, hard=1.0)
    assert whole.p_RC.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]] and whole.index_RC[1, 0] == 4
