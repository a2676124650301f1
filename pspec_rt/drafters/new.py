"""New drafters with random weights, to be trained."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..models.config import GenerationDefaults, ModelConfig, parse_config
from ..models.target import DTYPE_NAMES, Target, decoder_pieces, empty_decoder
from .base import Drafter
from .checkpoint import FEATURE_FAMILIES
from .checks import check_d2t, check_head
from .config import EAGLE, KINDS, MAX_K, MEDUSA, PARD, parse_feature_config, target_entry
from .feature import FeatureDrafter
from .lm import LMDrafter, ParallelLMDrafter, SequentialLMDrafter
from .weights import HEAD, FeatureWeights, randomize

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
    if kind in (EAGLE, MEDUSA):
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
