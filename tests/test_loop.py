"""The loops: eager, replayed and self-looping rounds give the same tokens; bursts, stops, joins and errors behave."""

from __future__ import annotations

import gc
import logging
import time
import weakref

import pytest
import torch

from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.engine import Engine
from pspec_rt.errors import CaptureError, ConfigError
from pspec_rt.generator import Generator
from pspec_rt.ops._dispatch import native
from pspec_rt.sampling import SamplingParams
from pspec_rt.state import DecodeState
from tests.pairwise import pairwise
from tests.running import run
from tests.test_lossless import CHUNK, PROMPTS, TREES, make_drafter, make_params, make_tree, plain
from tests.tiny import tiny_target

pytestmark = pytest.mark.skipif(not native.available, reason="pspec_rt._C is not built (pip install -e .)")
CAPTURED = ["run_ahead", "while"]
DRAFTERS = ["none", "ngram", "parallelspec-eagle", "parallelspec-medusa", "pard", "lm", "pard+ngram"]
AXES = (DRAFTERS, ["eager", *CAPTURED], TREES, [1, 3], ["greedy", "top_p", "noise"], ["fp32", "bf16"])


def engine_of(loop: str, drafter: object = None, **options: object) -> Engine:
    target = tiny_target(dtype="fp32")
    return Engine(target, drafter, **{"max_length": 96, "prefill_chunk": CHUNK, "loop": loop, **options})


@pytest.mark.parametrize(("drafter", "loop", "tree", "batch", "sampling", "dtype"), pairwise(*AXES))
def test_same_tokens_in_every_loop(drafter: str, loop: str, tree: str, batch: int, sampling: str, dtype: str) -> None:
    target, expected, params = tiny_target(dtype=dtype), plain(dtype, sampling)[:batch], make_params(sampling, batch)
    options = {} if drafter == "none" else {"tree": make_tree(tree, 4)}
    draft = None if drafter == "none" else make_drafter(drafter, target, [], [])
    engine = Engine(target, draft, max_batch=batch, max_length=96, prefill_chunk=CHUNK, loop=loop, **options)
    assert engine.loop_note == f"{loop}: asked for"
    for _ in range(2):  # the slots, and the captured rounds, are used again
        assert run(engine, PROMPTS[:batch], params) == expected


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_every_round_can_be_captured(drafter: str) -> None:
    """So `auto` captures it, and a round is one native call."""
    target = tiny_target(dtype="fp32")
    draft = None if drafter == "none" else make_drafter(drafter, target, [], [])
    engine = Engine(target, draft, max_length=96, prefill_chunk=CHUNK)
    assert engine.loop_note == "run_ahead: the default"


