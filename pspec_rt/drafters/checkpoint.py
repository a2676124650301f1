"""Drafter checkpoints: recognising, loading and saving them, and new drafters with random weights."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import hub
from ..errors import CheckpointError, ConfigError, DrafterMismatchError
from ..models._json import Fields, read_json
from ..models.config import FAMILIES, ModelConfig
from ..models.target import (
    EMBED,
    Target,
    load_target,
    resolve_dtype,
)
from ..models.weights import SINGLE, Checkpoint
from .base import Drafter
from .block import BlockDrafter
from .checks import check_d2t, check_head, check_mask_token, check_masks, check_tokenizer, check_vocabulary
from .config import (
    DFLASH,
    EAGLE,
    EAGLE1,
    EAGLE3,
    KINDS,
    LM,
    MAX_K,
    MEDUSA,
    MEDUSA_HEADS,
    PARD,
    PARD2,
    PEAGLE,
    PUBLISHED,
    FeatureConfig,
    parse_feature_config,
)
from .eagle import Eagle3Drafter, EagleDrafter, ParallelEagleDrafter
from .feature import FeatureDrafter
from .head import HeadDrafter
from .lm import FeatureLMDrafter, LMDrafter, ParallelLMDrafter, SequentialLMDrafter
from .medusa import MedusaDrafter
from .medusa_heads import MedusaHeadsDrafter, empty_heads, head_pieces, quantized_heads, share_outputs
from .published import FILES, pard2_taps, parse_dflash, parse_eagle, read_pard_token, recognise_published
from .weights import D2T, HEAD, FeatureWeights

log = logging.getLogger("pspec_rt")

FEATURE_FAMILIES: dict[str, type[FeatureDrafter]] = {
    EAGLE: HeadDrafter,
    MEDUSA: MedusaDrafter,
    EAGLE1: EagleDrafter,
    EAGLE3: Eagle3Drafter,
    PEAGLE: ParallelEagleDrafter,
    DFLASH: BlockDrafter,
}
DEFAULT_K = {PARD: 8, PARD2: 12, LM: 4}  # when config.json says nothing


def load_drafter(path_or_id: str | Path, target: Target, dtype: str | torch.dtype | None = None) -> Drafter:
    """Load a drafter: this runtime's own formats, the published ones, or any small causal LM of the target's tokenizer.

    Args:
        path_or_id: a folder, or an id on the hub.
        target: the model it will draft for; the drafter goes to its device.
        dtype: "bf16", "fp32", "int8", "int8a8" (see `load_target`), or None, "auto": the checkpoint's own, whatever
            the target's is.

    Raises:
        CheckpointError: nothing there, damaged, incomplete, or of no known format (the message says what was seen).
        DrafterMismatchError: it does not fit the target.
    """
    path = hub.resolve(path_or_id)
    raw, checkpoint = read_json(path / "config.json"), Checkpoint(path, FILES)
    kind = recognise(raw, checkpoint)
    if kind in FEATURE_FAMILIES:
        config = parse_kind(kind, raw, checkpoint, target.config)
        drafter: Drafter = _load_feature(config, checkpoint, target, dtype)
    elif kind == MEDUSA_HEADS:
        drafter = _load_medusa_heads(raw, checkpoint, target, dtype)
    else:
        drafter = _load_lm(kind, raw, checkpoint, target, dtype)
    log.info("%s: %s drafter, k=%d, %.1f MB", path_or_id, kind, drafter.default_k, drafter.nbytes / 1e6)
    return drafter


def recognise(raw: dict[str, Any], checkpoint: Checkpoint) -> str:
    """The kind of drafter in a folder, of KINDS or PUBLISHED; raises CheckpointError that says what it holds."""
    source, pspec = checkpoint.folder / "config.json", raw.get("pspec")
    architectures = raw.get("architectures")
    if pspec is not None:
        kind = pspec.get("kind") if isinstance(pspec, dict) else None
        if kind not in KINDS:
            raise CheckpointError(f"{source}: pspec = {pspec!r}: expected an object with kind {', '.join(KINDS)}")
        return kind
    if (published := recognise_published(raw, checkpoint)) is not None:
        return published
    if isinstance(architectures, list) and architectures[:1] and architectures[0] in FAMILIES and EMBED in checkpoint:
        return PARD if "pard_token" in raw else LM
    keys = ("architectures", "model_type", "speculators_model_type")
    seen = ", ".join(f"{key} {raw[key]!r}" for key in keys if key in raw)
    names = checkpoint.names
    raise CheckpointError(
        f"{checkpoint.folder}: not a drafter this runtime knows. Seen: {seen or 'a config.json that names no model'}; "
        f"{len(names)} tensors such as {', '.join(names[:4])}. "
        f"Known: a config.json with a pspec entry ({', '.join(KINDS)}), the published formats {', '.join(PUBLISHED)}, "
        f"or a causal LM ({', '.join(FAMILIES)})"
    )


def save_drafter(drafter: Drafter, folder: str | Path) -> Path:
    """Write config.json and model.safetensors, in the drafter's dtype; `load_drafter` gives the same drafter back.

    Returns the folder, which is made if need be. Raises ConfigError for a drafter without weights.
    """
    saved = drafter.checkpoint()
    if saved is None:
        raise ConfigError(f"the {drafter.kind} drafter has no weights to save")
    return write_drafter(Path(folder), *saved)


def write_drafter(folder: Path, raw: dict[str, Any], views: dict[str, Tensor]) -> Path:
    """Write a config.json and named tensors; returns the folder, which is made if need be."""
    # Copies: q, k and v are views of one fused tensor, and safetensors refuses tensors that share memory.
    tensors = {name: view.detach().cpu().clone() for name, view in views.items()}
    dtype = next(str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**raw, "dtype": dtype}, indent=2) + "\n", encoding="utf-8")
    return folder


def parse_kind(kind: str, raw: dict[str, Any], checkpoint: Checkpoint, target: ModelConfig | None) -> FeatureConfig:
    """The config of a feature drafter; without a target, what depends on it stays open."""
    if kind == DFLASH:
        return parse_dflash(raw, checkpoint)
    if kind in PUBLISHED:
        return parse_eagle(kind, raw, checkpoint, target)
    return parse_feature_config(raw, str(checkpoint.folder / "config.json"))


def _resolve(
    dtype: str | torch.dtype | None, checkpoint: Checkpoint, target: Target
) -> tuple[torch.dtype, bool | None]:
    """As `resolve_dtype`; "auto" and None are the dtype of the checkpoint's matrices."""
    if dtype in (None, "auto"):
        floats = [name for name in checkpoint.names if len(checkpoint.shape(name)) > 1 and name.endswith("weight")]
        dtype = torch.float32 if floats and checkpoint.dtype(floats[0]) == torch.float32 else torch.bfloat16
    assert dtype is not None
    return resolve_dtype(dtype, target.config, checkpoint, target.device)


