"""A feature drafter as one launch: the op gets what the pass op by op gets, and a log line names the way taken."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pspec_rt.drafters import fused
from pspec_rt.tree import TreeSpec
from tests.drafter_fixtures import Replay
from tests.test_drafters_feature import ROUNDS, check_all, make, make_texts

TREE = TreeSpec.best_first(4, 12, candidates=6)


@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize("variant", ["eagle", "eagle-narrow", "eagle-reduced", "medusa"])
def test_one_launch_equals_the_straight_line(
    tmp_path: Path, variant: str, sampling: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With draft_forward's definition in the kernel's place, which runs on any sizes."""
    monkeypatch.setattr(fused, "draft_forward_misfit", lambda *_: None)
    caplog.set_level(logging.INFO, "pspec_rt")
    drafter, raw, tensors = make(tmp_path, variant)
    replay = Replay(drafter, make_texts(drafter), TREE)
    assert replay.state.drafter.head is not None and "draft pass: one launch" in caplog.text
    if sampling:
        replay.sample((0.0, 0.7, 1.3))
    for counts in ROUNDS:
        replay.accept(counts)
        replay.draft()
        check_all(replay, raw, tensors)


@pytest.mark.parametrize(
    "variant, why", [("eagle-all", "it has 2 layers"), ("medusa-narrow", "it has residual blocks")]
)
def test_what_goes_op_by_op(
    tmp_path: Path, variant: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fused, "draft_forward_misfit", lambda *_: None)
    caplog.set_level(logging.INFO, "pspec_rt")
    drafter, _, _ = make(tmp_path, variant)
    replay = Replay(drafter, make_texts(drafter), TREE)
    assert replay.state.drafter.head is None and f"draft pass: op by op ({why}" in caplog.text


def test_on_a_cpu_it_is_op_by_op(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pspec_rt")
    drafter, _, _ = make(tmp_path, "eagle")
    replay = Replay(drafter, make_texts(drafter), TREE)
    assert replay.state.drafter.head is None
    assert "draft pass: op by op (op draft_forward runs on backend ref)" in caplog.text
