"""Published drafter formats: what they draft equals a straight line written from their descriptions, round by round."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.drafters.config import DFLASH, EAGLE1, EAGLE3, MEDUSA_HEADS, PARD2, PEAGLE
from pspec_rt.tree import TreeSpec
from tests import drafter_formats as formats
from tests import straight_line
from tests.drafter_fixtures import (
    BROKEN,
    VOCAB,
    WIDTH,
    Replay,
    Text,
    draft_ids,
    expect,
    layout,
    misread,
    paths_of,
)
from tests.drafter_formats import MASK, Made
from tests.test_drafters_lm import reference
from tests.tiny import tiny_target

ROUNDS = [None, (1, 3, 5), (5, 1, 2), (2, 5, 1)]  # tokens emitted per slot; None: the first draft
PROMPTS = (9, 2, 24)


def table() -> Tensor:
    return tiny_target().decoder.embed_VM


def head() -> Tensor:
    return tiny_target().decoder.head_VM


def replay_of(drafter: Drafter, tree: TreeSpec) -> Replay:
    texts = [Text.random(60, WIDTH * len(drafter.taps), prompt) for prompt in PROMPTS]
    for text in texts:
        text.tokens.clamp_(min=1)  # token 0's embedding is 0 in the tiny models: all logits equal
    return Replay(drafter, texts, tree)


def run_rounds(replay: Replay, check: Callable[[int, Tensor, Tensor], None]) -> None:
    """Draft after every round of partial acceptance, and check each slot given its text so far."""
    for counts in ROUNDS:
        if counts is not None:
            replay.accept([min(count, replay.state.shape.P) for count in counts])
        replay.draft()
        for slot, text in enumerate(replay.texts):
            check(slot, text.tokens[: text.length], text.features[: text.length])


# -- level by level: EAGLE-1, EAGLE-3 ------------------------------------------------------------------------------

TREES = {
    "chain": TreeSpec.chain(4),
    "static": TreeSpec.static([(0,), (1,), (2,), (0, 0), (0, 1), (2, 0), (0, 1, 0), (2, 0, 1), (0, 1, 0, 2)]),
    "dynamic": TreeSpec.best_first(4, 14, candidates=5),
}
Logits = Callable[[Tensor, Tensor, list[int]], Tensor]  # text, features, path


def check_grown(replay: Replay, tree: TreeSpec, ids_D: Tensor, logits: Logits) -> None:
    def check(slot: int, tokens: Tensor, features: Tensor) -> None:
        logits_of = partial(logits, tokens, features)
        found = paths_of(replay, slot)
        if tree.paths is None:
            assert set(found) == straight_line.grown_tree(logits_of, ids_D, tree.candidates, tree.k, tree.nodes)
        else:
            assert found == straight_line.fixed_tree(logits_of, ids_D, tree.paths)

    run_rounds(replay, check)


@pytest.mark.parametrize("options", [{}, {"bias": False, "embedding": False}])
@pytest.mark.parametrize("tree", TREES)
def test_eagle1(tmp_path: Path, tree: str, options: dict[str, Any]) -> None:
    _, tensors = formats.eagle1(tmp_path, **options)
    drafter = load_drafter(tmp_path, tiny_target())
    assert (drafter.kind, drafter.taps, drafter.default_k) == (EAGLE1, (-1,), 5)
    assert [drafter.default_tree(k).nodes for k in (1, 5)] == [5, 26]
    embedding = tensors.get("embed_tokens.weight", table())
    logits: Logits = partial(straight_line.eagle1, tensors, embedding, head())
    check_grown(replay_of(drafter, TREES[tree]), TREES[tree], torch.arange(VOCAB), logits)


EAGLE3_OPTIONS: list[dict[str, Any]] = [
    {}, {"speculators": True, "norm_before_residual": True}, {"layers": 2, "reduced": False},
]  # fmt: skip


@pytest.mark.parametrize("options", EAGLE3_OPTIONS)
@pytest.mark.parametrize("tree", TREES)
def test_eagle3(tmp_path: Path, tree: str, options: dict[str, Any]) -> None:
    raw, tensors = formats.eagle3(tmp_path, **options)
    drafter = load_drafter(tmp_path, tiny_target())
    assert (drafter.kind, drafter.taps) == (EAGLE3, (2, 1, 0))
    embedding, norm_first = tensors.get("embed_tokens.weight", table()), "norm_before_residual" in raw
    logits: Logits = partial(straight_line.eagle3, tensors, embedding, norm_first=norm_first)
    check_grown(replay_of(drafter, TREES[tree]), TREES[tree], draft_ids(tensors), logits)


GROWING_BROKEN = [
    *((formats.eagle1, "eagle1", wrong) for wrong in (*BROKEN, "shift")),
    *((formats.eagle3, "eagle3", wrong) for wrong in (*BROKEN, "shift", "taps")),
]


@pytest.mark.parametrize("make, line, wrong", GROWING_BROKEN)
def test_a_broken_rule_of_growing_shows(tmp_path: Path, make: Callable[..., Made], line: str, wrong: str) -> None:
    _, tensors = make(tmp_path)
    drafter, tree = load_drafter(tmp_path, tiny_target()), TREES["static"]
    weights = (tensors, tensors.get("embed_tokens.weight", table()), *((head(),) if line == "eagle1" else ()))

    def logits(tokens: Tensor, features: Tensor, path: list[int]) -> Tensor:
        return getattr(straight_line, line)(*weights, tokens, misread(features, wrong), path, wrong=wrong)

    expect(wrong, lambda: check_grown(replay_of(drafter, tree), tree, draft_ids(tensors), logits))


# -- in one pass: P-EAGLE, Medusa, PARD-2, DFlash ------------------------------------------------------------------


def check_rows(replay: Replay, ids_D: Tensor, logits: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`logits`: [K, D] after a text with these features."""
    run_rounds(replay, lambda slot, tokens, features: replay.check(slot, logits(tokens, features), ids_D))


