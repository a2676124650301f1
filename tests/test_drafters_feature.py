"""ParallelSpec-EAGLE and -Medusa: candidates equal a straight-line forward over the whole text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.tree import TreeSpec
from tests.drafter_fixtures import (
    BROKEN,
    EAGLE,
    MEDUSA,
    WIDTH,
    Replay,
    Text,
    check_chunked_prefill,
    check_ragged_batch,
    draft_ids,
    expect,
    feature_checkpoint,
    feature_logits,
    misread,
)
from tests.tiny import tiny_target

REDUCED = sorted({(i * 7 + i * i) % 384 for i in range(90)})
VARIANTS: dict[str, dict[str, Any]] = {
    "eagle": {"kind": EAGLE},
    "eagle-all": {
        "kind": EAGLE,
        "layers": 2,
        "taps": (1, 3, 0),
        "draft_ids": REDUCED,
        "extras": ("bias", "anchor_map", "head", "embedding", "blocks"),
    },
    "eagle-narrow": {"kind": EAGLE, "hidden": 48, "extras": ("head",)},
    "eagle-reduced": {"kind": EAGLE, "draft_ids": REDUCED, "taps": (2, -1)},
    "medusa": {"kind": MEDUSA},
    "medusa-all": {
        "kind": MEDUSA,
        "layers": 2,
        "draft_ids": REDUCED,
        "extras": ("bias", "anchor_map", "blocks"),
    },
    "medusa-narrow": {"kind": MEDUSA, "hidden": 32, "taps": (1, 2), "extras": ("head", "blocks")},
}
ROUNDS = [(1, 3, 5), (5, 1, 2), (2, 5, 1), (4, 4, 5)]  # tokens emitted per slot
PROMPTS = (9, 2, 24)  # not, not, and exactly a whole number of chunks, plus one


def make(folder: Path, variant: str, k: int = 4) -> tuple[Drafter, dict[str, Any], dict[str, Tensor]]:
    raw, tensors = feature_checkpoint(folder, k=k, **VARIANTS[variant])
    return load_drafter(folder, tiny_target()), raw, tensors


def make_texts(drafter: Drafter, prompts: tuple[int, ...] = PROMPTS) -> list[Text]:
    return [Text.random(60, WIDTH * len(drafter.taps), prompt) for prompt in prompts]


def check_all(replay: Replay, raw: dict[str, Any], tensors: dict[str, Tensor], wrong: str = "") -> None:
    for slot, text in enumerate(replay.texts):
        known = text.tokens[: text.length], misread(text.features[: text.length], wrong)
        logits = feature_logits(raw, tensors, tiny_target(), *known, replay.state.shape.K, wrong)
        replay.check(slot, logits, draft_ids(tensors))


@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_rounds_equal_the_straight_line(tmp_path: Path, variant: str, sampling: bool) -> None:
    """Pins shift, positions, taps, roll-back of masks and of rejected rows, what a mask sees, and the id map."""
    drafter, raw, tensors = make(tmp_path, variant)
    replay = Replay(drafter, make_texts(drafter), TreeSpec.best_first(4, 12, candidates=6))
    if sampling:
        replay.sample((0.0, 0.7, 1.3))
    for counts in [None, *ROUNDS]:
        if counts is not None:
            replay.accept(counts)
        replay.draft()
        check_all(replay, raw, tensors)


@pytest.mark.parametrize("wrong", [*BROKEN, "shift", "taps"])
@pytest.mark.parametrize("variant", ["eagle-all", "medusa-narrow"])
def test_a_broken_rule_shows(tmp_path: Path, variant: str, wrong: str) -> None:
    drafter, raw, tensors = make(tmp_path, variant)
    replay = Replay(drafter, make_texts(drafter), TreeSpec.best_first(4, 12, candidates=6))
    replay.accept((1, 3, 5))
    replay.draft()
    expect(wrong, lambda: check_all(replay, raw, tensors, wrong))


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_k_may_be_smaller_than_trained(tmp_path: Path, variant: str, k: int) -> None:
    drafter, raw, tensors = make(tmp_path, variant)
    replay = Replay(drafter, make_texts(drafter), TreeSpec.chain(k))
    for counts in ((1, k, k + 1), (k + 1, 1, 1)):
        replay.accept(counts)
        replay.draft()
        check_all(replay, raw, tensors)


@pytest.mark.parametrize("kind", [EAGLE, MEDUSA])
def test_a_drafter_without_masks(tmp_path: Path, kind: str) -> None:
    raw, tensors = feature_checkpoint(tmp_path, kind, k=1)
    drafter = load_drafter(tmp_path, tiny_target())
    replay = Replay(drafter, make_texts(drafter), TreeSpec.chain(1))
    replay.accept((2, 1, 2))
    replay.draft()
    check_all(replay, raw, tensors)


@pytest.mark.parametrize("kind", [EAGLE, MEDUSA])
def test_the_largest_k(tmp_path: Path, kind: str) -> None:
    """2K = 64 rows use every bit of the ancestor words, the sign bit too."""
    raw, tensors = feature_checkpoint(tmp_path, kind, k=32)
    drafter = load_drafter(tmp_path, tiny_target())
    replay = Replay(drafter, make_texts(drafter), TreeSpec.chain(32), S=160)
    for counts in ((33, 1, 7), (1, 20, 2)):
        replay.accept(counts)
        replay.draft()
        check_all(replay, raw, tensors)


@pytest.mark.parametrize("variant", ["eagle-all", "medusa-all"])
def test_a_one_token_prompt(tmp_path: Path, variant: str) -> None:
    """Its first draft has no anchor and may say anything; from the second round on it is like any other."""
    drafter, raw, tensors = make(tmp_path, variant)
    replay = Replay(drafter, make_texts(drafter, (1, 1, 1)), TreeSpec.chain(4))
    ids, scores = replay.draft()
    assert (ids >= 0).all() and torch.isfinite(scores).all()
    for counts in ROUNDS[:2]:
        replay.accept(counts)
        replay.draft()
        check_all(replay, raw, tensors)


@pytest.mark.parametrize("variant", ["eagle-all", "medusa-all"])
def test_chunked_prefill_equals_one_pass(tmp_path: Path, variant: str) -> None:
    drafter, *_ = make(tmp_path, variant)
    check_chunked_prefill(drafter, Text.random(60, WIDTH * len(drafter.taps), 41))


@pytest.mark.parametrize("variant", ["eagle-all", "medusa-all"])
def test_a_ragged_batch_equals_each_slot_alone(tmp_path: Path, variant: str) -> None:
    drafter, *_ = make(tmp_path, variant)
    check_ragged_batch(drafter, make_texts(drafter), ROUNDS)


@pytest.mark.parametrize("variant", ["eagle-all", "medusa-all"])
def test_a_reused_slot_starts_clean(tmp_path: Path, variant: str) -> None:
    """A shorter text after a longer one, between rounds of the others, sees nothing of it."""
    drafter, raw, tensors = make(tmp_path, variant)
    replay = Replay(drafter, make_texts(drafter), TreeSpec.chain(4))
    replay.accept((5, 2, 3))
    replay.draft()
    replay.state.drafter.cache.kv_L2BGSE[:, :, 0] = torch.nan
    replay.start(0, make_texts(drafter, (3,))[0])
    for counts in ROUNDS:
        replay.draft()
        check_all(replay, raw, tensors)
        replay.accept(counts)


@pytest.mark.parametrize("kind", [EAGLE, MEDUSA])
def test_drafter_and_target_may_differ_in_dtype(tmp_path: Path, kind: str) -> None:
    raw, tensors = feature_checkpoint(tmp_path, kind)
    drafter = load_drafter(tmp_path, tiny_target(dtype="bf16"), dtype="fp32")
    texts = make_texts(drafter)
    for text in texts:
        text.features = text.features.bfloat16().float()
    replay = Replay(drafter, texts, TreeSpec.chain(4), dtype=torch.bfloat16)
    assert replay.state.features_BPF.dtype == torch.bfloat16
    replay.accept((1, 3, 5))
    replay.draft()
    table = tiny_target().decoder.embed_VM.bfloat16().float()  # bf16 checkpoints round once
    for slot, text in enumerate(replay.texts):
        plain = {"embed_tokens.weight": table, "lm_head.weight": table, **tensors}
        logits = feature_logits(raw, plain, tiny_target(), text.tokens[: text.length], text.features[: text.length], 4)
        replay.check(slot, logits, draft_ids(tensors))
