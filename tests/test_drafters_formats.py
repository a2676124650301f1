"""Published drafter checkpoints: recognised, saved, inspected, and every kind of bad input."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pspec_rt.drafters.checkpoint import load_drafter, save_drafter
from pspec_rt.drafters.config import DFLASH, EAGLE1, EAGLE3, MEDUSA_HEADS, PARD2, PEAGLE, PUBLISHED
from pspec_rt.drafters.inspect import inspect_checkpoint
from pspec_rt.errors import CheckpointError, ConfigError, DrafterMismatchError
from tests import drafter_formats as formats
from tests.drafter_fixtures import VOCAB, WIDTH
from tests.drafter_formats import Made, published
from tests.test_drafters_checkpoint import drafts_of
from tests.tiny import copy_checkpoint, edit_json, tiny_target


@pytest.mark.parametrize("kind", [kind for kind in PUBLISHED if kind != PARD2])
def test_a_saved_drafter_is_the_same(tmp_path: Path, kind: str) -> None:
    drafter = load_drafter(published(kind), tiny_target())
    assert drafter.kind == kind
    again = load_drafter(save_drafter(drafter, tmp_path), tiny_target())
    assert again.kind == kind
    for left, right in zip(drafts_of(drafter), drafts_of(again), strict=True):
        assert torch.equal(left, right)
    saved = load_file(tmp_path / "model.safetensors")
    assert sum(t.nbytes for name, t in saved.items() if name != "d2t") <= drafter.nbytes


def test_a_projection_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pard2"):
        save_drafter(load_drafter(published(PARD2), tiny_target()), tmp_path)


@pytest.mark.parametrize(
    ("kind", "k", "taps"),
    [
        (EAGLE1, 5, [-1]),
        (EAGLE3, 7, []),
        (PEAGLE, 7, []),
        (MEDUSA_HEADS, 7, [-1]),
        (PARD2, 12, [-1, -2]),
        (DFLASH, 7, [1, 3]),
    ],
)
def test_inspect(kind: str, k: int, taps: list[int]) -> None:
    described = inspect_checkpoint(published(kind))
    assert (described["kind"], described["k"], described["taps"]) == (kind, k, taps)
    assert described["vocab_size"] == VOCAB and described["parameters"] > 0 and described["bytes"] > 0
    if kind != PARD2:
        assert described["target"] == {"vocab_size": VOCAB, "hidden_size": WIDTH}


def test_int8_weights() -> None:
    for kind in PUBLISHED:
        whole = load_drafter(published(kind), tiny_target(dtype="bf16"), "bf16").nbytes
        assert load_drafter(published(kind), tiny_target(dtype="bf16"), "int8").nbytes < 0.8 * whole


BAD: list[tuple[Callable[..., Made], dict[str, Any], type[Exception], str]] = [
    (formats.eagle3, {"masks": (1, 1, 3 * WIDTH), "ptd_token_id": VOCAB}, CheckpointError, "mask token is 384"),
    (formats.eagle3, {"masks": (1, 1, 3 * WIDTH), "ptd_token_id": None}, CheckpointError, "mask token is None"),
    (formats.eagle3, {"masks": (2, 3 * WIDTH)}, CheckpointError, r"mask_hidden has shape \(2, 192\)"),
    (formats.eagle3, {"ptd_token_id": 5}, CheckpointError, "tensors missing: mask_hidden"),
    (formats.eagle3, {"eagle_aux_hidden_state_layer_ids": [1, 2, 9]}, DrafterMismatchError, "hidden state 9"),
    (formats.eagle3, {"eagle_aux_hidden_state_layer_ids": [1, 2]}, CheckpointError, r"fc.weight has shape \(64, 192\)"),
    (formats.eagle3, {"fc_norm": True}, CheckpointError, "fc_norm is not supported"),
    (formats.eagle3, {"target_hidden_size": 96}, DrafterMismatchError, "width 96, the target .* has 64"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), BAD)
def test_bad_checkpoints(
    tmp_path: Path, make: Callable[..., Made], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    raw, _ = make(tmp_path, **{name: value for name, value in options.items() if name == "masks"})
    config = {**raw, **{name: value for name, value in options.items() if name != "masks"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        load_drafter(tmp_path, tiny_target())


def test_unknown_speculators_are_named(tmp_path: Path) -> None:
    formats.eagle3(tmp_path, speculators=True)
    edit_json(tmp_path / "config.json", speculators_model_type="dspark")
    with pytest.raises(CheckpointError, match="speculators_model_type 'dspark'"):
        load_drafter(tmp_path, tiny_target())


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path("ran").touch, ()  # type: ignore[return-value]


def test_pickles_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    formats.medusa(tmp_path)
    torch.save({"0.0.linear.weight": Evil()}, tmp_path / "medusa_lm_head.pt")
    with pytest.raises(CheckpointError, match=r"medusa_lm_head.pt: not a PyTorch file that holds tensors alone"):
        load_drafter(tmp_path, tiny_target())
    assert not Path("ran").exists()
    (tmp_path / "medusa_lm_head.pt").write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match="medusa_lm_head.pt"):
        load_drafter(tmp_path, tiny_target())


def test_medusa_heads_must_be_whole_and_fit(tmp_path: Path) -> None:
    _, tensors = formats.medusa(tmp_path)
    del tensors["1.1.weight"]
    torch.save(tensors, tmp_path / "medusa_lm_head.pt")
    with pytest.raises(CheckpointError, match="expected Medusa heads"):
        load_drafter(tmp_path, tiny_target())
    formats.medusa(tmp_path)
    other = replace(tiny_target(), config=replace(tiny_target().config, vocab_size=1000))
    with pytest.raises(DrafterMismatchError, match="384 tokens .* has 1000"):
        load_drafter(tmp_path, other)


def test_pard2_needs_its_target_or_goes_without(tmp_path: Path) -> None:
    formats.pard2(tmp_path, "LlamaForCausalLM", taps=(-1, -2, -3))
    folder = tmp_path / "checkpoint"
    edit_json(folder / "config.json", pard2_target_layers=[-1, -2])
    with pytest.raises(DrafterMismatchError, match=r"target_proj.weight has shape \(64, 192\); for 2 hidden states"):
        load_drafter(folder, tiny_target())
    edit_json(folder / "config.json", pard2_target_layers=[-1, -9])
    with pytest.raises(DrafterMismatchError, match="reads hidden state"):
        load_drafter(folder, tiny_target())
    edit_json(folder / "config.json", pspec={"kind": "pard", "k": 8})
    assert (load_drafter(folder, tiny_target()).kind, load_drafter(folder, tiny_target()).taps) == ("pard", ())


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    one, other = list(vocab)[100:102]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DrafterMismatchError, match="its tokenizer gives .* that of the target") as caught:
        load_drafter(folder, tiny_target())
    assert str(folder) in str(caught.value) and str(tiny_target().path) in str(caught.value)


def test_a_mask_token_in_use_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "config.json", pard_token=300)
    with caplog.at_level(logging.WARNING, "pspec_rt"):
        load_drafter(folder, tiny_target())
    assert "mask token 300" in caplog.text and "in use" in caplog.text
