"""Which drafter a user's word stands for: a name, a checkpoint, a drafter, or "auto"."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from .. import zoo
from ..models._json import read_json
from ..models.target import Target
from .base import Drafter
from .checkpoint import load_drafter
from .config import target_entry
from .ngram import NgramDrafter

log = logging.getLogger("pspec_rt")


def find_drafter(
    spec: str | Path | Drafter | None, target: Target, dtype: str | torch.dtype | None = None
) -> Drafter | None:
    """The drafter `spec` stands for; one INFO line says which.

    Args:
        spec: None or "none" (plain decoding); "ngram"; "auto" (the shipped drafter made for this target, else n-gram
            lookup); a checkpoint folder, the name of a shipped drafter or a hub id; or a Drafter, which is checked and
            passed through.
        dtype: of a checkpoint's weights; see `load_drafter`.

    Raises:
        CheckpointError, DrafterMismatchError: see `load_drafter`.
    """
    if spec is None or spec == "none":
        log.info("drafter: none, plain decoding")
        return None
    drafter, origin = _find(spec, target, dtype)
    log.info("drafter: %s (%s), k=%d", drafter.kind, origin, drafter.default_k)
    return drafter


def _find(spec: str | Path | Drafter, target: Target, dtype: str | torch.dtype | None) -> tuple[Drafter, str]:
    if isinstance(spec, Drafter):
        spec.check_fit(target.config)
        return spec, "as given"
    if spec == "ngram":
        return NgramDrafter(), "as asked for"
    if spec != "auto":
        return load_drafter(spec, target, dtype), str(spec)
    shipped = shipped_for(target)
    if shipped is None:
        return NgramDrafter(), f"no shipped drafter was made for {target.name}"
    return load_drafter(shipped, target, dtype), f"shipped, {shipped.name}"


def shipped_for(target: Target) -> Path | None:
    """Folder of the first shipped drafter (by name) whose "target" entry is this target's, None if there is none."""
    wanted = target_entry(target.config)
    for name in zoo.names():
        entry = read_json(zoo.folder(name) / "config.json").get("target")
        if isinstance(entry, dict) and all(entry.get(key) == value for key, value in wanted.items()):
            return zoo.folder(name)
    return None
