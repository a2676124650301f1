"""LookupDrafter: n-gram lookup beside a parallel drafter, its tokens taken where they are likelier."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.checkpoint import save_drafter
from pspec_rt.drafters.lookup import LookupDrafter
from pspec_rt.drafters.new import init_drafter
from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.drafters.registry import find_drafter
from pspec_rt.engine import Engine
from pspec_rt.errors import ConfigError
from pspec_rt.ref.ngram_draft import LOG_CHANCE
from pspec_rt.result import Stats
from pspec_rt.sampling import SamplingParams
from pspec_rt.state import DecodeState
from pspec_rt.step import decode_round
from pspec_rt.tree import TreeSpec
from tests.drafter_fixtures import EAGLE, feature_checkpoint
from tests.oracle import OracleDrafter
from tests.tiny import tiny_target

HISTORY = [1, 2, 3, 4, 9, 8, 1, 2, 3, 4]  # 9 and 8 followed the last four tokens
FOUR, FIVE = LOG_CHANCE[3], LOG_CHANCE[4]  # how likely each is to be right


class Fixed(Drafter):
    """Writes the same candidates every round."""

    kind, max_k, default_k = "fixed", 2, 2

    def __init__(self, ids_KC: list[list[int]], scores_KC: list[list[float]]) -> None:
        self.ids_KC, self.scores_KC = torch.tensor(ids_KC), torch.tensor(scores_KC)

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        pass

    def prefill(
        self, state: DecodeState, slot: int, start: int, ids_T: Tensor, next_ids_T: Tensor, features_TF: Tensor | None
    ) -> None:
        pass

    def draft(self, state: DecodeState) -> None:
        state.candidate_ids_BKC.copy_(self.ids_KC)
        state.candidate_scores_BKC.copy_(self.scores_KC)


def state_after_a_round(inner: Drafter, tree: TreeSpec) -> DecodeState:
    """Of a round in a slot that holds HISTORY."""
    engine = Engine(tiny_target(dtype="fp32"), LookupDrafter(inner), max_length=64, tree=tree, loop="eager")
    state = engine.state
    state.tokens_BS[0, : len(HISTORY)] = torch.tensor(HISTORY)
    state.length_B[0], state.bonus_B[0] = len(HISTORY), HISTORY[-1]
    decode_round(state, engine.decoder, engine.drafter)
    return state


@pytest.mark.parametrize(
    ("own", "chain"),
    [
        ([-0.5, -0.5], [9, 8]),  # lookup is surer at both depths
        ([-0.1, -0.5], [50, 8]),
        ([-0.5, -0.1], [9, 60]),
        ([FOUR, FIVE], [50, 60]),  # as good: the drafter's own
        ([-math.inf, math.nan], [9, 8]),
    ],
)
def test_a_chain_takes_the_likelier(own: list[float], chain: list[int]) -> None:
    state = state_after_a_round(Fixed([[50], [60]], [[score] for score in own]), TreeSpec.chain(2))
    assert state.ids_BN[0].tolist() == [4, *chain]


def test_a_tree_takes_both() -> None:
    inner = Fixed([[50, 51], [60, 61]], [[-0.5, -1.0], [-0.1, -3.0]])
    state = state_after_a_round(inner, TreeSpec.best_first(2, 6, candidates=2))
    assert state.candidate_ids_BKC[0].tolist() == [[9, 50], [60, 8]]
    assert torch.equal(state.candidate_scores_BKC[0], torch.tensor([[FOUR, -0.5], [-0.1, FIVE]]))
    nodes = zip(state.ids_BN[0].tolist(), state.parent_BN[0].tolist(), strict=True)
    assert set(nodes) == {(4, -1), (9, 0), (60, 1), (50, 0), (60, 3), (8, 1)}  # best first


def test_a_token_that_both_propose_gets_the_higher_score() -> None:
    for own, score in ((-1.5, FOUR), (-0.1, -0.1)):
        inner = Fixed([[50, 9], [60, 61]] if own < -1 else [[9, 50], [60, 61]], [sorted([-1.0, own])[::-1], [-0.1, -3]])
        state = state_after_a_round(inner, TreeSpec.best_first(2, 3, candidates=2))
        assert state.candidate_ids_BKC[0, 0].tolist() == [9, 50]
        assert torch.equal(state.candidate_scores_BKC[0, 0], torch.tensor([score, -1.0]))


def test_nothing_found_changes_nothing() -> None:
    engine = Engine(tiny_target(dtype="fp32"), LookupDrafter(Fixed([[50], [60]], [[-9.0], [-9.0]])), max_length=64)
    engine.state.tokens_BS[0, :3] = torch.tensor([1, 2, 3])
    engine.state.length_B[0] = 3
    engine.drafter.draft(engine.state)
    assert engine.state.candidate_ids_BKC[0].tolist() == [[50], [60]]


def stats_of(drafter: Drafter) -> Stats:
    """Of 40 tokens after a prompt that repeats itself."""
    engine = Engine(tiny_target(dtype="fp32"), drafter, max_length=96, tree=TreeSpec.best_first(4, 9))
    slot = engine.add([5, 9, 2, 7] * 6, SamplingParams(40, ignore_eos=True))
    while not any(output.finish_reason for output in engine.step()):
        pass
    return engine.release(slot)


def test_what_lookup_finds_is_accepted() -> None:
    useless = OracleDrafter("useless", [[]], tiny_target().config.vocab_size)
    assert stats_of(useless).accepted == 0
    stats = stats_of(LookupDrafter(useless))
    assert stats.accepted > 0 and stats.drafter == "useless+ngram"


def test_all_else_is_the_drafters_own() -> None:
    target = tiny_target()
    inner = init_drafter(EAGLE, target, 4)
    both = LookupDrafter(inner)
    for name in ("max_k", "default_k", "taps", "nbytes", "grows_tree"):
        assert getattr(both, name) == getattr(inner, name)
    assert both.kind == "parallelspec-eagle+ngram" and both.default_tree(3) == inner.default_tree(3)
    assert both.scratch_rows(3) == inner.scratch_rows(3) and both.checkpoint()[0] is inner.checkpoint()[0]


def test_found_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tiny_target()
    feature_checkpoint(tmp_path / "mine")
    with caplog.at_level(logging.INFO, "pspec_rt"):
        found = find_drafter(f"{tmp_path / 'mine'}+ngram", target)
    assert isinstance(found, LookupDrafter) and found.inner.kind == EAGLE
    assert "drafter: parallelspec-eagle+ngram" in caplog.text and str(tmp_path / "mine") in caplog.text
    saved = save_drafter(found, tmp_path / "saved")
    assert find_drafter(saved, target).kind == EAGLE
    assert isinstance(find_drafter("auto+ngram", target), NgramDrafter), "nothing is shipped for it: lookup alone"


def test_auto_with_lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feature_checkpoint(tmp_path)
    monkeypatch.setattr("pspec_rt.drafters.registry.shipped_for", lambda target: tmp_path)
    found = find_drafter("auto+ngram", tiny_target())
    assert isinstance(found, LookupDrafter) and found.inner.kind == EAGLE


@pytest.mark.parametrize("name", ["none+ngram", "+ngram"])
def test_lookup_beside_nobody(name: str) -> None:
    with pytest.raises(ConfigError, match=r'lookup alone is "ngram"'):
        find_drafter(name, tiny_target())


def test_refused() -> None:
    target = tiny_target()
    with pytest.raises(ConfigError, match="looks up already"):
        find_drafter("ngram+ngram", target)
    with pytest.raises(ConfigError, match="looks up already"):
        LookupDrafter(LookupDrafter(init_drafter(EAGLE, target, 4)))
    with pytest.raises(ConfigError, match=r'drafter "lm\+ngram": a lm drafter drafts level by level'):
        find_drafter(f"{target.path}+ngram", target)
