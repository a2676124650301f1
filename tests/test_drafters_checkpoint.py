"""Drafter checkpoints: round trips, new drafters, every kind of bad input, finding and inspecting them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.checkpoint import load_drafter, save_drafter
from pspec_rt.drafters.config import KINDS
from pspec_rt.drafters.feature import FeatureDrafter
from pspec_rt.drafters.new import PARTS, init_drafter
from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.engine import Engine
from pspec_rt.errors import CheckpointError, ConfigError, DrafterMismatchError
from pspec_rt.tree import TreeSpec, medusa_tree
from tests.drafter_fixtures import (
    EAGLE,
    MEDUSA,
    VOCAB,
    WIDTH,
    Replay,
    Text,
    feature_checkpoint,
    write_checkpoint,
)
from tests.tiny import copy_checkpoint, edit_json, tiny_checkpoint, tiny_target

ALL = ("bias", "anchor_map", "head", "embedding", "blocks")


def drafts_of(drafter: Drafter) -> tuple[Tensor, Tensor]:
    """What a drafter says after a fixed text."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, VOCAB, (30,), generator=generator)
    features = torch.randn(30, WIDTH * len(drafter.taps), generator=generator)
    replay = Replay(drafter, [Text(tokens, features, 9)], TreeSpec.chain(3))
    replay.accept([2])
    drafted = replay.draft()
    if not drafter.grows_tree:
        return drafted
    growth = replay.state.drafter.growth
    return growth.pool_ids_BGC, growth.pool_scores_BGC


# -- saving and loading ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (EAGLE, {}),
        (EAGLE, {"layers": 2, "taps": (0, -1), "draft_ids": range(3, 300, 3), "extras": ALL}),
        (EAGLE, {"draft_ids": range(3, 300, 3)}),
        (MEDUSA, {}),
        (MEDUSA, {"hidden": 32, "extras": ("head", "blocks", "anchor_map", "bias")}),
    ],
)
def test_a_saved_drafter_is_the_same(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    raw, tensors = feature_checkpoint(tmp_path / "a", kind, **options)
    drafter = load_drafter(tmp_path / "a", tiny_target())
    folder = save_drafter(drafter, tmp_path / "made" / "b")
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensors[name]) for name in tensors)
    assert json.loads((folder / "config.json").read_text()) == {**raw, "dtype": "float32"}
    _assert_same_drafts(drafter, load_drafter(folder, tiny_target()))
    assert drafter.nbytes == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("pard_token", [None, 380])
def test_a_saved_language_model_is_the_same(tmp_path: Path, pard_token: int | None) -> None:
    source = copy_checkpoint(tmp_path, architecture="Qwen3ForCausalLM", tie=False)
    if pard_token is not None:
        edit_json(source / "config.json", pard_token=pard_token)
    drafter = load_drafter(source, tiny_target())
    folder = save_drafter(drafter, tmp_path / "b")
    saved, tensors = (load_file(path / "model.safetensors") for path in (folder, source))
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensors[name]) for name in tensors)
    again = load_drafter(folder, tiny_target())
    assert again.kind == drafter.kind == ("lm" if pard_token is None else "pard")
    _assert_same_drafts(drafter, again)


@pytest.mark.parametrize("kind", KINDS)
def test_new_drafters_save_and_load(tmp_path: Path, kind: str) -> None:
    drafter = init_drafter(kind, tiny_target(), k=4, layers=2, seed=5)
    again = load_drafter(save_drafter(drafter, tmp_path), tiny_target())
    assert (again.kind, again.default_k) == (kind, 4)
    _assert_same_drafts(drafter, again)
    other = init_drafter(kind, tiny_target(), k=4, layers=2, seed=6)
    assert not torch.equal(drafts_of(other)[1], drafts_of(drafter)[1])


