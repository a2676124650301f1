"""PARD and drafting level by level: candidates equal transformers on the whole text, without a cache."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.drafters.lm import ParallelLMDrafter, SequentialLMDrafter
from pspec_rt.engine import Engine
from pspec_rt.models import Target
from pspec_rt.sampling import SamplingParams
from pspec_rt.tree import TreeSpec
from tests.drafter_fixtures import (
    BROKEN,
    VOCAB,
    Replay,
    Text,
    check_chunked_prefill,
    check_ragged_batch,
    expect,
    layout,
    paths_of,
)
from tests.straight_line import fixed_tree, grown_tree
from tests.tiny import copy_checkpoint, edit_json, tiny_checkpoint, tiny_target

MASK = 380
ROUNDS = [(1, 3, 5), (5, 1, 2), (2, 5, 1)]  # tokens emitted per slot
ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@cache
def reference(architecture: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint(architecture), dtype=torch.float32)


@torch.no_grad()
def logits_of_text(architecture: str, tokens: Tensor, known: int = 0, wrong: str = "") -> Tensor:
    """[tokens, V]; `wrong` breaks a rule for the tokens from `known` on, see `layout`."""
    if wrong not in BROKEN:
        return reference(architecture)(tokens[None]).logits[0]
    at, seen = layout(known, len(tokens), wrong)
    return reference(architecture)(tokens[None], position_ids=at[None], attention_mask=seen[None, None]).logits[0]


def make_text(prompt: int, vocab: int = VOCAB) -> Text:
    """Without the padding token, whose embedding is 0: all its logits are equal."""
    return Text(torch.randint(1, vocab, (60,)), torch.zeros(60, 0), prompt)


def make_texts(vocab: int = VOCAB) -> list[Text]:
    return [make_text(prompt, vocab) for prompt in (9, 1, 24)]


def pard(tmp_path: Path, architecture: str = "LlamaForCausalLM", target: Target | None = None) -> Drafter:
    folder = copy_checkpoint(tmp_path, architecture=architecture)
    edit_json(folder / "config.json", pard_token=MASK)
    drafter = load_drafter(folder, target or tiny_target())
    assert isinstance(drafter, ParallelLMDrafter)
    return drafter


def sequential(architecture: str = "LlamaForCausalLM", target: Target | None = None) -> Drafter:
    drafter = load_drafter(tiny_checkpoint(architecture), target or tiny_target())
    assert isinstance(drafter, SequentialLMDrafter)
    return drafter


def check_pard(replay: Replay, architecture: str, wrong: str = "") -> None:
    """`wrong`: of `layout`; or the row of a position predicts what the next one should, "shift", or another "mask"."""
    K = replay.state.shape.K
    for slot, text in enumerate(replay.texts):
        tokens = torch.cat([text.tokens[: text.length], torch.full((K - 1,), MASK - (wrong == "mask"))])
        logits = logits_of_text(architecture, tokens, text.length, wrong).roll(int(wrong == "shift"), dims=0)
        replay.check(slot, logits[-K:], torch.arange(VOCAB))


def check_sequential(replay: Replay, architecture: str, vocab: int = VOCAB, wrong: str = "") -> None:
    """A node's token is among the best after the path that leads to it, by one pass over the text and the path.

    `wrong`: of `layout`; or a pass starts without the newest token, "shift".
    """
    s, tree = replay.state, replay.tree
    for slot, text in enumerate(replay.texts):
        temperature = float(s.temperature_BK[slot, 0]) if s.mode == "noise" else 0.0

        def logits_of(path: list[int], text: Text = text, slot: int = slot, temperature: float = temperature) -> Tensor:
            known = text.tokens[: text.length - (wrong == "shift")]
            tokens = torch.cat([known, torch.tensor(path, dtype=torch.int64)])
            tokens = torch.where(tokens < VOCAB, tokens, 0)
            logits = logits_of_text(architecture, tokens, len(known), wrong)[-1, :vocab]
            if temperature == 0:
                return logits
            return logits / temperature + s.noise_BPV[slot, len(path), : len(logits)]

        found, ids_D = paths_of(replay, slot), torch.arange(vocab)
        if tree.paths is None:
            assert set(found) == grown_tree(logits_of, ids_D, tree.candidates, tree.k, tree.nodes)
        else:
            assert found == fixed_tree(logits_of, ids_D, tree.paths)


@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["pard", "lm"])
def test_rounds_equal_transformers(tmp_path: Path, kind: str, architecture: str, sampling: bool) -> None:
    drafter = pard(tmp_path, architecture) if kind == "pard" else sequential(architecture)
    check = check_pard if kind == "pard" else check_sequential
    replay = Replay(drafter, make_texts(), TreeSpec.best_first(4, 12, candidates=6))
    if sampling:
        replay.sample((0.0, 0.7, 1.3))
    for counts in [None, *ROUNDS]:
        if counts is not None:
            replay.accept(counts)
        replay.draft()
        check(replay, architecture)


@pytest.mark.parametrize("wrong", [*BROKEN, "shift", "mask"])
def test_a_broken_rule_of_pard_shows(tmp_path: Path, wrong: str) -> None:
    replay = Replay(pard(tmp_path), make_texts(), TreeSpec.chain(4))
    replay.accept(ROUNDS[0])
    replay.draft()
    check_pard(replay, "LlamaForCausalLM")
    expect(wrong, lambda: check_pard(replay, "LlamaForCausalLM", wrong))


@pytest.mark.parametrize("wrong", [*BROKEN, "shift"])
def test_a_broken_rule_of_an_lm_shows(wrong: str) -> None:
    replay = Replay(sequential(), make_texts(), TreeSpec.best_first(5, 40, candidates=6))
    replay.accept(ROUNDS[0])
    replay.draft()
    check_sequential(replay, "LlamaForCausalLM")
    expect(wrong, lambda: check_sequential(replay, "LlamaForCausalLM", wrong=wrong))


@pytest.mark.parametrize("k", [1, 32])
@pytest.mark.parametrize("kind", ["pard", "lm"])
def test_the_smallest_and_the_largest_k(tmp_path: Path, kind: str, k: int) -> None:
    drafter = pard(tmp_path) if kind == "pard" else sequential()
    check = check_pard if kind == "pard" else check_sequential
    replay = Replay(drafter, make_texts(), TreeSpec.chain(k), S=160)
    for counts in ((k + 1, 1, 2), (1, 2, min(k + 1, 20))):
        replay.accept(counts)
        replay.draft()
        check(replay, "LlamaForCausalLM")


@pytest.mark.parametrize("kind", ["pard", "lm"])
def test_a_ragged_batch_equals_each_slot_alone(tmp_path: Path, kind: str) -> None:
    drafter = pard(tmp_path) if kind == "pard" else sequential()
    check_ragged_batch(drafter, make_texts(), ROUNDS)


@pytest.mark.parametrize("kind", ["pard", "lm"])
def test_chunked_prefill_equals_one_pass(tmp_path: Path, kind: str) -> None:
    drafter = pard(tmp_path) if kind == "pard" else sequential()
    check_chunked_prefill(drafter, make_text(41))


@pytest.mark.parametrize("kind", ["pard", "lm"])
def test_a_reused_slot_starts_clean(tmp_path: Path, kind: str) -> None:
    drafter = pard(tmp_path) if kind == "pard" else sequential()
    check = check_pard if kind == "pard" else check_sequential
    replay = Replay(drafter, make_texts(), TreeSpec.chain(4))
    replay.accept((5, 2, 3))
    replay.draft()
    replay.state.drafter.cache.kv_L2BGSE[:, :, 0] = torch.nan
    replay.start(0, make_text(3))
    for counts in ROUNDS:
        replay.draft()
        check(replay, "LlamaForCausalLM")
        replay.accept(counts)


@pytest.mark.parametrize("kind", ["pard", "lm"])
@pytest.mark.parametrize("vocab", [300, 400])
def test_tables_may_be_padded_differently(tmp_path: Path, kind: str, vocab: int) -> None:
    """Ids only one side has are never proposed; ones the draft model lacks read as padding."""
    target = replace(tiny_target(), config=replace(tiny_target().config, vocab_size=vocab))
    drafter = pard(tmp_path, target=target) if kind == "pard" else sequential(target=target)
    texts = make_texts(vocab)
    replay = Replay(drafter, texts, TreeSpec.chain(4), vocab=vocab)
    replay.accept((3, 5, 1))
    ids, _ = replay.draft()
    if kind == "lm":
        return check_sequential(replay, "LlamaForCausalLM", min(vocab, VOCAB))
    assert 0 <= int(ids.min()) and int(ids.max()) < min(vocab, VOCAB)
    for slot, text in enumerate(texts):
        tokens = torch.cat([torch.where(text.tokens < VOCAB, text.tokens, 0)[: text.length], torch.full((3,), MASK)])
        logits = logits_of_text("LlamaForCausalLM", tokens)[-4:, :vocab]
        replay.check(slot, logits, torch.arange(logits.shape[1]))
    return None


def test_the_target_itself_drafts_perfectly() -> None:
    """Through the engine, sampling: with the shared noise every draft of the same model is accepted."""
    engine = Engine(tiny_target(), sequential(), max_length=96, k=5, prefill_chunk=16)
    slot = engine.add([5, 9, 2, 7, 11], SamplingParams(24, temperature=1.0, seed=3, ignore_eos=True))
    while not (outputs := engine.step()) or outputs[0].finish_reason is None:
        pass
    stats = engine.release(slot)
    assert stats.rounds == 4 and stats.accepted == 20