def _load_feature(
    config: FeatureConfig, checkpoint: Checkpoint, target: Target, dtype: str | torch.dtype | None
) -> FeatureDrafter:
    config.check_fit(target.config)
    if config.kind in (EAGLE, MEDUSA):
        check_masks(config, checkpoint)
    optional = set(checkpoint.names)
    check_head(config, HEAD in optional, D2T in optional, target.config)
    chosen, a8 = _resolve(dtype, checkpoint, target)
    shapes = FeatureWeights.empty(config, optional, chosen, "meta").pieces(config)
    checkpoint.check(shapes, spare={D2T, "t2d"})
    d2t_D = checkpoint.integers(D2T) if D2T in checkpoint else None
    if d2t_D is not None:
        check_d2t(config, d2t_D, target.config)
    if config.mask_id:
        check_mask_token(config.source, config.mask_id, target)
    weights = FeatureWeights.empty(config, optional, chosen, target.device)
    checkpoint.load(weights.pieces(config))
    weights = weights if a8 is None else weights.quantized(a8)
    weights.d2t_D = None if d2t_D is None else d2t_D.to(target.device)
    return FEATURE_FAMILIES[config.kind](config, weights, target)


def _load_medusa_heads(
    raw: dict[str, Any], checkpoint: Checkpoint, target: Target, dtype: str | torch.dtype | None
) -> MedusaHeadsDrafter:
    chosen, a8 = _resolve(dtype, checkpoint, target)
    checkpoint.check(head_pieces(empty_heads(checkpoint, chosen, "meta")))
    heads = empty_heads(checkpoint, chosen, target.device)
    checkpoint.load(head_pieces(heads))
    share_outputs(heads)
    return MedusaHeadsDrafter(heads if a8 is None else quantized_heads(heads, a8), raw, target.config)


def _load_lm(
    kind: str, raw: dict[str, Any], checkpoint: Checkpoint, target: Target, dtype: str | torch.dtype | None
) -> LMDrafter:
    path = checkpoint.folder
    fields = Fields(raw, str(path / "config.json"))
    vocab = fields.integer("vocab_size")
    k = read_k(kind, fields)
    mask_id = 0 if kind == LM else read_pard_token(fields, vocab)
    check_vocabulary(str(path), vocab, target.config)
    check_tokenizer(path, target)
    if kind != LM:
        check_mask_token(fields.source, mask_id, target)
    model = load_target(path, dtype=dtype or "auto", device=target.device, ignore_generation_config=True)
    if kind == PARD2:
        return FeatureLMDrafter(
            model, raw, target.config, k, mask_id, *_load_projection(fields, checkpoint, model, target)
        )
    if kind == PARD:
        return ParallelLMDrafter(model, raw, target.config, k, mask_id)
    return SequentialLMDrafter(model, raw, target.config, k)


def read_k(kind: str, fields: Fields) -> int:
    """K of a drafter that is a language model, as stated or the default; raises CheckpointError for no such number."""
    k = Fields(fields.raw.get("pspec") or {}, f"{fields.source}: pspec").integer("k", DEFAULT_K[kind])
    if k > MAX_K:
        raise CheckpointError(f"{fields.source}: pspec: k = {k}, at most {MAX_K} is supported")
    return k


def _load_projection(
    fields: Fields, checkpoint: Checkpoint, model: Target, target: Target
) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
    """PARD-2's target_proj times its scale, its bias likewise, and the hidden states it reads."""
    taps = pard2_taps(fields, target.config)
    weight, bias, M = "target_proj.weight", "target_proj.bias", model.config.hidden_size
    shapes = {weight: torch.empty(M, len(taps) * target.config.hidden_size, device="meta")}
    if bias in checkpoint:
        shapes[bias] = torch.empty(M, device="meta")
    if weight in checkpoint and checkpoint.shape(weight) != tuple(shapes[weight].shape):
        raise DrafterMismatchError(
            f"{fields.source}: {weight} has shape {checkpoint.shape(weight)}; for {len(taps)} hidden states of the "
            f"target ({target.config.architecture}, width {target.config.hidden_size}) it would be "
            f'{tuple(shapes[weight].shape)}: use another target, or "pspec": {{"kind": "pard"}} to draft without it'
        )
    checkpoint.check(shapes, spare=checkpoint.names)
    pieces = {name: torch.empty(shape.shape, device=target.device) for name, shape in shapes.items()}
    checkpoint.load(pieces)
    scaled = {name: (piece * fields.number("pard2_scale", 0.02)).to(model.dtype) for name, piece in pieces.items()}
    return scaled[weight], scaled.get(bias), taps
