"""Drafters in the layout of another engine: P-EAGLE and PARD for vLLM's parallel drafting."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import hub
from ..errors import ConfigError
from ..models._json import Fields, read_json
from ..models.config import parse_config
from ..models.weights import INDEX, Checkpoint, check_unused, files_of
from .checkpoint import read_k, recognise, write_drafter
from .checks import check_d2t, check_head
from .config import EAGLE, MEDUSA, PARD, PEAGLE, FeatureConfig
from .published import FILES, STATED_K, parse_eagle, read_pard_token
from .weights import D2T, HEAD, MASK_HIDDEN, FeatureWeights

CLASSES = {"LlamaForCausalLM": "LlamaForCausalLMEagle3", "Qwen3ForCausalLM": "Eagle3Qwen3ForCausalLM"}
TYPES = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3"}
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_act", "rms_norm_eps", "rope_parameters", "rope_scaling", "max_position_embeddings",
    "attention_bias", "mlp_bias", "vocab_size",
)  # fmt: skip
BESIDE = (
    "README.md", "LICENSE*", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template*",
)  # fmt: skip
WHY_NOT = {
    EAGLE: "every depth has a mask embedding of its own and tokens are joined to the features in one matrix, while "
    "there all masks share one token and one vector, in EAGLE-3's layer",
    MEDUSA: "its rows read no tokens and every depth has a mask embedding of its own, while there all masks share one "
    "token and one vector, in EAGLE-3's layer",
}


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, and what vLLM must be told (its `--speculative-config`) to draft with it."""

    folder: Path
    speculative_config: dict[str, Any]


def export_vllm(path_or_id: str | Path, out: str | Path) -> Exported:
    """Write a P-EAGLE drafter as vLLM's `eagle3` loader reads it, or a PARD drafter as it is.

    Args:
        path_or_id: a checkpoint folder or hub id; its target is not needed.
        out: a folder that does not exist yet, or is empty.

    Raises:
        ConfigError: a drafter that cannot be expressed there; the message says why, or what can be.
        CheckpointError: nothing there, damaged or incomplete; `out` is in use.
    """
    path, out = hub.resolve(path_or_id), Path(out)
    raw, checkpoint = read_json(path / "config.json"), Checkpoint(path, FILES)
    kind = recognise(raw, checkpoint)
    if kind not in (PEAGLE, PARD):
        reason = f"vLLM cannot run it: {WHY_NOT[kind]}" if kind in WHY_NOT else "that is not exported"
        raise ConfigError(
            f"{path} is a {kind} drafter; {reason}. Exported are {PEAGLE} (pspec-rt train --family {PEAGLE}) and {PARD}"
        )
    check_unused(out)
    k = _copy_pard(raw, path, out) if kind == PARD else _write_p_eagle(raw, checkpoint, out)
    method = "draft_model" if kind == PARD else "eagle3"
    told = {"method": method, "model": str(out), "parallel_drafting": True, "num_speculative_tokens": k}
    return Exported(out, told)


def _copy_pard(raw: dict[str, Any], path: Path, out: Path) -> int:
    """Copy what belongs to the model, the weights being those that the loader reads; returns K."""
    fields = Fields(raw, str(path / "config.json"))
    read_pard_token(fields, parse_config(raw, fields.source).vocab_size)
    k, files = read_k(PARD, fields), files_of(path)
    for pattern in (INDEX, "generation_config.json", *BESIDE, "config.json"):  # the config last
        files += path.glob(pattern)
    for file in files:
        copy = out / file.relative_to(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return k


def _write_p_eagle(raw: dict[str, Any], checkpoint: Checkpoint, out: Path) -> int:
    """Write config and weights; returns K."""
    config = parse_eagle(PEAGLE, raw, checkpoint, None)
    _check_expressible(config, checkpoint)
    stated = config.taps
    if not stated:  # vLLM's defaults are EAGLE-3's, and follow the target, too
        count = checkpoint.shape("fc.weight")[-1] // config.target["hidden_size"]
        config = replace(config, taps=tuple(range(count)))
    weights = FeatureWeights.empty(config, set(checkpoint.names), checkpoint.dtype("fc.weight"), "cpu")
    checkpoint.check(weights.pieces(config), spare={D2T, "t2d"})
    tensors = _id_maps(config, checkpoint)
    checkpoint.load(weights.pieces(config))
    _sort_taps(config, weights)
    tensors |= replace(weights, first="midlayer.").pieces(config)
    tensors[MASK_HIDDEN] = tensors[MASK_HIDDEN].view(1, 1, -1)
    write_drafter(out, _vllm_config(config, sorted(stated)), tensors)
    return config.k


def _check_expressible(config: FeatureConfig, checkpoint: Checkpoint) -> None:
    """Raise ConfigError for what vLLM's loader has no place for."""
    made_for = config.raw.get("target")
    layers = made_for.get("num_hidden_layers") if isinstance(made_for, dict) else None  # drafters trained here say
    for found, what in (
        (-1 in config.taps, "it taps the state after the final norm (-1)"),
        (layers in config.taps, f"it taps the state after the final norm ({layers} of {layers} layers)"),
        (len(set(config.taps)) < len(config.taps), f"it taps a hidden state twice ({list(config.taps)})"),
        ("fc.bias" in checkpoint, "fc has a bias"),
        (HEAD not in checkpoint, f"it has no {HEAD}"),
    ):
        if found:
            raise ConfigError(f"{config.source}: {what}, which vLLM's eagle3 loader cannot express")


def _id_maps(config: FeatureConfig, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """d2t, and t2d made from it; none for a head of the whole vocabulary."""
    check_head(config, True, D2T in checkpoint, config.layers)
    if D2T not in checkpoint:
        return {}
    d2t_D = checkpoint.integers(D2T)
    check_d2t(config, d2t_D, config.layers)
    t2d_V = torch.zeros(config.layers.vocab_size, dtype=torch.bool)
    t2d_V[d2t_D + torch.arange(len(d2t_D))] = True
    return {D2T: d2t_D, "t2d": t2d_V}


def _sort_taps(config: FeatureConfig, weights: FeatureWeights) -> None:
    """Put what reads the hidden states into the order of the layers, in which vLLM hands them over."""
    assert weights.mask_hidden_F is not None, "P-EAGLE has one"
    order = sorted(range(len(config.taps)), key=lambda i: config.taps[i])
    for columns in (weights.fc_MW, weights.mask_hidden_F):
        parts = columns.unflatten(-1, (len(order), -1))
        columns.copy_(parts[..., order, :].flatten(-2))


def _vllm_config(config: FeatureConfig, taps: list[int]) -> dict[str, Any]:
    """config.json of an EAGLE-3 drafter with a parallel-drafting token; taps: [] for the defaults."""
    nested = config.raw.get("transformer_layer_config")
    sizes = {**config.raw, **nested} if isinstance(nested, dict) else config.raw
    architecture = config.layers.architecture
    return {
        "architectures": [CLASSES[architecture]],
        "model_type": TYPES[architecture],
        "hidden_act": "silu",
        **{name: sizes[name] for name in SIZES if name in sizes},
        "rope_theta": config.layers.rope.theta,  # older readers know no rope_parameters
        "tie_word_embeddings": False,
        "draft_vocab_size": config.draft_vocab,
        "target_hidden_size": config.target["hidden_size"],
        "norm_before_residual": config.norm_before_residual,
        "num_aux_hidden_states": len(config.taps),
        **({"eagle_aux_hidden_state_layer_ids": taps} if taps else {}),
        "ptd_token_id": config.mask_id,
        STATED_K: config.k,
    }
