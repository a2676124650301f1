"""Export for vLLM: P-EAGLE and PARD come back as they were, in the layout its loader reads; the rest is refused."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pspec_rt.cli import main
from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.checkpoint import load_drafter, save_drafter
from pspec_rt.drafters.config import DFLASH, EAGLE1, EAGLE3, MEDUSA_HEADS, PARD, PARD2, PEAGLE
from pspec_rt.drafters.export import export_vllm
from pspec_rt.drafters.inspect import inspect_checkpoint
from pspec_rt.errors import CheckpointError, ConfigError
from pspec_rt.generator import Generator
from pspec_rt.train.published import new_p_eagle
from pspec_rt.tree import TreeSpec
from tests import drafter_formats as formats
from tests.drafter_fixtures import (
    EAGLE,
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    MEDUSA,
    VOCAB,
    WIDTH,
    Replay,
    Text,
    feature_checkpoint,
)
from tests.drafter_formats import MASK, MLP, REDUCED, published
from tests.tiny import copy_checkpoint, edit_json, tiny_checkpoint, tiny_target

MASKS = (1, 1, 3 * WIDTH)


def trained(folder: Path) -> None:
    """What `pspec-rt train --family p-eagle` writes."""
    drafter = new_p_eagle(tiny_target(), 3, (0, 1, 2), 2, REDUCED, MASK, seed=1)
    drafter.weights.mask_hidden_F.normal_()
    save_drafter(drafter, folder)


def speculators(folder: Path) -> None:
    ids = [0, 1, 3]
    formats.eagle3(
        folder, masks=MASKS, speculators=True, norm_before_residual=True, eagle_aux_hidden_state_layer_ids=ids
    )


MADE: dict[str, Callable[[Path], Any]] = {
    "trained": trained,
    "speculators": speculators,
    "published": lambda folder: formats.eagle3(folder, masks=MASKS, layers=2),
    "all tokens": lambda folder: formats.eagle3(folder, masks=(1, 3 * WIDTH), reduced=False),
}


def pard(tmp_path: Path, **changes: Any) -> Path:
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "config.json", pard_token=MASK, **changes)
    return folder


def drafts(drafter: Drafter, order: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """What a drafter says in two rounds; `order`: of the hidden states it taps."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, len(drafter.taps), WIDTH, generator=generator)
    tokens = torch.randint(1, VOCAB, (30,), generator=generator)
    features = features[:, list(order)] if order else features
    replay = Replay(drafter, [Text(tokens, features.flatten(1), 9)], TreeSpec.chain(3))
    replay.accept([2])
    return replay.draft()


@pytest.mark.parametrize("made", MADE)
def test_a_p_eagle_drafter_comes_back(tmp_path: Path, made: str) -> None:
    MADE[made](tmp_path / "own")
    exported = export_vllm(tmp_path / "own", tmp_path / "out")
    before, after = (load_drafter(tmp_path / name, tiny_target()) for name in ("own", "out"))
    assert (after.kind, after.taps, after.default_k) == (PEAGLE, before.taps, before.default_k)
    for left, right in zip(drafts(before), drafts(after), strict=True):
        assert torch.equal(left, right)
    assert exported.speculative_config == {
        "method": "eagle3",
        "model": str(tmp_path / "out"),
        "parallel_drafting": True,
        "num_speculative_tokens": before.default_k,
    }
    plain, drafting = (Generator(tiny_target(), d, max_length=64) for d in (None, after))
    options = {"max_new_tokens": 20, "ignore_eos": True}
    assert drafting.generate([5, 6, 7], **options).token_ids == plain.generate([5, 6, 7], **options).token_ids


def shapes(layers: int, taps: int, head: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes that vLLM's loader of EAGLE-3 drafters knows."""
    named: dict[str, tuple[int, ...]] = {
        "fc.weight": (WIDTH, taps * WIDTH), "norm.weight": (WIDTH,), "lm_head.weight": (head, WIDTH), "d2t": (head,),
        "t2d": (VOCAB,), "mask_hidden": (1, 1, taps * WIDTH), "midlayer.hidden_norm.weight": (WIDTH,),
    }  # fmt: skip
    for i in range(layers):
        layer, wide = ("midlayer", 2 * WIDTH) if i == 0 else (f"layers.{i}", WIDTH)
        named |= {f"{layer}.{norm}.weight": (WIDTH,) for norm in ("input_layernorm", "post_attention_layernorm")}
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS, "v_proj": KV_HEADS}
        named |= {f"{layer}.self_attn.{name}.weight": (count * HEAD_DIM, wide) for name, count in heads.items()}
        named |= {f"{layer}.self_attn.o_proj.weight": (WIDTH, HEADS * HEAD_DIM)}
        named |= {f"{layer}.mlp.{name}_proj.weight": (MLP, WIDTH) for name in ("gate", "up")}
        named |= {f"{layer}.mlp.down_proj.weight": (WIDTH, MLP)}
    return named