@pytest.mark.parametrize("loop", CAPTURED)
def test_a_round_is_captured_once_per_key(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(loop, max_batch=2)
    recorded = []
    begin = native.graph_begin
    monkeypatch.setattr(native, "graph_begin", lambda: (recorded.append(1), begin()), raising=False)
    for _ in range(3):
        run(engine, PROMPTS[:2], make_params("greedy", 2))
    assert not recorded, "the greedy round was captured when the engine was made"
    for _ in range(3):
        run(engine, PROMPTS[:2], make_params("noise", 2))
    assert len(recorded) == 1


@pytest.mark.parametrize("loop", CAPTURED)
def test_a_captured_round_survives_a_longer_engine(loop: str) -> None:
    """A second engine grows the RoPE tables that the first one's rounds point into."""
    target, expected = tiny_target("Qwen2ForCausalLM", dtype="fp32"), []
    params = [SamplingParams(12, ignore_eos=True)]
    first = Engine(target, max_length=40, prefill_chunk=16, loop=loop)
    expected = run(first, [[5, 6, 7]], params)
    longer = Engine(target, max_length=400, prefill_chunk=16, loop=loop)
    spoiled = [torch.full((64, 8), torch.nan) for _ in range(64)]  # takes the place of tables that were freed
    assert run(longer, [[5, 6, 7]], params) == expected == run(first, [[5, 6, 7]], params)
    del spoiled


@pytest.mark.parametrize("loop", CAPTURED)
def test_requests_join_and_leave_while_others_run(loop: str) -> None:
    expected, params = plain("fp32", "greedy"), make_params("greedy", 3)
    engine = engine_of(loop, NgramDrafter(), max_batch=2)
    tokens: dict[int, list[int]] = {0: [], 1: [], 2: []}
    slot_of = {0: engine.add(PROMPTS[0], params[0])}
    waiting, steps = [1, 2], 0
    while any(len(tokens[i]) < len(expected[i]) for i in tokens):
        steps += 1
        if waiting and steps > 3 and engine.free_slots:
            joins = waiting.pop(0)
            slot_of[joins] = engine.add(PROMPTS[joins], params[joins])
        for output in engine.step():
            request = next(i for i, slot in slot_of.items() if slot == output.slot)
            tokens[request] += output.token_ids
            if output.finish_reason:
                engine.release(slot_of.pop(request))
    assert [tokens[i] for i in range(3)] == expected


@pytest.mark.parametrize("loop", CAPTURED)
def test_a_slot_released_in_mid_burst_is_cancelled_and_used_again(loop: str) -> None:
    expected, params = plain("fp32", "greedy"), make_params("greedy", 3)
    engine = engine_of(loop, max_batch=2)
    first, second = engine.add(PROMPTS[0], params[0]), engine.add(PROMPTS[1], params[1])
    tokens: dict[int, list[int]] = {first: [], second: []}
    for _ in range(3):
        for output in engine.step():
            tokens[output.slot] += output.token_ids
    stats = engine.release(first)
    assert tokens[first] == expected[0][: stats.new_tokens]
    again = engine.add(PROMPTS[2], params[2])
    assert again == first
    tokens[again] = []
    finished: set[int] = set()
    while finished != {first, second}:
        for output in engine.step():
            tokens[output.slot] += output.token_ids
            if output.finish_reason:
                finished.add(output.slot)
    assert [tokens[again], tokens[second]] == [expected[2], expected[1]]


@pytest.mark.parametrize("loop", ["eager", *CAPTURED])
def test_statistics_do_not_depend_on_the_loop(loop: str) -> None:
    """Counts are equal; the loop is named; time is counted once."""
    expected, params = plain("fp32", "greedy"), make_params("greedy", 1)
    counts = ("new_tokens", "rounds", "drafted", "accepted", "accepted_per_position")
    seen = []
    for name in ("eager", loop):
        engine = engine_of(name, NgramDrafter())
        start = time.perf_counter()
        slot = engine.add(PROMPTS[0], params[0])
        while not any(output.finish_reason for output in engine.step()):
            pass
        stats = engine.release(slot)
        assert stats.loop == f"{name}: asked for" and 0 < stats.decode_s < time.perf_counter() - start
        assert (stats.loop_s > 0) == (name == "while")
        seen.append([getattr(stats, count) for count in counts])
    if loop != "while":  # a burst cannot ask the drafter between rounds whether it has something to offer
        assert seen[0] == seen[1]
    assert seen[0][0] == seen[1][0] == len(expected[0])


@pytest.mark.parametrize("loop", CAPTURED)
def test_logprobs_come_from_eager_rounds(loop: str) -> None:
    outputs = []
    for name in ("eager", loop):
        engine = engine_of(name)
        slot = engine.add(PROMPTS[0], SamplingParams(6, logprobs=2, ignore_eos=True))
        entries = []
        while engine.free_slots == []:
            for output in engine.step():
                entries += output.logprobs
                if output.finish_reason:
                    engine.release(slot)
        outputs.append(entries)
    assert len(outputs[0]) == 6 and outputs[0] == outputs[1]


class Torchy(NgramDrafter):
    """Drafts with a torch op."""

    def draft(self, state: DecodeState) -> None:
        super().draft(state)
        state.candidate_scores_BKC.add_(0)


def test_what_cannot_be_captured_is_named() -> None:
    with pytest.raises(CaptureError, match=r"aten.add_.Tensor.*is no native CPU kernel"):
        engine_of("run_ahead", Torchy())


def test_auto_says_why_rounds_run_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pspec_rt"):
        engine = engine_of("auto", Torchy())
    assert "rounds run eagerly" in caplog.text and "aten.add_" in caplog.text
    assert engine.loop_note.startswith("eager: the round cannot be captured")
    assert run(engine, PROMPTS[:1], make_params("greedy", 1)) == plain("fp32", "greedy")[:1]


def test_captured_loops_need_a_backend_that_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSPEC_BACKEND", "accept:ref")
    with pytest.raises(ConfigError, match="accept runs on backend 'ref'.*loop='eager'"):
        engine_of("while")
    assert engine_of("auto").loop_note.startswith("eager: op accept")
    monkeypatch.delenv("PSPEC_BACKEND")
    engine_of("auto")  # back to the native backends


def test_unknown_loop() -> None:
    with pytest.raises(ConfigError, match="loop='fast': expected one of auto, eager"):
        Generator(tiny_target(dtype="fp32"), None, loop="fast")


@pytest.mark.parametrize("loop", CAPTURED)
def test_nothing_of_an_interrupted_round_reaches_the_next_request(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the native call runs is raised when it returns: the rounds are published, and nobody took them."""
    expected, params = plain("fp32", "greedy"), make_params("greedy", 2)
    engine, call = engine_of(loop), {"run_ahead": "graph_replay", "while": "graph_burst"}[loop]
    native_call = getattr(native, call)

    def interrupted(*arguments: int) -> None:
        native_call(*arguments)
        raise KeyboardInterrupt

    slot = engine.add(PROMPTS[0], params[0])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(native, call, interrupted, raising=False)
        engine.step()
    engine.release(slot)
    assert run(engine, PROMPTS[1:2], params[1:]) == expected[1:2]


def test_results_that_waited_for_a_join_come_round_by_round() -> None:
    """Those behind the release of a slot are neither shown nor counted."""
    expected, params = plain("fp32", "greedy"), make_params("greedy", 2)
    engine = engine_of("while", max_batch=2)
    first = engine.add(PROMPTS[0], params[0])
    shown = [token for output in engine.step() for token in output.token_ids]
    engine.add(PROMPTS[1], params[1])
    while len(shown) < 4:  # the rest of the burst is there since the second request started
        outputs = engine.step()
        assert len(outputs) == len({output.slot for output in outputs})
        shown += [token for output in outputs if output.slot == first for token in output.token_ids]
    stats = engine.release(first)
    assert (stats.new_tokens, stats.rounds) == (4, 4) and shown == expected[0][:4]
    assert all(output.slot != first for _ in range(4) for output in engine.step())


@pytest.mark.parametrize("loop", ["eager", *CAPTURED])
def test_a_dropped_engine_is_freed_at_once(loop: str) -> None:
    engine = engine_of(loop, NgramDrafter())
    gone = weakref.ref(engine)
    cache = weakref.ref(engine.state.cache)
    gc.disable()
    try:
        del engine
        assert gone() is None and cache() is None
    finally:
        gc.enable()
