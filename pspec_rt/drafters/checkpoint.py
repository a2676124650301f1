"""Drafter checkpoints: recognising, loading and saving them, and new drafters with random weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .. import hub
from ..errors import CheckpointError, ConfigError
from ..models._json import Fields, read_json
from ..models.config import FAMILIES, GenerationDefaults, ModelConfig, parse_config
from ..models.target import (
    DTYPE_NAMES,
    EMBED,
    Target,
    decoder_pieces,
    empty_decoder,
    load_target,
    resolve_dtype,
)
from ..models.weights import SINGLE, Checkpoint
from .base import Drafter
from .checks import check_d2t, check_head, check_masks, check_vocabulary
from .config import EAGLE, KINDS, LM, MAX_K, MEDUSA, PARD, parse_feature_config, target_entry
from .feature import FeatureDrafter
from .head import HeadDrafter
from .lm import LMDrafter, ParallelLMDrafter, SequentialLMDrafter
from .medusa import MedusaDrafter
from .weights import D2T, HEAD, FeatureWeights, randomize

log = logging.getLogger("pspec_rt")

FEATURE_FAMILIES: dict[str, type[FeatureDrafter]] = {EAGLE: HeadDrafter, MEDUSA: MedusaDrafter}
DEFAULT_K = {PARD: 8, LM: 4}  # when config.json says nothing


def load_drafter(path_or_id: str | Path, target: Target, dtype: str | torch.dtype | None = None) -> Drafter:
    """Load a drafter: this runtime's own formats, a PARD model, or any small causal LM of the target's tokenizer.

    Args:
        path_or_id: a folder, or an id on the hub.
        target: the model it will draft for; the drafter goes to its device.
        dtype: "bf16", "fp32", "int8", "int8a8" (see `load_target`), "auto" (the checkpoint's own), or None: that of
            the target's activations, so never int8.

    Raises:
        CheckpointError: nothing there, damaged, incomplete, or of no known format (the message says what was seen).
        DrafterMismatchError: it does not fit the target.
    """
    path = hub.resolve(path_or_id)
    raw, checkpoint = read_json(path / "config.json"), Checkpoint(path)
    kind = recognise(raw, checkpoint)
    if kind in FEATURE_FAMILIES:
        drafter: Drafter = _load_feature(raw, checkpoint, target, dtype)
    else:
        drafter = _load_lm(kind, raw, path, target, dtype)
    log.info("%s: %s drafter, k=%d, %.1f MB", path_or_id, kind, drafter.default_k, drafter.nbytes / 1e6)
    return drafter


def recognise(raw: dict[str, Any], checkpoint: Checkpoint) -> str:
    """The kind of drafter in a folder, one of KINDS; raises CheckpointError that says what the folder holds."""
    source, pspec = checkpoint.folder / "config.json", raw.get("pspec")
    architectures = raw.get("architectures")
    if pspec is not None:
        kind = pspec.get("kind") if isinstance(pspec, dict) else None
        if kind not in KINDS:
            raise CheckpointError(f"{source}: pspec = {pspec!r}: expected an object with kind {', '.join(KINDS)}")
        return kind
    if isinstance(architectures, list) and architectures[:1] and architectures[0] in FAMILIES and EMBED in checkpoint:
        return PARD if "pard_token" in raw else LM
    keys = ("architectures", "model_type", "speculators_model_type")
    seen = ", ".join(f"{key} {raw[key]!r}" for key in keys if key in raw)
    names = checkpoint.names
    raise CheckpointError(
        f"{checkpoint.folder}: not a drafter this runtime knows. Seen: {seen or 'a config.json that names no model'}; "
        f"{len(names)} tensors such as {', '.join(names[:4])}. "
        f"Known: a config.json with a pspec entry ({', '.join(KINDS)}), or a causal LM ({', '.join(FAMILIES)})"
    )


def save_drafter(drafter: Drafter, folder: str | Path) -> Path:
    """Write config.json and model.safetensors, in the drafter's dtype; `load_drafter` gives the same drafter back.

    Returns the folder, which is made if need be. Raises ConfigError for a drafter without weights.
    """
    saved = drafter.checkpoint()
    if saved is None:
        raise ConfigError(f"the {drafter.kind} drafter has no weights to save")
    raw, views = saved
    # Copies: q, k and v are views of one fused tensor, and safetensors refuses tensors that share memory.
    tensors = {name: view.detach().cpu().clone() for name, view in views.items()}
    dtype = next(str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point())
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**raw, "dtype": dtype}, indent=2) + "\n", encoding="utf-8")
    return folder


def _load_feature(
    raw: dict[str, Any], checkpoint: Checkpoint, target: Target, dtype: str | torch.dtype | None
) -> FeatureDrafter:
    config = parse_feature_config(raw, str(checkpoint.folder / "config.json"))
    config.check_fit(target.config)
    check_masks(config, checkpoint)
    optional = set(checkpoint.names)
    check_head(config, HEAD in optional, D2T in optional, target.config)
    chosen, a8 = resolve_dtype(target.dtype if dtype is None else dtype, config.layers, checkpoint, target.device)
    shapes = FeatureWeights.empty(config, optional, chosen, "meta").pieces(config)
    checkpoint.check(shapes, spare={D2T, "t2d"})
    d2t_D = checkpoint.integers(D2T) if D2T in checkpoint else None
    if d2t_D is not None:
        check_d2t(config, d2t_D, target.config)
    weights = FeatureWeights.empty(config, optional, chosen, target.device)
    checkpoint.load(weights.pieces(config))
    weights = weights if a8 is None else weights.quantized(a8)
    weights.d2t_D = None if d2t_D is None else d2t_D.to(target.device)
    return FEATURE_FAMILIES[config.kind](config, weights, target)


def _load_lm(kind: str, raw: dict[str, Any], path: Path, target: Target, dtype: str | torch.dtype | None) -> LMDrafter:
    fields = Fields(raw, str(path / "config.json"))
    vocab = fields.integer("vocab_size")
    k = Fields(raw.get("pspec") or {}, f"{fields.source}: pspec").integer("k", DEFAULT_K[kind])
    if k > MAX_K:
        raise CheckpointError(f"{fields.source}: pspec: k = {k}, at most {MAX_K} is supported")
    mask_id = fields.integer("pard_token", minimum=0) if kind == PARD else 0
    if mask_id >= vocab:
        raise CheckpointError(f"{fields.source}: pard_token = {mask_id} is outside the vocabulary of {vocab}")
    check_vocabulary(str(path), vocab, target.config)
    chosen = target.dtype if dtype is None else dtype
    model = load_target(path, dtype=chosen, device=target.device, ignore_generation_config=True)
    if kind == PARD:
        return ParallelLMDrafter(model, raw, target.config, k, mask_id)
    return SequentialLMDrafter(model, raw, target.config, k)


# Optional tensors of a feature drafter, as `init_drafter` names them.
PARTS = {
    "bias": ("fc.bias",),
    "head": (HEAD,),
    "embedding": ("embed_tokens.weight",),
    "anchor_map": ("anchor_map.weight",),
    "blocks": ("res_blocks.0.linear.weight", "res_blocks.0.linear.bias"),
}


def init_drafter(
    kind: str,
    target: Target,
    k: int,
    *,
    layers: int = 1,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    taps: Sequence[int] = (-1,),
    draft_vocab: int | Sequence[int] | None = None,
    parts: Collection[str] = (),
    seed: int = 0,
    dtype: str | torch.dtype | None = None,
) -> Drafter:
    """A drafter with random weights: it accepts next to nothing, changes no output, and can be trained.

    Args:
        kind: "parallelspec-eagle", "parallelspec-medusa", "pard" or "lm".
        k: depths, 1..32.
        layers: transformer layers.
        hidden_size, intermediate_size: widths of the layers, heads of the target's size; default: the target's.
        taps, draft_vocab, parts: of the two ParallelSpec kinds. Tapped hidden states; the token ids it can draft
            (ascending), or how many of the lowest ones; optional tensors, of "bias", "head", "embedding",
            "anchor_map" and "blocks".
        seed: of the weights.
        dtype: default: the target's.

    Raises:
        ConfigError, CheckpointError, DrafterMismatchError: the options fit neither each other nor the target.
    """
    chosen = target.dtype if dtype is None else DTYPE_NAMES.get(str(dtype).removeprefix("torch."))
    if kind not in KINDS or not 1 <= k <= MAX_K or not set(parts) <= set(PARTS) or chosen is None:
        raise ConfigError(
            f"kind={kind!r}, k={k}, parts={tuple(parts)}, dtype={dtype}: expected "
            f"kind {', '.join(KINDS)}; k 1..{MAX_K}; parts of {', '.join(PARTS)}; dtype bf16 or fp32"
        )
    sizes = _layer_sizes(target.config, layers, hidden_size or target.config.hidden_size, intermediate_size)
    if kind in FEATURE_FAMILIES:
        raw = {
            "pspec": {"kind": kind, "k": k, "taps": list(taps)},
            **sizes,
            "target": target_entry(target.config),
        }
        return _new_feature(raw, target, draft_vocab, parts, seed, chosen)
    if draft_vocab is not None or parts or tuple(taps) != (-1,):
        raise ConfigError(f"a {kind} drafter has neither taps nor draft_vocab nor parts")
    return _new_lm(kind, k, sizes, target, seed, chosen)


def _layer_sizes(target: ModelConfig, layers: int, hidden: int, intermediate: int | None) -> dict[str, Any]:
    """The Llama part of a config.json: heads like the target's, as many as fit the width."""
    heads, kv_heads = target.num_heads, target.num_kv_heads
    if hidden != target.hidden_size:
        heads = kv_heads = max(1, hidden // target.head_dim)
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate or target.intermediate_size * hidden // target.hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": target.head_dim,
        "rms_norm_eps": target.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": target.rope.theta},
        "max_position_embeddings": target.max_positions,
        "vocab_size": target.vocab_size,
    }


def _new_feature(
    raw: dict[str, Any],
    target: Target,
    draft_vocab: int | Sequence[int] | None,
    parts: Collection[str],
    seed: int,
    dtype: torch.dtype,
) -> FeatureDrafter:
    d2t_D = None
    if draft_vocab is not None:
        ids_D = torch.tensor(range(draft_vocab) if isinstance(draft_vocab, int) else draft_vocab, dtype=torch.int64)
        d2t_D = ids_D - torch.arange(len(ids_D))
        raw["draft_vocab_size"] = len(ids_D)
    config = parse_feature_config(raw, f"new {raw['pspec']['kind']} drafter")
    config.check_fit(target.config)
    check_head(config, "head" in parts, d2t_D is not None, target.config)
    optional = {name for part in parts for name in PARTS[part]}
    weights = FeatureWeights.empty(config, optional, dtype, target.device)
    randomize(weights.pieces(config).items(), seed)
    if d2t_D is not None:
        check_d2t(config, d2t_D, target.config)
        weights.d2t_D = d2t_D.to(target.device)
    return FEATURE_FAMILIES[config.kind](config, weights, target)


def _new_lm(kind: str, k: int, sizes: dict[str, Any], target: Target, seed: int, dtype: torch.dtype) -> LMDrafter:
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **sizes,
        "tie_word_embeddings": True,
    }
    raw["pspec"] = {"kind": kind, "k": k}
    config = parse_config(raw, f"new {kind} drafter")
    decoder = empty_decoder(config, dtype, target.device)
    randomize(decoder_pieces(decoder).items(), seed)
    model = Target(f"new {kind} drafter", Path(), config, decoder, GenerationDefaults(), dtype, target.device)
    if kind == PARD:
        raw["pard_token"] = config.vocab_size - 1  # tokenizers leave the end of a padded table unused
        return ParallelLMDrafter(model, raw, target.config, k, raw["pard_token"])
    return SequentialLMDrafter(model, raw, target.config, k)