@pytest.mark.parametrize("kind", [EAGLE, MEDUSA])
def test_new_drafters_of_every_shape(tmp_path: Path, kind: str) -> None:
    drafter = init_drafter(
        kind, tiny_target(), k=5, layers=2, hidden_size=32, intermediate_size=40, taps=(1, 2),
        draft_vocab=[3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377], parts=tuple(PARTS),
    )  # fmt: skip
    ids, _ = drafts_of(drafter)
    assert set(ids.flatten().tolist()) <= {3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377}
    again = load_drafter(save_drafter(drafter, tmp_path), tiny_target())
    _assert_same_drafts(drafter, again)
    lowest = init_drafter(kind, tiny_target(), k=5, draft_vocab=20)
    assert int(drafts_of(lowest)[0].max()) < 20


def test_dtypes(tmp_path: Path) -> None:
    feature_checkpoint(tmp_path)
    load = {dtype: load_drafter(tmp_path, tiny_target(), dtype) for dtype in (None, "bf16", "fp32")}
    assert load[None].nbytes == load["fp32"].nbytes == 2 * load["bf16"].nbytes
    assert load_drafter(tmp_path, tiny_target(dtype="bf16")).nbytes == load["fp32"].nbytes  # nothing is inherited
    saved = save_drafter(load["bf16"], tmp_path / "bf16")
    assert json.loads((saved / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_drafter(saved, tiny_target(), "auto").nbytes == load["bf16"].nbytes
    with pytest.raises(ConfigError, match="int4"):
        load_drafter(tmp_path, tiny_target(), "int4")
    with pytest.raises(ConfigError, match="int8"):
        init_drafter(EAGLE, tiny_target(), 4, dtype="int8")


def test_nothing_to_save() -> None:
    with pytest.raises(ConfigError, match="ngram drafter has no weights"):
        save_drafter(NgramDrafter(), "anywhere")


def test_default_trees() -> None:
    assert init_drafter(MEDUSA, tiny_target(), 4).default_tree(4) == medusa_tree(4)
    assert init_drafter(EAGLE, tiny_target(), 4).default_tree(4) == TreeSpec.chain(4)


def test_a_checkpoint_may_name_its_tree(tmp_path: Path) -> None:
    save_drafter(init_drafter(EAGLE, tiny_target(), 4), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())

    def load(tree: object) -> FeatureDrafter:
        raw["pspec"]["tree"] = tree
        (tmp_path / "config.json").write_text(json.dumps(raw))
        drafter = load_drafter(tmp_path, tiny_target())
        assert isinstance(drafter, FeatureDrafter)
        return drafter

    assert load("best-first:9").default_tree(3) == TreeSpec.best_first(3, 9)
    wide, narrow = load("best-first:60"), load("best-first:14:3")  # fewer depths may not hold as many nodes
    assert [wide.default_tree(k) for k in (1, 2)] == [TreeSpec.chain(1), TreeSpec.best_first(2, 60)]
    assert [narrow.default_tree(k) for k in (2, 3)] == [TreeSpec.best_first(2, 13, 3), TreeSpec.best_first(3, 14, 3)]
    assert Engine(tiny_target(), wide, k=1).tree == TreeSpec.chain(1)
    assert load("medusa").default_tree(1) == medusa_tree(1)
    with pytest.raises(ConfigError, match="fewer than 60 nodes"):
        Engine(tiny_target(), wide, k=1, tree="best-first:60")  # the user's own words are taken as they are
    for wrong in ("shrub", "paths.json", 9, "best-first:99"):
        with pytest.raises(CheckpointError, match=r"pspec: .*tree"):
            load(wrong)


def _assert_same_drafts(one: Drafter, other: Drafter) -> None:
    for left, right in zip(drafts_of(one), drafts_of(other), strict=True):
        assert torch.equal(left, right)


# -- bad input -------------------------------------------------------------------------------------


def _pspec(**changes: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda raw, tensors: raw["pspec"].update(changes)


def _config(**changes: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda raw, tensors: raw.update(changes)


def _target(**changes: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda raw, tensors: raw["target"].update(changes)


def _tensor(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    """Replace a tensor by what `value` makes of it; None removes it."""

    def change(raw: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        new = value(tensors[name]) if value else None
        tensors.pop(name)
        if new is not None:
            tensors[name] = new.contiguous()

    return change


def _nan(tensor: Tensor) -> Tensor:
    tensor.view(-1)[5] = torch.nan
    return tensor


BAD: list[tuple[Callable[..., None], type[Exception], str]] = [
    (_pspec(kind="eagle9"), CheckpointError, r"kind': 'eagle9'.*parallelspec-eagle"),
    (_config(pspec="yes"), CheckpointError, "pspec = 'yes'"),
    (_pspec(k=0), CheckpointError, "pspec: k = 0"),
    (_pspec(k=33), CheckpointError, "k = 33, at most 32"),
    (_pspec(k=7), CheckpointError, "k = 7 needs 6 mask embeddings, .* holds 3: correct k to 4"),
    (_pspec(k=3), CheckpointError, "k = 3 needs 2 mask embeddings, .* holds 3"),
    (_tensor("mask_embedding.weight", None), CheckpointError, "needs 3 mask embeddings, .* holds 0"),
    (_tensor("mask_embedding.weight", lambda t: t[:, 1:]), CheckpointError, r"mask_embedding.* \(3, 63\)"),
    (_tensor("mask_feature", None), CheckpointError, "missing: mask_feature"),
    (_pspec(taps=[]), CheckpointError, r"taps = \[\]"),
    (_pspec(taps=["last"]), CheckpointError, "taps = "),
    (_pspec(taps=[1, 1]), CheckpointError, "names a hidden state twice"),
    (_pspec(taps=[4]), DrafterMismatchError, r"taps hidden state 4.*has 0\.\.3"),
    (_pspec(taps=[-2]), DrafterMismatchError, "taps hidden state -2"),
    (_pspec(taps=[1, 2]), CheckpointError, r"fc.weight has shape \(64, 128\).*\(64, 192\)"),
    (_config(vocab_size=500), DrafterMismatchError, "vocabulary of 500 tokens, the target .* has 384"),
    (_target(hidden_size=96), DrafterMismatchError, "width 96, the target .* has 64"),
    (_config(target=None), CheckpointError, "target is missing"),
    (_target(hidden_size="64"), CheckpointError, "target: hidden_size = '64'"),
    (_config(hidden_size=None), CheckpointError, "hidden_size is missing"),
    (_config(attention_bias=True), CheckpointError, "attention_bias"),
    (_config(num_hidden_layers=2), CheckpointError, r"tensors missing: layers\.1\."),
    (_config(draft_vocab_size=100), CheckpointError, "draft_vocab_size 100 differs .* no d2t"),
    (_tensor("layers.0.mlp.up_proj.weight", _nan), CheckpointError, "up_proj.weight holds NaN"),
    (_tensor("layers.0.self_attn.q_proj.weight", lambda t: t[1:]), CheckpointError, "q_proj"),
    (_tensor("norm.weight", lambda t: t.long()), CheckpointError, "norm.weight is I64"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[case[2][:30] for case in BAD])
def test_bad_checkpoints(tmp_path: Path, change: Callable[..., None], error: type[Exception], message: str) -> None:
    raw, tensors = feature_checkpoint(tmp_path)
    change(raw, tensors)
    write_checkpoint(tmp_path, raw, tensors)
    with pytest.raises(error, match=message) as caught:
        load_drafter(tmp_path, tiny_target())
    assert type(caught.value) is error
    assert str(tmp_path) in str(caught.value)


BAD_IDS: list[tuple[Callable[..., None], type[Exception], str]] = [
    (_tensor("d2t", lambda t: t + 380), DrafterMismatchError, r"ids 383\.\.\d+, .* 0\.\.383"),
    (_tensor("d2t", lambda t: t - 9), DrafterMismatchError, r"ids -6\.\."),
    (_tensor("d2t", lambda t: t.flip(0)), CheckpointError, "not ascending"),
    (_tensor("d2t", lambda t: t[1:]), CheckpointError, r"d2t has shape \(98,\), .* \(99,\)"),
    (_tensor("d2t", lambda t: t.float()), CheckpointError, "d2t is F32"),
    (_tensor("d2t", None), CheckpointError, "no d2t"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_IDS)
def test_bad_reduced_vocabularies(
    tmp_path: Path, change: Callable[..., None], error: type[Exception], message: str
) -> None:
    raw, tensors = feature_checkpoint(tmp_path, draft_ids=range(3, 300, 3))
    change(raw, tensors)
    write_checkpoint(tmp_path, raw, tensors)
    with pytest.raises(error, match=message):
        load_drafter(tmp_path, tiny_target())


def test_a_narrow_drafter_needs_its_own_head(tmp_path: Path) -> None:
    feature_checkpoint(tmp_path, hidden=48)
    with pytest.raises(DrafterMismatchError, match="no lm_head.weight.*width 64, the drafter has 48"):
        load_drafter(tmp_path, tiny_target())
    with pytest.raises(DrafterMismatchError, match="no lm_head.weight"):
        init_drafter(EAGLE, tiny_target(), 4, hidden_size=48)


def test_unknown_folders_say_what_they_hold(tmp_path: Path) -> None:
    raw = {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}
    write_checkpoint(tmp_path, raw, {"midlayer.fc.weight": torch.zeros(1), "d2t": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="LlamaForCausalLMEagle3.*2 tensors such as d2t, midlayer"):
        load_drafter(tmp_path, tiny_target())
    # An EAGLE-1 head calls itself a LlamaForCausalLM, and is none.
    write_checkpoint(tmp_path, {"architectures": ["LlamaForCausalLM"]}, {"fc.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="LlamaForCausalLM.*such as fc.weight"):
        load_drafter(tmp_path, tiny_target())
    with pytest.raises(CheckpointError, match="no such folder"):
        load_drafter(tmp_path / "nowhere", tiny_target())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        load_drafter(tmp_path, tiny_target())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pard_token": VOCAB}, f"pard_token = {VOCAB} is outside"),
        ({"pard_token": -1}, "pard_token = -1"),
        ({"pard_token": "<mask>"}, "pard_token = '<mask>'"),
        ({"pspec": {"kind": "pard", "k": 4}}, "pard_token is missing"),
        ({"pspec": {"kind": "lm", "k": 40}}, "k = 40, at most 32"),
    ],
)
def test_bad_language_models(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_drafter(folder, tiny_target())


@pytest.mark.parametrize("vocab", [VOCAB - 256, VOCAB + 256])
def test_a_language_model_of_another_vocabulary(vocab: int) -> None:
    target = replace(tiny_target(), config=replace(tiny_target().config, vocab_size=vocab))
    with pytest.raises(DrafterMismatchError, match=f"of 384 tokens, the target .* has {vocab}"):
        load_drafter(tiny_checkpoint(), target)


@pytest.mark.parametrize(
    ("kind", "k", "options", "message"),
    [
        ("eagle", 4, {}, "kind='eagle'.*parallelspec-eagle"),
        (EAGLE, 0, {}, "k=0"),
        (EAGLE, 33, {}, "k=33"),
        (EAGLE, 4, {"parts": ("wing",)}, "wing.*anchor_map"),
        ("pard", 4, {"draft_vocab": 10}, "pard drafter has neither taps nor draft_vocab"),
        ("lm", 4, {"taps": (1,)}, "lm drafter has neither"),
    ],
)
def test_bad_options_of_new_drafters(kind: str, k: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        init_drafter(kind, tiny_target(), k, **options)


def test_too_many_candidates_for_a_reduced_vocabulary() -> None:
    drafter = init_drafter(EAGLE, tiny_target(), 4, draft_vocab=5)
    with pytest.raises(ConfigError, match="6 candidates per depth; .* 5 tokens"):
        Engine(tiny_target(), drafter, max_length=64, tree=TreeSpec.best_first(4, 8, candidates=6))