def test_names_shapes_and_keys_are_those_of_vllm(tmp_path: Path) -> None:
    trained(tmp_path / "own")
    export_vllm(tmp_path / "own", tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes(2, 3, len(REDUCED))
    assert tensors["t2d"].nonzero()[:, 0].tolist() == REDUCED and tensors["d2t"].dtype == torch.int64
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = {
        "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "ptd_token_id": MASK,
        "norm_before_residual": False, "eagle_aux_hidden_state_layer_ids": [0, 1, 2], "num_aux_hidden_states": 3,
        "draft_vocab_size": len(REDUCED), "vocab_size": VOCAB, "target_hidden_size": WIDTH, "num_hidden_layers": 2,
        "rope_theta": 10_000.0, "dtype": "float32",
    }  # fmt: skip
    assert {key: config.get(key) for key in expected} == expected
    # Either would make vLLM read the config as the speculators library's.
    assert not {"speculators_config", "speculators_model_type", "transformer_layer_config"} & set(config)


def test_what_the_speculators_library_nests_lies_flat(tmp_path: Path) -> None:
    speculators(tmp_path / "own")
    export_vllm(tmp_path / "own", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["norm_before_residual"] is True and config["rope_theta"] == 5000.0
    assert not any(key.startswith("speculators") or key == "transformer_layer_config" for key in config)


def test_hidden_states_come_in_the_order_of_layers(tmp_path: Path) -> None:
    """vLLM collects them as they are computed, whatever order the config names."""
    formats.eagle3(tmp_path / "own", masks=MASKS, eagle_aux_hidden_state_layer_ids=[3, 0, 1])
    export_vllm(tmp_path / "own", tmp_path / "out")
    before, after = (load_drafter(tmp_path / name, tiny_target()) for name in ("own", "out"))
    assert (before.taps, after.taps) == ((3, 0, 1), (0, 1, 3))
    ids, scores = drafts(before)
    again, close = drafts(after, order=(1, 2, 0))
    assert torch.equal(ids, again)
    torch.testing.assert_close(scores, close)


def test_a_pard_drafter_is_copied(tmp_path: Path) -> None:
    folder = pard(tmp_path, pspec={"kind": "pard", "k": 5})
    (folder / "training.pt").write_text("not part of the model")
    (folder / "README.md").write_text("the card, part of it")
    exported = export_vllm(folder, tmp_path / "out")
    assert (exported.speculative_config["method"], exported.speculative_config["num_speculative_tokens"]) == (
        "draft_model",
        5,
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pard_token"] == MASK
    assert {file.name for file in folder.iterdir()} - {file.name for file in (tmp_path / "out").iterdir()} == {
        "training.pt"
    }
    before, after = (load_drafter(path, tiny_target()) for path in (folder, tmp_path / "out"))
    assert (after.kind, after.default_k) == (PARD, 5)
    for left, right in zip(drafts(before), drafts(after), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    "names", [("model-1.safetensors", "model-2.safetensors"), ("shard_a.safetensors", "more/b.safetensors")]
)
@pytest.mark.parametrize("single", [False, True])
def test_the_shards_that_the_index_names_are_copied(tmp_path: Path, names: tuple[str, str], single: bool) -> None:
    """An index decides, as in the loader, even beside a file of the usual name."""
    folder = pard(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    first = dict.fromkeys(sorted(tensors)[::2], names[0])
    weight_map = {name: first.get(name, names[1]) for name in tensors}
    for file in names:
        (folder / file).parent.mkdir(exist_ok=True)
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    edit_json(folder / "model.safetensors.index.json", weight_map=weight_map)
    if single:
        save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")
    export_vllm(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    before, after = (load_drafter(path, tiny_target()) for path in (folder, tmp_path / "out"))
    for left, right in zip(drafts(before), drafts(after), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", 5])
def test_shards_lie_in_the_folder(tmp_path: Path, name: object) -> None:
    folder = pard(tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path / "elsewhere.safetensors")
    edit_json(folder / "model.safetensors.index.json", weight_map={"norm.weight": name})
    with pytest.raises(CheckpointError, match="weight_map names"):
        export_vllm(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_not_exported(tmp_path: Path) -> None:
    folder = pard(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no model.safetensors .*convert it to safetensors"):
        export_vllm(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("k", ["x", 0, 2.5, 33])
def test_a_pard_drafter_states_a_whole_k(tmp_path: Path, k: object) -> None:
    folder = pard(tmp_path, pspec={"kind": "pard", "k": k})
    for read in (lambda: export_vllm(folder, tmp_path / "out"), lambda: inspect_checkpoint(folder)):
        with pytest.raises(CheckpointError, match=f"pspec: k = {k!r}"):
            read()
    assert not (tmp_path / "out").exists()
    edit_json(folder / "config.json", pspec={"kind": "pard", "k": None})
    assert export_vllm(folder, tmp_path / "out").speculative_config["num_speculative_tokens"] == 8
    assert inspect_checkpoint(folder)["k"] == 8


def test_the_last_layer_is_the_state_after_the_norm(tmp_path: Path) -> None:
    """Known where the config says how many layers the target has; a drafter trained here does."""
    save_drafter(new_p_eagle(tiny_target(), 3, (0, 1, 3), 1, REDUCED, MASK, seed=1), tmp_path / "own")
    with pytest.raises(ConfigError, match=r"taps the state after the final norm \(3 of 3 layers\)"):
        export_vllm(tmp_path / "own", tmp_path / "out")
    edit_json(tmp_path / "own" / "config.json", target={"num_hidden_layers": 4})
    export_vllm(tmp_path / "own", tmp_path / "out")


@pytest.mark.parametrize("kind", [EAGLE, MEDUSA])
def test_parallelspec_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    feature_checkpoint(tmp_path / "own", kind)
    with pytest.raises(ConfigError, match=f"is a {kind} drafter; vLLM cannot run it: .* a mask embedding of its own"):
        export_vllm(tmp_path / "own", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [EAGLE1, EAGLE3, MEDUSA_HEADS, PARD2, DFLASH, "lm"])
def test_other_kinds_are_told_what_is_exported(tmp_path: Path, kind: str) -> None:
    folder = tiny_checkpoint() if kind == "lm" else published(kind)
    with pytest.raises(ConfigError, match=f"is a {kind} drafter; that is not exported. Exported are p-eagle .* pard"):
        export_vllm(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        ({"eagle_aux_hidden_state_layer_ids": [0, 1, -1]}, ConfigError, "after the final norm"),
        ({"eagle_aux_hidden_state_layer_ids": [0, 1, 1]}, ConfigError, r"a hidden state twice \(\[0, 1, 1\]\)"),
        ({"eagle_aux_hidden_state_layer_ids": [0, 1]}, CheckpointError, "fc.weight has shape"),
        ({"ptd_token_id": VOCAB}, CheckpointError, "mask token is 384"),
        ({"norm_before_fc": True}, CheckpointError, "norm_before_fc is not supported"),
    ],
)
def test_what_the_layout_cannot_hold(tmp_path: Path, spoil: dict, error: type[Exception], message: str) -> None:
    formats.eagle3(tmp_path / "own", masks=MASKS, **{"eagle_aux_hidden_state_layer_ids": [0, 1, 3]})
    edit_json(tmp_path / "own" / "config.json", **spoil)
    with pytest.raises(error, match=message):
        export_vllm(tmp_path / "own", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("without", "error", "message"),
    [("lm_head.weight", ConfigError, "no lm_head.weight"), ("d2t", CheckpointError, "no d2t tensor")],
)
def test_missing_tensors(tmp_path: Path, without: str, error: type[Exception], message: str) -> None:
    raw, tensors = formats.eagle3(tmp_path / "own", masks=MASKS)
    del tensors[without]
    formats.write(tmp_path / "own", raw, {"model.safetensors": tensors})
    with pytest.raises(error, match=message):
        export_vllm(tmp_path / "own", tmp_path / "out")


def test_a_pard_token_must_be_a_token(tmp_path: Path) -> None:
    folder = pard(tmp_path, pspec={"kind": "pard"})
    for token in (VOCAB, ...):
        edit_json(folder / "config.json", pard_token=token)
        with pytest.raises(CheckpointError, match="pard_token"):
            export_vllm(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    trained(tmp_path / "own")
    for source in (tmp_path / "own", pard(tmp_path)):
        with pytest.raises(CheckpointError, match="already exists and is not empty"):
            export_vllm(source, tmp_path / "own")
    (tmp_path / "empty").mkdir()
    export_vllm(tmp_path / "own", tmp_path / "empty")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "own")
    own, out = str(tmp_path / "own"), str(tmp_path / "an agent's 'out'")
    assert main(["export", "--format", "vllm", own, out]) == 0
    folder, told = capsys.readouterr().out.splitlines()
    assert folder == out and told.startswith("--speculative-config '")
    option, config = shlex.split(told)
    assert json.loads(config) == {
        "method": "eagle3", "model": out, "parallel_drafting": True, "num_speculative_tokens": 3,
    }  # fmt: skip
    assert main(["export", own, out]) == 2
    assert "is not empty" in capsys.readouterr().err
