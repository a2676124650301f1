"""What must hold between a drafter's config.json, its tensors and the target."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, DrafterMismatchError
from ..models._json import read_json
from ..models.config import ModelConfig
from ..models.target import Target
from ..models.weights import Checkpoint
from ..quantize import Int8Weight, Weight
from .config import FeatureConfig
from .weights import D2T, HEAD, MASK_EMBEDDING

log = logging.getLogger("pspec_rt")

VOCAB_PADDING = 256  # models of one tokenizer pad their tables to different multiples, of up to this


def check_vocabulary(name: str, own: int, target: ModelConfig) -> None:
    """Raise DrafterMismatchError if a draft model's vocabulary differs by more than padding."""
    if abs(own - target.vocab_size) >= VOCAB_PADDING:
        raise DrafterMismatchError(
            f"{name}: the draft model has a vocabulary of {own} tokens, the target "
            f"({target.architecture}) has {target.vocab_size}: "
            "use a draft model with the target's tokenizer"
        )


def check_saveable(kind: str, weight: Weight) -> None:
    """Raise ConfigError if a drafter, known by one of its matrices, is int8: checkpoints hold float weights."""
    if isinstance(weight, Int8Weight):
        raise ConfigError(
            f"the {kind} drafter has {weight.dtype} weights, which cannot be saved: load it in bf16 or fp32"
        )


def check_masks(config: FeatureConfig, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless there is a mask embedding for every depth but the first."""
    needed = config.k - 1
    found = checkpoint.shape(MASK_EMBEDDING)[0] if MASK_EMBEDDING in checkpoint else 0
    if found != needed:
        raise CheckpointError(
            f"{config.source}: k = {config.k} needs {needed} mask embeddings, "
            f"{MASK_EMBEDDING} holds {found}: "
            f"correct k to {found + 1}, or the checkpoint is incomplete"
        )


def check_head(config: FeatureConfig, own_head: bool, has_d2t: bool, target: ModelConfig) -> None:
    """Raise unless there is a head, own or the target's, whose rows stand for known token ids."""
    D, V, M = config.draft_vocab, config.layers.vocab_size, config.layers.hidden_size
    if D != V and not has_d2t:
        raise CheckpointError(
            f"{config.source}: draft_vocab_size {D} differs from vocab_size {V}, "
            f"and there is no {D2T} tensor to map ids"
        )
    if not own_head and M != target.hidden_size:
        raise DrafterMismatchError(
            f"{config.source}: there is no {HEAD}, and the target's head cannot serve: it reads width "
            f"{target.hidden_size}, the drafter has {M}"
        )


def check_d2t(config: FeatureConfig, d2t_D: Tensor, target: ModelConfig) -> None:
    """Raise unless the offsets give draft_vocab_size ascending ids of the target's vocabulary."""
    D = config.draft_vocab
    if d2t_D.shape != (D,):
        raise CheckpointError(f"{config.source}: {D2T} has shape {tuple(d2t_D.shape)}, draft_vocab_size implies ({D},)")
    ids_D = d2t_D + torch.arange(D)
    low, high = int(ids_D.min()), int(ids_D.max())
    if low < 0 or high >= target.vocab_size:
        raise DrafterMismatchError(
            f"{config.source}: {D2T} maps to token ids {low}..{high}, "
            f"the target's vocabulary is 0..{target.vocab_size - 1}"
        )
    if bool((ids_D.diff() <= 0).any()):
        raise CheckpointError(f"{config.source}: the token ids {D2T} maps to are not ascending")


def check_tokenizer(folder: Path, target: Target) -> None:
    """Raise DrafterMismatchError if both have a tokenizer.json and these give some id different tokens."""
    ours, theirs = _base_vocabulary(folder), _base_vocabulary(target.path)
    if ours is None or theirs is None or folder == target.path:
        return
    token = next((token for token, number in ours.items() if theirs.get(token) != number), None)
    if token is not None:
        raise DrafterMismatchError(
            f"{folder}: its tokenizer gives {token!r} id {ours[token]}, that of the target ({target.path}) gives it "
            f"{theirs.get(token)}: use a draft model with the target's tokenizer"
        )


def check_mask_token(source: str, mask_id: int, target: Target) -> None:
    """Warn if the id of a drafter's masks stands for something that the target's texts may hold."""
    tokenizer = _tokenizer(target.path)
    if tokenizer is None:
        return
    base = _base_vocabulary(target.path) or {}
    used = next((token for token, number in base.items() if number == mask_id), None)
    for added in tokenizer.get("added_tokens") or ():
        name = str(added.get("content"))
        if added.get("id") == mask_id and not any(word in name.lower() for word in ("reserved", "unused", "mask")):
            used = name
    if used is not None or mask_id in target.eos_ids:
        log.warning(
            "%s: mask token %d is %r for the target, a token in use: drafts around it will be poor",
            source,
            mask_id,
            used,
        )


def _tokenizer(folder: Path) -> dict[str, Any] | None:
    file = folder / "tokenizer.json"
    return read_json(file) if file.is_file() else None


def _base_vocabulary(folder: Path) -> dict[str, int] | None:
    """{token: id} of a tokenizer without what was added to it, None without a file or for another kind of table."""
    vocab = ((_tokenizer(folder) or {}).get("model") or {}).get("vocab")
    return vocab if isinstance(vocab, dict) else None