PEAGLE_OPTIONS: list[dict[str, Any]] = [
    {"masks": (1, 1, 3 * WIDTH)}, {"masks": (1, 3 * WIDTH), "layers": 4, "reduced": False},
    {"masks": (1, 1, 3 * WIDTH), "layers": 2, "speculators": True, "eagle_aux_hidden_state_layer_ids": [0, 1, 3]},
]  # fmt: skip


@pytest.mark.parametrize("wrong", ["", *BROKEN, "shift", "taps"])
@pytest.mark.parametrize("options", PEAGLE_OPTIONS)
def test_p_eagle(tmp_path: Path, options: dict[str, Any], wrong: str) -> None:
    raw, tensors = formats.eagle3(tmp_path, **options)
    drafter = load_drafter(tmp_path, tiny_target())
    assert (drafter.kind, drafter.max_k) == (PEAGLE, 32)
    assert drafter.taps == tuple(raw.get("eagle_aux_hidden_state_layer_ids", (2, 1, 0)))
    embedding = tensors.get("embed_tokens.weight", table())

    def logits(tokens: Tensor, features: Tensor) -> Tensor:
        return straight_line.p_eagle(tensors, embedding, tokens, misread(features, wrong), 4, wrong)

    expect(wrong, lambda: check_rows(replay_of(drafter, TreeSpec.best_first(4, 12, 6)), draft_ids(tensors), logits))


@pytest.mark.parametrize("wrong", ["", "shift", "heads"])
@pytest.mark.parametrize("options", [{}, {"blocks": 2, "pickle": False}, {"one": True}])
def test_medusa(tmp_path: Path, options: dict[str, Any], wrong: str) -> None:
    _, tensors = formats.medusa(tmp_path, **options)
    drafter = load_drafter(tmp_path, tiny_target())
    assert (drafter.kind, drafter.taps, drafter.default_k) == (MEDUSA_HEADS, (-1,), 4)
    once = sum(t.nbytes for name, t in tensors.items() if "linear" in name or name.startswith("0."))
    assert drafter.nbytes == (once if options.get("one") else sum(t.nbytes for t in tensors.values()))

    def logits(tokens: Tensor, features: Tensor) -> Tensor:
        rows = straight_line.medusa(tensors, misread(features, wrong), len(tokens), 4, options.get("blocks", 1))
        return rows.roll(1, dims=0) if wrong == "heads" else rows

    replay = replay_of(drafter, TreeSpec.best_first(4, 12, 6))
    replay.sample((0.0, 0.7, 1.3))
    expect(wrong, lambda: check_rows(replay, torch.arange(VOCAB), logits))


