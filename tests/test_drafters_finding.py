"""Finding a drafter by a word, the ones that are shipped, and what `inspect` says of one."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pspec_rt import zoo
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.drafters.config import DFLASH, EAGLE1, EAGLE3, KINDS, MEDUSA_HEADS, PEAGLE, target_entry
from pspec_rt.drafters.inspect import inspect_checkpoint
from pspec_rt.drafters.new import init_drafter
from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.drafters.registry import find_drafter
from pspec_rt.errors import CheckpointError, DrafterMismatchError
from pspec_rt.tree import parse_tree
from tests.drafter_fixtures import EAGLE, MEDUSA, VOCAB, WIDTH, feature_checkpoint, write_checkpoint
from tests.drafter_formats import published
from tests.tiny import copy_checkpoint, edit_json, tiny_checkpoint, tiny_target


def test_find_drafter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    feature_checkpoint(tmp_path / "mine")
    target = tiny_target()
    with caplog.at_level(logging.INFO, "pspec_rt"):
        assert find_drafter(None, target) is None and find_drafter("none", target) is None
        assert isinstance(find_drafter("ngram", target), NgramDrafter)
        found = find_drafter(tmp_path / "mine", target)
        assert found is not None and found.kind == EAGLE
        assert find_drafter(found, target) is found
    lines = [line for line in caplog.messages if line.startswith("drafter: ")]
    assert len(lines) == 5 and "none" in lines[0] and "ngram" in lines[2] and "mine" in lines[3]


def test_a_drafter_of_another_target_is_refused() -> None:
    other = replace(tiny_target(), config=replace(tiny_target().config, vocab_size=1000))
    for kind in KINDS:
        with pytest.raises(DrafterMismatchError, match="1000"):
            find_drafter(init_drafter(kind, tiny_target(), 4), other)


def test_auto_takes_the_shipped_drafter_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    target = tiny_target()
    with caplog.at_level(logging.INFO, "pspec_rt"):
        assert isinstance(find_drafter("auto", target), NgramDrafter)
        assert "no shipped drafter" in caplog.text
        raw, tensors = feature_checkpoint(tmp_path / "fits", MEDUSA)
        assert raw["target"] == target_entry(target.config)
        raw["target"]["num_hidden_layers"] = 30
        write_checkpoint(tmp_path / "another", raw, tensors)
        caplog.clear()
        found = find_drafter("auto", target)
    assert found is not None and found.kind == f"{MEDUSA}+ngram"
    assert "shipped, fits" in caplog.text
    assert zoo.names() == ["another", "fits"]
    assert load_drafter("fits", target).kind == MEDUSA, "its name serves as a path"
    shutil.rmtree(tmp_path / "fits")
    assert isinstance(find_drafter("auto", target), NgramDrafter)


def test_shipped_drafters_are_described() -> None:
    """Every folder of the zoo is a drafter checkpoint that says what it was made for, with a card; all are small."""
    for name in zoo.names():
        described = inspect_checkpoint(name)
        assert described["kind"] in KINDS and described["target"]["architecture"]
        card = (zoo.folder(name) / "README.md").read_text()
        assert all(part in card for part in ("licence", "pspec-rt train", "| depth |", "| chain"))
        assert " /" not in card.split("## Training")[1].split("\n\n")[1], "no folders of the machine it was trained on"
    assert sum(file.stat().st_size for file in zoo.ROOT.rglob("*") if file.is_file()) <= 24_000_000


def test_inspect_drafters(tmp_path: Path) -> None:
    _, tensors = feature_checkpoint(tmp_path, EAGLE, taps=(1, -1), draft_ids=range(3, 300, 3), layers=2)
    count = sum(t.numel() for name, t in tensors.items() if name != "d2t")
    assert inspect_checkpoint(tmp_path) == {
        "path": str(tmp_path),
        "kind": EAGLE,
        "architecture": "LlamaForCausalLM",
        "layers": 2,
        "hidden_size": WIDTH,
        "vocab_size": VOCAB,
        "parameters": count,
        "bytes": 4 * count,
        "dtypes": ["float32"],
        "k": 4,
        "tree": "chain",
        "taps": [1, -1],
        "draft_vocab_size": 99,
        "target": target_entry(tiny_target().config),
    }


@pytest.mark.parametrize("kind", [EAGLE1, EAGLE3, PEAGLE, DFLASH, MEDUSA_HEADS])
def test_inspect_names_the_tree_that_is_drafted(kind: str) -> None:
    """EAGLE's heads have trees of their own; they are not called chains."""
    described, drafter = inspect_checkpoint(published(kind)), load_drafter(published(kind), tiny_target())
    assert ("tree" in described) == (kind in (PEAGLE, DFLASH))
    if "tree" in described:
        assert parse_tree(described["tree"], described["k"]) == drafter.default_tree(drafter.default_k)


def test_inspect_language_models(tmp_path: Path) -> None:
    described = inspect_checkpoint(tiny_checkpoint("Qwen3ForCausalLM"))
    assert (described["kind"], described["architecture"]) == ("causal-lm", "Qwen3ForCausalLM")
    weights = load_file(tiny_checkpoint("Qwen3ForCausalLM") / "model.safetensors").values()
    assert described["parameters"] == sum(tensor.numel() for tensor in weights)
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "config.json", pard_token=380)
    assert inspect_checkpoint(folder)["kind"] == "pard"
    with pytest.raises(CheckpointError, match="no such folder"):
        inspect_checkpoint(tmp_path / "nowhere")
