"""New drafters in published formats, with random weights: EAGLE-1, P-EAGLE, Medusa heads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ..drafters.config import EAGLE1, MEDUSA_HEADS, PEAGLE, FeatureConfig, target_entry
from ..drafters.eagle import EagleDrafter, ParallelEagleDrafter
from ..drafters.medusa_heads import MedusaHead, MedusaHeadsDrafter
from ..drafters.new import _layer_sizes
from ..drafters.weights import HEAD, FeatureWeights, ResBlock, randomize
from ..models.config import parse_config
from ..models.target import Target
from .families import as_tensor

BASELINES = (EAGLE1, PEAGLE, MEDUSA_HEADS)


def new_eagle(target: Target, k: int, draft_ids: Sequence[int] | None, seed: int) -> EagleDrafter:
    """EAGLE-1: one layer that reads the token and the target's last state."""
    optional = {"fc.bias"} | ({HEAD, "d2t"} if draft_ids is not None else set())
    config, weights = _feature(EAGLE1, target, k, (-1,), 1, draft_ids, optional, seed, {"bias": True})
    return EagleDrafter(config, weights, target)


def new_p_eagle(
    target: Target, k: int, taps: tuple[int, ...], layers: int, draft_ids: Sequence[int], mask_id: int, seed: int
) -> ParallelEagleDrafter:
    """P-EAGLE: EAGLE-3's rows, and masks of one token. Its head is its own; it starts as the target's rows."""
    more = {
        "speculators_model_type": PEAGLE.replace("-", ""),
        "mask_token_id": mask_id,
        "eagle_aux_hidden_state_layer_ids": list(taps),
        "speculators_config": {"proposal_methods": [{"speculative_tokens": k}]},
        "target": target_entry(target.config),  # of which an export needs the number of layers
    }
    config, weights = _feature(PEAGLE, target, k, taps, layers, draft_ids, {HEAD, "d2t"}, seed, more, mask_id)
    return ParallelEagleDrafter(config, weights, target)


def new_medusa_heads(target: Target, k: int) -> MedusaHeadsDrafter:
    """Medusa heads: blocks of zeros, so that every head starts as the target's."""
    head_VM, M = as_tensor(target.decoder.head_VM), target.config.hidden_size

    def zeros(*size: int) -> Tensor:
        return torch.zeros(size, dtype=head_VM.dtype, device=head_VM.device)

    heads = [MedusaHead([ResBlock(zeros(M, M), zeros(M))], head_VM) for _ in range(k)]
    raw = {"medusa_num_heads": k, "medusa_num_layers": 1, "hidden_size": M, "vocab_size": target.config.vocab_size}
    return MedusaHeadsDrafter(heads, raw, target.config)


def _feature(
    kind: str, target: Target, k: int, taps: tuple[int, ...], layers: int, draft_ids: Sequence[int] | None,
    optional: Collection[str], seed: int, more: dict[str, Any], mask_id: int = 0,
) -> tuple[FeatureConfig, FeatureWeights]:  # fmt: skip
    """Config and weights; an own head holds the target's rows."""
    sizes = _layer_sizes(target.config, layers, target.config.hidden_size, None)
    raw = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **sizes, **more}
    parsed = parse_config(raw, f"new {kind} drafter")
    V = target.config.vocab_size
    ids_D = torch.arange(V) if draft_ids is None else torch.tensor(draft_ids)
    config = FeatureConfig(
        kind=kind, k=k, taps=taps, draft_vocab=len(ids_D), layers=parsed, raw=raw, source=f"new {kind} drafter",
        target={"vocab_size": V, "hidden_size": target.config.hidden_size}, max_k=32, mask_id=mask_id,
    )  # fmt: skip
    weights = FeatureWeights.empty(config, optional, target.dtype, target.device)
    randomize(weights.pieces(config).items(), seed)
    if weights.head_DM is not None:
        as_tensor(weights.head_DM).copy_(as_tensor(target.decoder.head_VM)[ids_D])
    if draft_ids is not None:
        weights.d2t_D = (ids_D - torch.arange(len(ids_D))).to(target.device)
    return config, weights