@pytest.mark.parametrize("wrong", ["", *BROKEN, "eagle shift", "mask features", "taps"])
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_pard2(tmp_path: Path, architecture: str, wrong: str) -> None:
    raw, tensors = formats.pard2(tmp_path, architecture, bias=architecture == "Qwen3ForCausalLM")
    drafter = load_drafter(tmp_path / "checkpoint", tiny_target())
    assert (drafter.kind, drafter.taps) == (PARD2, (-1, 2))
    model, K = reference(architecture), 4

    def logits(tokens: Tensor, features: Tensor) -> Tensor:
        """Position t adds the projected features of t-1; masks those of the newest row."""
        features = misread(features, wrong)
        before = torch.cat([torch.zeros(1, features.shape[1]), features[: len(tokens) - 1]])
        if wrong == "eagle shift":
            before = features
        last = torch.zeros_like(before[-1:]) if wrong == "mask features" else before[-1:]
        before = torch.cat([before, last.repeat(K - 1, 1)])
        ids = torch.cat([tokens, torch.full((K - 1,), MASK)])
        added = before @ tensors["target_proj.weight"].T + tensors.get("target_proj.bias", 0)
        x = model.get_input_embeddings()(ids) + raw["pard2_scale"] * added
        at, seen = layout(len(tokens), len(ids), wrong)
        return model(inputs_embeds=x[None], position_ids=at[None], attention_mask=seen[None, None]).logits[0, -K:]

    with torch.no_grad():
        replay = replay_of(drafter, TreeSpec.best_first(K, 12, 6))
        expect(wrong, lambda: check_rows(replay, torch.arange(VOCAB), logits))


@pytest.mark.parametrize("wrong", ["", "positions", "one way", "shift", "taps"])
@pytest.mark.parametrize("k", [5, 3])
def test_dflash(tmp_path: Path, k: int, wrong: str) -> None:
    _, tensors = formats.dflash(tmp_path)
    drafter = load_drafter(tmp_path, tiny_target())
    assert (drafter.kind, drafter.taps, drafter.default_k, drafter.max_k) == (DFLASH, (1, 3), 5, 5)

    def logits(tokens: Tensor, features: Tensor) -> Tensor:
        return straight_line.dflash(tensors, table(), head(), tokens, misread(features, wrong), 6, wrong)[:k]

    expect(wrong, lambda: check_rows(replay_of(drafter, TreeSpec.best_first(k, 12, 6)), torch.arange(VOCAB), logits))


@torch.no_grad()
def test_dflash_equals_transformers(tmp_path: Path) -> None:
    """Against the one DFlash model that transformers ships; what it calls encoder is fc and hidden_norm."""
    muse = pytest.importorskip("transformers.models.muse_glimmer_assistant.modeling_muse_glimmer_assistant")
    raw, tensors = formats.dflash(tmp_path)
    sizes = {name: raw[name] for name in formats.LLAMA if name not in ("vocab_size", "rope_theta")}
    config = muse.MuseGlimmerAssistantConfig(
        **sizes, layer_types=raw["layer_types"], block_size=6, target_layer_ids=[0, 2],
        rope_parameters={"rope_type": "default", "rope_theta": raw["rope_theta"]},
    )  # fmt: skip
    model = muse.MuseGlimmerAssistantModel(config).eval()
    renamed = {"fc.weight": "encoder.fc.weight", "hidden_norm.weight": "encoder.output_norm_enc.weight"}
    model.load_state_dict({renamed.get(name, name): tensor for name, tensor in tensors.items()})

    def logits(tokens: Tensor, features: Tensor) -> Tensor:
        known = len(tokens) - 1
        block = table()[torch.cat([tokens[-1:], torch.full((5,), MASK)])]
        at = torch.arange(known + 6)[None]
        out = model(noise_embeds=block[None], context_hidden_states=features[None, :known], position_ids=at)
        return out.last_hidden_state[0, 1:] @ head().T

    drafter = load_drafter(tmp_path, tiny_target())
    check_rows(replay_of(drafter, TreeSpec.best_first(5, 12, 6)), torch.arange(VOCAB), logits)
