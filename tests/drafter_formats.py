"""Tiny checkpoints in published drafter layouts, written by hand."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pspec_rt.drafters.config import DFLASH, EAGLE1, EAGLE3, MEDUSA_HEADS, PARD2, PEAGLE
from tests.drafter_fixtures import HEAD_DIM, HEADS, KV_HEADS, VOCAB, WIDTH
from tests.tiny import copy_checkpoint, edit_json

MLP, MASK = 96, 380
REDUCED = sorted({(i * 7 + i * i) % VOCAB for i in range(90)})
LLAMA = {
    "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": 1, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "rms_norm_eps": 1e-5, "rope_theta": 5000.0,
    "vocab_size": VOCAB, "hidden_act": "silu", "max_position_embeddings": 512,
}  # fmt: skip
Made = tuple[dict[str, Any], dict[str, Tensor]]


def weight(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns) / columns**0.5


def norm() -> Tensor:
    return 1 + 0.2 * torch.randn(WIDTH)


def layer(prefix: str, attention_in: int = WIDTH, norms: Sequence[str] = ("input_layernorm",)) -> dict[str, Tensor]:
    shapes = {
        "self_attn.q_proj": (HEADS * HEAD_DIM, attention_in),
        "self_attn.k_proj": (KV_HEADS * HEAD_DIM, attention_in),
        "self_attn.v_proj": (KV_HEADS * HEAD_DIM, attention_in),
        "self_attn.o_proj": (WIDTH, HEADS * HEAD_DIM),
        "mlp.gate_proj": (MLP, WIDTH),
        "mlp.up_proj": (MLP, WIDTH),
        "mlp.down_proj": (WIDTH, MLP),
    }
    tensors = {f"{prefix}{name}.weight": weight(*shape) for name, shape in shapes.items()}
    return tensors | {f"{prefix}{name}.weight": norm() for name in (*norms, "post_attention_layernorm")}


def write(folder: Path, raw: dict[str, Any], files: dict[str, dict[str, Tensor]]) -> None:
    """`files`: tensors by file name; .bin and .pt are pickles."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    for name, tensors in files.items():
        save_file(tensors, folder / name) if name.endswith(".safetensors") else torch.save(tensors, folder / name)


def eagle1(folder: Path, *, bias: bool = True, embedding: bool = True) -> Made:
    """SafeAILab's EAGLE-1 and -2: a pickle, no norms but the MLP's, no head."""
    tensors = {"fc.weight": weight(WIDTH, 2 * WIDTH)} | layer("layers.0.", norms=())
    if embedding:
        tensors["embed_tokens.weight"] = torch.randn(VOCAB, WIDTH)
    if bias:
        tensors["fc.bias"] = torch.randn(WIDTH)
    raw = {**LLAMA, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "bias": bias}
    write(folder, raw, {"pytorch_model.bin": tensors})
    return raw, tensors


