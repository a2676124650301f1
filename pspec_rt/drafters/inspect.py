"""What a checkpoint is, target or drafter, read from its headers without loading a weight."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .. import hub
from ..models._json import read_json
from ..models.config import parse_config
from ..models.weights import Checkpoint
from .checkpoint import DEFAULT_K, FEATURE_FAMILIES, recognise
from .config import LM, FeatureConfig, parse_feature_config
from .weights import D2T

ITEM_BYTES = {"torch.float32": 4, "torch.float16": 2, "torch.bfloat16": 2}


def inspect_checkpoint(path_or_id: str | Path) -> dict[str, Any]:
    """Describe a checkpoint folder or hub id.

    Returns:
        path, kind ("parallelspec-eagle", "parallelspec-medusa", "pard", or "causal-lm": a target, or a drafter that
        drafts token by token), architecture, layers, hidden_size, vocab_size, parameters, bytes, dtypes (of the
        weights); for what is surely a drafter also k, taps, draft_vocab_size and target, what it was made for (None:
        any target with its vocabulary).

    Raises:
        CheckpointError: as `load_drafter` and `load_target` do, but for what only the weights themselves tell.
    """
    path = hub.resolve(path_or_id)
    raw, checkpoint = read_json(path / "config.json"), Checkpoint(path)
    kind, source = recognise(raw, checkpoint), str(path / "config.json")
    if kind in FEATURE_FAMILIES:
        config = parse_feature_config(raw, source)
        model, extra = config.layers, _feature_entries(config)
    else:
        model = parse_config(raw, source)
        stated, extra = raw.get("pspec") or {}, {}
        if stated or kind != LM:  # else it is most likely a target
            extra = {"k": stated.get("k", DEFAULT_K[kind]), "taps": [], "target": raw.get("target")}
    return {
        "path": str(path),
        "kind": "causal-lm" if kind == LM else kind,
        "architecture": model.architecture,
        "layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        **_sizes(checkpoint),
        **extra,
    }


def _feature_entries(config: FeatureConfig) -> dict[str, Any]:
    return {
        "k": config.k,
        "taps": list(config.taps),
        "draft_vocab_size": config.draft_vocab,
        "target": config.target,
    }


def _sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """Parameters, bytes and dtypes of the weights; id maps are none."""
    weights = [name for name in checkpoint.names if name not in (D2T, "t2d")]
    counts = {name: math.prod(checkpoint.shape(name)) for name in weights}
    dtypes = {name: str(checkpoint.dtype(name)) for name in weights}
    return {
        "parameters": sum(counts.values()),
        "bytes": sum(counts[name] * ITEM_BYTES[dtypes[name]] for name in weights),
        "dtypes": sorted({dtype.removeprefix("torch.") for dtype in dtypes.values()}),
    }
