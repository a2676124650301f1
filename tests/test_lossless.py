"""The promise of the project: speculative decoding gives the tokens of plain decoding, token for token."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
import torch

from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.drafters.config import PUBLISHED
from pspec_rt.drafters.lookup import LOOKUP, LookupDrafter
from pspec_rt.drafters.new import init_drafter
from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.engine import Engine
from pspec_rt.models.target import Target
from pspec_rt.sampling import SamplingParams
from pspec_rt.tree import TreeSpec
from tests.drafter_formats import published
from tests.oracle import KINDS, OracleDrafter
from tests.pairwise import pairwise
from tests.running import run
from tests.tiny import tiny_target

PROMPTS = [
    [5, 9, 2, 7] * 5,
    [11],
    [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3, 2, 7, 9, 5, 0],
]
NEW_TOKENS = (28, 21, 24)
CHUNK = 16
PARALLEL = ["parallelspec-eagle", "parallelspec-medusa", "pard", "pard2", "p-eagle", "dflash", "medusa"]
BESIDE = [kind + LOOKUP for kind in ("flaky", "adversarial", *PARALLEL)]
DRAFTERS = [*KINDS, "ngram", "parallelspec-eagle", "parallelspec-medusa", "pard", "lm", *PUBLISHED, *BESIDE]
TREES = ["chain", "static", "best-first"]
KS = [1, 4, 7]
BATCHES = [1, 3]
SAMPLINGS = {"greedy": {}, "top_p": {"temperature": 0.8, "top_p": 0.9}, "noise": {"temperature": 1.0}}
DTYPES = ["fp32", "bf16"]


def make_tree(kind: str, k: int) -> TreeSpec:
    if kind == "chain":
        return TreeSpec.chain(k)
    if kind == "static":
        branch = [(rank,) for rank in range(3)] + [(0, 1), (1, 0), (2, 0, 0), (0, 0, 2, 0), (1, 1, 0, 0, 0, 1, 0)]
        return TreeSpec.static([path for path in [*branch, (0,) * k] if len(path) <= k])
    return TreeSpec.best_first(k, nodes=min(16, 1 + 8 * k))


def make_drafter(kind: str, target: Target, prompts: list[list[int]], texts: list[list[int]]) -> Drafter:
    if kind.endswith(LOOKUP):
        return LookupDrafter(make_drafter(kind.removesuffix(LOOKUP), target, prompts, texts))
    if kind in KINDS:
        known = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        return OracleDrafter(kind, known, target.config.vocab_size)
    if kind == "ngram":
        return NgramDrafter()
    if kind in PUBLISHED:
        return load_drafter(published(kind), target)
    return init_drafter(kind, target, k=7, seed=3)


def make_params(sampling: str, batch: int, **more: object) -> list[SamplingParams]:
    return [
        SamplingParams(NEW_TOKENS[i], **SAMPLINGS[sampling], seed=100 + i, ignore_eos=True, **more)
        for i in range(batch)
    ]


@cache
def plain(dtype: str, sampling: str) -> list[list[int]]:
    """What plain decoding says, every prompt alone."""
    engine = Engine(tiny_target(dtype=dtype), max_length=96, prefill_chunk=CHUNK)
    return [run(engine, [PROMPTS[i]], [params])[0] for i, params in enumerate(make_params(sampling, 3))]


def check(drafter: str, tree: str, k: int, batch: int, sampling: str, dtype: str) -> None:
    target, expected = tiny_target(dtype=dtype), plain(dtype, sampling)[:batch]
    draft = make_drafter(drafter, target, PROMPTS[:batch], expected)
    engine = Engine(target, draft, max_batch=batch, max_length=96, tree=make_tree(tree, k), prefill_chunk=CHUNK)
    assert run(engine, PROMPTS[:batch], make_params(sampling, batch)) == expected


AXES = (DRAFTERS, TREES, KS, BATCHES, list(SAMPLINGS), DTYPES)
PAIRWISE = pairwise(*AXES)


@pytest.mark.parametrize(("drafter", "tree", "k", "batch", "sampling", "dtype"), PAIRWISE)
def test_speculative_equals_plain(drafter: str, tree: str, k: int, batch: int, sampling: str, dtype: str) -> None:
    check(drafter, tree, k, batch, sampling, dtype)


@pytest.mark.full
@pytest.mark.parametrize(("drafter", "tree", "k", "batch"), list(product(*AXES[:4])))
def test_speculative_equals_plain_everywhere(drafter: str, tree: str, k: int, batch: int) -> None:
    for sampling, dtype in product(SAMPLINGS, DTYPES):
        check(drafter, tree, k, batch, sampling, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_batch_equals_alone(dtype: str) -> None:
    for sampling in SAMPLINGS:
        engine = Engine(tiny_target(dtype=dtype), max_batch=3, max_length=96, prefill_chunk=CHUNK)
        assert run(engine, PROMPTS, make_params(sampling, 3)) == plain(dtype, sampling)


def test_a_good_drafter_is_accepted() -> None:
    """The equality above would also hold if nothing were ever accepted; here everything is."""
    target, expected = tiny_target(dtype="bf16"), plain("bf16", "noise")[:1]
    drafter = OracleDrafter("good", [PROMPTS[0] + expected[0]], target.config.vocab_size)
    engine = Engine(target, drafter, max_length=96, tree=TreeSpec.chain(6), prefill_chunk=CHUNK)
    slot = engine.add(PROMPTS[0], make_params("noise", 1)[0])
    while not (outputs := engine.step()) or outputs[0].finish_reason is None:
        pass
    stats = engine.release(slot)
    assert stats.rounds == 4 and stats.accepted == 24 and stats.accepted_per_position == [4] * 6


@pytest.mark.parametrize("sampling", list(SAMPLINGS))
def test_a_late_rank_is_found_by_a_tree_only(sampling: str) -> None:
    target, expected = tiny_target(dtype="fp32"), plain("fp32", sampling)[:1]
    accepted = {}
    for name, tree in {"chain": TreeSpec.chain(2), "tree": TreeSpec.static([(1, 1)])}.items():
        drafter = OracleDrafter("late", [PROMPTS[0] + expected[0]], target.config.vocab_size)
        engine = Engine(target, drafter, max_length=96, tree=tree, prefill_chunk=CHUNK)
        engine.add(PROMPTS[0], make_params(sampling, 1)[0])
        while not (outputs := engine.step()) or outputs[0].finish_reason is None:
            pass
        accepted[name] = engine.release(0).accepted
    assert accepted["tree"] >= 16


def test_mixed_requests_do_not_disturb_each_other() -> None:
    """Greedy, noise, filtered and logprob requests share a batch; each gives what it gives alone."""
    target = tiny_target(dtype="bf16")
    mixed = [
        SamplingParams(NEW_TOKENS[i], **s, seed=100 + i, ignore_eos=True) for i, s in enumerate(SAMPLINGS.values())
    ]
    alone = Engine(target, max_length=96, prefill_chunk=CHUNK)
    expected = [run(alone, [PROMPTS[i]], [mixed[i]])[0] for i in range(3)]
    together = Engine(target, NgramDrafter(), max_batch=3, max_length=96, k=4, prefill_chunk=CHUNK)
    assert run(together, PROMPTS, mixed) == expected
    asked = [SamplingParams(**{**vars(p), "logprobs": 2}) for p in mixed]
    assert run(together, PROMPTS, asked) == expected


def test_thread_count_changes_nothing() -> None:
    from pspec_rt.ops._dispatch import native

    if not native.available:
        pytest.skip("native module not built")
    before = native.num_threads()
    try:
        texts = []
        for threads in (1, 2, 3):
            native.set_num_threads(threads)
            engine = Engine(tiny_target(dtype="bf16"), NgramDrafter(), max_batch=3, max_length=96, prefill_chunk=CHUNK)
            texts.append(run(engine, PROMPTS, make_params("noise", 3)))
    finally:
        native.set_num_threads(before)
    assert texts[0] == texts[1] == texts[2] == plain("bf16", "noise")


def test_requests_join_and_leave_while_others_run() -> None:
    target, expected = tiny_target(dtype="bf16"), plain("bf16", "noise")
    engine = Engine(target, NgramDrafter(), max_batch=2, max_length=96, k=4, prefill_chunk=CHUNK)
    params = make_params("noise", 3)
    waiting, running, tokens, steps = [0, 1, 2, 1, 0], {}, [], 0
    while waiting or running:
        if waiting and engine.free_slots and steps % 3 == 0:
            i = waiting.pop(0)
            running[engine.add(PROMPTS[i], params[i])] = (i, [])
        steps += 1
        for output in engine.step():
            i, got = running[output.slot]
            got += output.token_ids
            if output.finish_reason is not None:
                engine.release(output.slot)
                tokens.append((i, running.pop(output.slot)[1]))
    assert len(tokens) == 5
    for i, got in tokens:
        assert got == expected[i]


@pytest.mark.parametrize("sampling", ["greedy", "noise"])  # drafters do not filter: top_p may reject a right guess
def test_the_target_as_its_own_drafter_is_always_right(sampling: str) -> None:
    """Pins positions, roll-back and slot reuse of a drafter's cache: all is accepted, and its rows are the target's.

    Requests join and leave while others run, so a slot's cache is filled amid other slots' rounds, and used again.
    """
    target, k = tiny_target(dtype="fp32"), 3
    engine = Engine(target, load_drafter(target.path, target), max_batch=2, max_length=96, k=k, prefill_chunk=CHUNK)
    params, s = make_params(sampling, 3), engine.state
    waiting, running = [0, 2, 1, 2, 0, 2], {}
    while waiting or running:
        if waiting and engine.free_slots:
            i = waiting.pop(0)
            running[engine.add(PROMPTS[i], params[i])] = i
        for output in engine.step():
            if output.finish_reason is not None:
                slot, rows = output.slot, int(s.length_B[output.slot] - s.count_B[output.slot]) - 1
                drafted_rows = s.drafter.cache.kv_L2BGSE[:, :, slot, :, :rows]
                assert torch.equal(drafted_rows, s.cache.kv_L2BGSE[:, :, slot, :, :rows])
                new, stats = NEW_TOKENS[running.pop(slot)], engine.release(slot)
                assert stats.rounds == -(-new // (k + 1)), stats


def test_backend_ref_gives_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PyTorch definitions agree with the native kernels token for token (fp32; near-ties are not expected here)."""
    expected = plain("fp32", "noise")
    monkeypatch.setenv("PSPEC_BACKEND", "ref")
    engine = Engine(tiny_target(dtype="fp32"), NgramDrafter(), max_batch=3, max_length=96, prefill_chunk=CHUNK)
    assert set(engine.backends.values()) == {"ref"}
    assert run(engine, PROMPTS, make_params("noise", 3)) == expected
    monkeypatch.delenv("PSPEC_BACKEND")
    Engine(tiny_target(dtype="fp32"))  # back to the native backends


def test_prefill_is_part_of_the_same_text() -> None:
    """Generating 12 tokens and then 12 more from the longer prompt continues as 24 in one go (greedy, fp32)."""
    engine = Engine(tiny_target(dtype="fp32"), max_length=96, prefill_chunk=CHUNK)
    whole = plain("fp32", "greedy")[0][:24]
    first = run(engine, [PROMPTS[0]], [SamplingParams(12, ignore_eos=True)])[0]
    rest = run(engine, [PROMPTS[0] + first], [SamplingParams(12, ignore_eos=True)])[0]
    assert first + rest == whole
