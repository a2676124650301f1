"""What a checkpoint is, target or drafter, read from its headers without loading a weight."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .. import hub
from ..models._json import Fields, read_json
from ..models.config import parse_config
from ..models.weights import Checkpoint
from .checkpoint import FEATURE_FAMILIES, parse_kind, read_k, recognise
from .config import LM, MEDUSA_HEADS, PARD2, FeatureConfig
from .feature import FeatureDrafter
from .medusa_heads import count_heads
from .published import FILES
from .weights import D2T

ITEM_BYTES = {"torch.float32": 4, "torch.float16": 2, "torch.bfloat16": 2}


def inspect_checkpoint(path_or_id: str | Path) -> dict[str, Any]:
    """Describe a checkpoint folder or hub id.

    Returns:
        path, kind (of drafters/config.py, or "causal-lm": a target, or a drafter that drafts level by level),
        architecture, layers, hidden_size, vocab_size, parameters, bytes, dtypes (of the weights); for what is surely a
        drafter also k, taps, draft_vocab_size and target, what it was made for (None: any target with its vocabulary),
        and tree, the default, unless its kind has one of its own. Taps that depend on the target are left out.

    Raises:
        CheckpointError: as `load_drafter` and `load_target` do, but for what only the weights themselves tell.
    """
    path = hub.resolve(path_or_id)
    raw, checkpoint = read_json(path / "config.json"), Checkpoint(path, FILES)
    kind, source = recognise(raw, checkpoint), str(path / "config.json")
    if kind == MEDUSA_HEADS:
        return {"path": str(path), "kind": kind, **_medusa_entries(checkpoint), **_sizes(checkpoint)}
    if kind in FEATURE_FAMILIES:
        config = parse_kind(kind, raw, checkpoint, None)
        model, extra = config.layers, _feature_entries(config)
    else:
        model = parse_config(raw, source)
        stated, extra = raw.get("pspec") or {}, {}
        if stated or kind != LM:  # else it is most likely a target
            taps = raw.get("pard2_target_layers", []) if kind == PARD2 else []
            extra = {"k": read_k(kind, Fields(raw, source)), "taps": taps, "target": raw.get("target")}
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
    reads_tree = FEATURE_FAMILIES[config.kind].default_tree is FeatureDrafter.default_tree
    return {
        "k": config.k,
        **({"tree": config.tree} if reads_tree else {}),
        "taps": list(config.taps),
        "draft_vocab_size": config.draft_vocab,
        "target": config.target,
    }


def _medusa_entries(checkpoint: Checkpoint) -> dict[str, Any]:
    heads, blocks = count_heads(checkpoint)
    V, M = checkpoint.shape(f"0.{blocks}.weight")
    made_for = {"vocab_size": V, "hidden_size": M}
    return {"layers": 0, "hidden_size": M, "vocab_size": V, "k": heads, "taps": [-1], "target": made_for}


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