def eagle3(
    folder: Path,
    *,
    layers: int = 1,
    speculators: bool = False,
    reduced: bool = True,
    masks: tuple[int, ...] | None = None,
    **config: Any,
) -> Made:
    """EAGLE-3, and with `masks`, the shape of its mask_hidden, P-EAGLE; plain or as `speculators` writes it."""
    first = "layers.0." if speculators else "midlayer."
    D = len(REDUCED) if reduced else VOCAB
    tensors = {
        "fc.weight": weight(WIDTH, 3 * WIDTH),
        "norm.weight": norm(),
        "lm_head.weight": weight(D, WIDTH),
        "d2t": (torch.tensor(REDUCED) if reduced else torch.arange(VOCAB)) - torch.arange(D),
        "t2d": torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, torch.tensor(REDUCED), True),
        **layer(first, 2 * WIDTH, ("input_layernorm", "hidden_norm")),
    }
    for i in range(1, layers):
        tensors |= layer(f"layers.{i}.")
    if masks is not None:
        tensors["mask_hidden"] = torch.randn(masks)
    if speculators:
        tensors["embed_tokens.weight"] = torch.randn(VOCAB, WIDTH)
    sizes = {**LLAMA, "num_hidden_layers": layers}
    raw: dict[str, Any] = {"draft_vocab_size": D, **config}
    if speculators:
        kind = "eagle3" if masks is None else "peagle"
        raw |= {"speculators_model_type": kind, "speculators_version": "0.3", "transformer_layer_config": sizes}
        raw |= {"architectures": ["Eagle3Speculator"], "mask_token_id": MASK} if masks else {}
        method = {"proposal_type": "greedy", "speculative_tokens": 4}
        raw["speculators_config"] = {"algorithm": kind, "proposal_methods": [method]}
    else:
        raw |= {**sizes, "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}
        raw |= {"ptd_token_id": MASK} if masks else {}
    write(folder, raw, {"model.safetensors": tensors})
    return raw, tensors


def medusa(folder: Path, *, heads: int = 4, blocks: int = 1, pickle: bool = True, one: bool = False) -> Made:
    """FasterDecoding's Medusa: the config counts heads wrongly, as published ones do. `one`: equal output matrices."""
    tensors = {f"{i}.{blocks}.weight": weight(VOCAB, WIDTH) for i in range(heads)}
    if one:
        tensors |= {name: tensors[f"0.{blocks}.weight"].clone() for name in tensors}
    for i in range(heads):
        for j in range(blocks):
            tensors |= {f"{i}.{j}.linear.weight": weight(WIDTH, WIDTH), f"{i}.{j}.linear.bias": torch.randn(WIDTH)}
    raw = {"medusa_num_heads": 2, "medusa_num_layers": blocks, "base_model_name_or_path": "tiny"}
    write(folder, raw, {"medusa_lm_head.pt" if pickle else "medusa_lm_head.safetensors": tensors})
    return raw, tensors


def pard2(tmp_path: Path, architecture: str, *, taps: Sequence[int] = (-1, -2), bias: bool = False) -> Made:
    """AMD's PARD-2: an ordinary language model, and the projection in a pickle beside it."""
    folder = copy_checkpoint(tmp_path, architecture=architecture)
    tensors = {"target_proj.weight": weight(WIDTH, len(taps) * WIDTH)}
    if bias:
        tensors["target_proj.bias"] = torch.randn(WIDTH)
    torch.save(tensors, folder / "warp_model.bin")
    raw = {
        "pard2": True, "spd_type": "pard2", "pard_token": MASK, "pard2_scale": 0.5, "pard2_proj_bias": bias,
        "pard2_target_dim": len(taps) * WIDTH, "pard2_target_layers": list(taps),
    }  # fmt: skip
    edit_json(folder / "config.json", **raw)
    return raw, tensors


def dflash(folder: Path, *, layers: int = 2, block: int = 6, taps: Sequence[int] = (0, 2)) -> Made:
    """z-lab's DFlash: Qwen3 layers; neither embedding nor head."""
    tensors = {"fc.weight": weight(WIDTH, len(taps) * WIDTH), "hidden_norm.weight": norm(), "norm.weight": norm()}
    for i in range(layers):
        tensors |= layer(f"layers.{i}.")
        for name in ("q_norm", "k_norm"):
            tensors[f"layers.{i}.self_attn.{name}.weight"] = 1 + 0.2 * torch.randn(HEAD_DIM)
    raw = {
        **LLAMA, "num_hidden_layers": layers, "architectures": ["DFlashDraftModel"], "model_type": "qwen3",
        "block_size": block, "num_target_layers": 3, "layer_types": ["full_attention"] * layers,
        "dflash_config": {"mask_token_id": MASK, "target_layer_ids": list(taps)},
    }  # fmt: skip
    write(folder, raw, {"model.safetensors": tensors})
    return raw, tensors


@cache
def published(kind: str) -> Path:
    """A checkpoint of a published format that drafts up to 7 tokens."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(11)
    if kind == PARD2:
        pard2(folder, "LlamaForCausalLM")
        return folder / "checkpoint"
    writers: dict[str, Callable[[Path], Made]] = {
        EAGLE1: eagle1,
        EAGLE3: eagle3,
        PEAGLE: partial(eagle3, masks=(1, 1, 3 * WIDTH), layers=2),
        MEDUSA_HEADS: partial(medusa, heads=7),
        DFLASH: partial(dflash, block=8),
    }
    writers[kind](folder)
    return folder
