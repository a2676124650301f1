"""Loading weights: dtypes, shards, and every kind of damaged or unsuitable checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pspec_rt.errors import CheckpointError, ConfigError
from pspec_rt.models import Target, load_target
from pspec_rt.models import weights as weights_module
from pspec_rt.models.target import decoder_pieces
from pspec_rt.models.weights import INDEX, SINGLE, Checkpoint
from tests.tiny import copy_checkpoint, edit_json, tiny_checkpoint

GATE = "model.layers.1.mlp.gate_proj.weight"


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / SINGLE)
    edit(tensors)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def pieces_of(target: Target) -> dict[str, Tensor]:
    return decoder_pieces(target.decoder)


def test_every_tensor_lands_in_its_place() -> None:
    folder = tiny_checkpoint("Qwen2ForCausalLM", tie=False)
    stored, loaded = load_file(folder / SINGLE), pieces_of(load_target(folder))
    assert set(stored) == set(loaded)
    assert all(torch.equal(stored[name], loaded[name]) for name in stored)


def test_shards_load_as_one_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    sharded = tiny_checkpoint(shard_size="40KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    monkeypatch.setattr(weights_module, "_REOPEN_BYTES", 1000)  # close and open again inside a file, too
    ours, theirs = pieces_of(load_target(sharded)), pieces_of(load_target(tiny_checkpoint()))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", ["auto", "bf16", "fp32", torch.float32])
def test_dtypes(stored: torch.dtype, wanted: str | torch.dtype, tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_weights(folder, lambda t: t.update({name: tensor.to(stored) for name, tensor in t.items()}))
    edit_json(folder / "config.json", dtype=str(stored).removeprefix("torch."))
    target = load_target(folder, dtype=wanted)
    auto = torch.float32 if stored == torch.float32 else torch.bfloat16
    expected = {"auto": auto, "bf16": torch.bfloat16}.get(wanted, torch.float32)
    assert target.dtype == expected == target.decoder.stack.layers[0].down_MI.dtype
    original = load_file(folder / SINGLE)
    assert all(torch.equal(original[name].to(expected), piece) for name, piece in pieces_of(target).items())


def test_auto_dtype_without_a_word_in_the_config(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "config.json", dtype=..., torch_dtype=...)
    assert load_target(folder).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["fp16", "int4", torch.float16])
def test_unknown_dtype_names_the_choices(dtype: str | torch.dtype) -> None:
    with pytest.raises(ConfigError, match="'auto', 'bf16', 'fp32', 'int8' or 'int8a8'"):
        load_target(tiny_checkpoint(), dtype=dtype)


def test_unusable_device() -> None:
    with pytest.raises(ConfigError, match="device 'abacus'"):
        load_target(tiny_checkpoint(), device="abacus")


def test_missing_shard(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path, shard_size="40KB")
    shard = sorted(folder.glob("*.safetensors"))[2]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name}: shard is missing.*download"):
        load_target(folder)


@pytest.mark.parametrize("keep", [0, 5, 1000, -100])
def test_truncated_file(keep: int, tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=rf"{SINGLE}: truncated"):
        load_target(folder)


def test_a_truncated_file_names_a_tensor(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="inside tensor model"):
        load_target(folder)


def test_rubbish_instead_of_safetensors(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": "?"}}).encode()
    (folder / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_target(folder)


def test_missing_tensors(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_weights(folder, lambda tensors: tensors.pop(GATE))
    with pytest.raises(CheckpointError, match=f"tensors missing: {GATE}$"):
        load_target(folder)
    edit_json(folder / "config.json", num_hidden_layers=5)
    with pytest.raises(CheckpointError, match="and 16 more"):
        load_target(folder)


def test_an_untied_checkpoint_needs_its_head(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "config.json", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"tensors missing: lm_head\.weight"):
        load_target(folder)


def test_unexpected_shape(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_weights(folder, lambda tensors: tensors.update({GATE: torch.zeros(95, 64)}))
    with pytest.raises(CheckpointError, match=rf"{SINGLE}: tensor {GATE} has shape \(95, 64\).*\(96, 64\)"):
        load_target(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64])
def test_wrong_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_weights(folder, lambda tensors: tensors.update({GATE: tensors[GATE].to(dtype)}))
    with pytest.raises(CheckpointError, match=rf"tensor {GATE} is (I8|F64); only F32, F16, BF16"):
        load_target(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_damaged_values(value: float, dtype: str, tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_weights(folder, lambda tensors: tensors[GATE].view(-1)[777:778].fill_(value))
    with pytest.raises(CheckpointError, match=f"tensor {GATE} holds NaN or infinite"):
        load_target(folder, dtype=dtype)


def test_other_formats_are_named(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors.*pytorch_model\.bin: convert it"):
        load_target(folder)


def test_broken_index(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    (folder / INDEX).write_text("{}")
    with pytest.raises(CheckpointError, match="weight_map is missing"):
        load_target(folder)


def test_unused_tensors_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = copy_checkpoint(tmp_path)
    spare = {"lm_head.weight": torch.zeros(1), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}
    edit_weights(folder, lambda tensors: tensors.update(spare))
    with caplog.at_level(logging.WARNING, logger="pspec_rt"):
        load_target(folder)
        assert not caplog.messages  # a tied head and old RoPE tables are no surprise
        edit_weights(folder, lambda tensors: tensors.update({"model.layers.0.extra": torch.zeros(1)}))
        load_target(folder)
    assert ["1 tensors are not used, e.g. model.layers.0.extra" in message for message in caplog.messages] == [True]


def test_integers_are_read_for_drafters(tmp_path: Path) -> None:
    save_file({"d2t": torch.arange(3), "w": torch.zeros(2)}, tmp_path / SINGLE)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.integers("d2t").tolist() == [0, 1, 2] and "w" in checkpoint
    with pytest.raises(CheckpointError, match="tensor w is F32, expected I64"):
        checkpoint.integers("w")
    with pytest.raises(CheckpointError, match="tensor v is missing"):
        checkpoint.shape("v")


def test_progress_bar_only_when_asked(capfd: pytest.CaptureFixture[str]) -> None:
    load_target(tiny_checkpoint())
    assert capfd.readouterr() == ("", "")
    load_target(tiny_checkpoint(), progress=True)
    assert capfd.readouterr().out == ""
