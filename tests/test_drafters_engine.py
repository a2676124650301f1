"""Drafters inside the engine: taps and features end to end, and slots that change hands."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.drafters.config import KINDS
from pspec_rt.drafters.new import init_drafter
from pspec_rt.engine import Engine
from pspec_rt.sampling import SamplingParams
from pspec_rt.state import DecodeState
from pspec_rt.tree import TreeSpec
from tests.drafter_fixtures import EAGLE, MEDUSA, draft_ids, feature_checkpoint, feature_logits
from tests.oracle import OracleDrafter
from tests.running import run
from tests.tiny import tiny_checkpoint, tiny_target

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "eagle": {"kind": EAGLE, "taps": (1, 3, 0), "extras": ("anchor_map", "head")},
    "eagle-reduced": {"kind": EAGLE, "taps": (2, -1), "draft_ids": range(1, 384, 4), "layers": 2},
    "medusa": {"kind": MEDUSA, "taps": (1, 2), "hidden": 32, "extras": ("head", "blocks")},
}


class Guided(OracleDrafter):
    """A drafter under test whose candidates are noted and then replaced by partly right ones."""

    def __init__(self, tested: Drafter, sequences: list[list[int]]) -> None:
        super().__init__("flaky", sequences, tiny_target().config.vocab_size)
        self.tested, self.taps = tested, tested.taps

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        super().allocate(state, prefill_rows)
        self.oracle = state.drafter
        self.tested.allocate(state, prefill_rows)
        self.own = state.drafter

    def prefill(self, state: DecodeState, *chunk: Any) -> None:
        self.tested.prefill(state, *chunk)

    def draft(self, state: DecodeState) -> None:
        self.tested.draft(state)
        self.drafted = state.candidate_ids_BKC.clone(), state.candidate_scores_BKC.clone()
        if self.tested.grows_tree:
            growth = self.own.growth
            self.drafted = growth.pool_ids_BGC.clone(), growth.pool_scores_BGC.clone()
        self.lengths = state.length_B.tolist()
        state.drafter = self.oracle
        super().draft(state)
        state.drafter = self.own


@cache
def hidden_states(tokens: tuple[int, ...]) -> tuple[Tensor, ...]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(), dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([tokens]), output_hidden_states=True).hidden_states


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_in_the_engine_it_reads_the_taps_of_transformers(tmp_path: Path, name: str) -> None:
    """Prefill, partly accepted trees and compaction end to end: features are those of one pass of transformers."""
    raw, tensors = feature_checkpoint(tmp_path, **CHECKPOINTS[name])
    drafter = load_drafter(tmp_path, tiny_target())
    prompts, params = [list(range(5, 25)), [7], list(range(40, 9, -1))], [SamplingParams(20, ignore_eos=True)] * 3
    plain = Engine(tiny_target(), max_batch=3, max_length=64, prefill_chunk=8)
    texts = [prompt + tokens for prompt, tokens in zip(prompts, run(plain, prompts, params), strict=True)]
    guided = Guided(drafter, texts)
    tree = TreeSpec.best_first(4, 10, candidates=3)
    engine = Engine(tiny_target(), guided, max_batch=3, max_length=64, tree=tree, prefill_chunk=8)
    for prompt, request in zip(prompts, params, strict=True):
        engine.add(prompt, request)
    checked = set()
    for _ in range(24):
        for output in engine.step():
            L = guided.lengths[output.slot]
            if L == 1:
                continue  # no anchor yet
            tokens = tuple(texts[output.slot])
            features = torch.cat([hidden_states(tokens)[tap][0] for tap in drafter.taps], dim=1)
            logits = feature_logits(raw, tensors, tiny_target(), torch.tensor(tokens[:L]), features[:L], 4)
            best = logits.log_softmax(-1).topk(3)
            assert guided.drafted[0][output.slot].tolist() == draft_ids(tensors)[best.indices].tolist()
            torch.testing.assert_close(guided.drafted[1][output.slot], best.values, rtol=1e-3, atol=1e-3)
            checked.add((output.slot, len(output.token_ids)))
    assert {slot for slot, _ in checked} == {0, 1, 2} and len(checked) >= 5, "rounds were not varied enough"


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_that_changes_hands_starts_clean(kind: str) -> None:
    """While another slot runs, a prompt of several chunks joins a slot that just ended in the middle of a round."""
    prompt, busy = list(range(5, 45)), SamplingParams(40, ignore_eos=True)
    drafter = init_drafter(kind, tiny_target(), 4)
    texts = [[7, 8, 9] + run(Engine(tiny_target(), max_length=96), [[7, 8, 9]], [busy])[0]]
    guided = Guided(drafter, texts)  # several tokens a round, so that the count left behind is not 1
    engine = Engine(tiny_target(), guided, max_batch=2, max_length=96, tree=TreeSpec.chain(4), prefill_chunk=8)
    engine.add([7, 8, 9], SamplingParams(9, ignore_eos=True))
    engine.add([4, 3, 2], busy)
    while not any(output.slot == 0 and output.finish_reason for output in engine.step()):
        pass
    assert int(engine.state.count_B[0]) > 1
    engine.release(0)
    assert engine.add(prompt, busy) == 0
    while not any(output.slot == 0 for output in engine.step()):
        pass
    alone = Engine(tiny_target(), Guided(drafter, []), max_length=96, tree=TreeSpec.chain(4), prefill_chunk=8)
    alone.add(prompt, busy)
    while not alone.step():
        pass
    committed = len(prompt) - 1
    caches = [e.state.drafter.cache.kv_L2BGSE[:, :, 0, :, :committed] for e in (engine, alone)]
    torch.testing.assert_close(*caches)
    for joined, fresh in zip(engine.drafter.drafted, alone.drafter.drafted, strict=True):
        torch.testing.assert_close(joined[0], fresh[0])
