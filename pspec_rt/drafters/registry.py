"""Which drafter a user's word stands for: a name, a checkpoint, a drafter, or "auto"."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from .. import hub, zoo
from ..errors import ConfigError
from ..models._json import read_json
from ..models.target import Target
from .base import Drafter
from .checkpoint import load_drafter
from .config import target_entry
from .lookup import LOOKUP, LookupDrafter
from .ngram import NgramDrafter

log = logging.getLogger("pspec_rt")


def find_drafter(
    spec: str | Path | Drafter | None, target: Target, dtype: str | torch.dtype | None = None
) -> Drafter | None:
    """The drafter `spec` stands for; one INFO line says which.

    Args:
        spec: None or "none" (plain decoding); "ngram"; "auto" (the shipped drafter made for this target, with lookup
            beside it, else lookup alone); a checkpoint folder, the name of a shipped drafter or a hub id; or a Drafter,
            which is checked and passed through. "NAME+ngram" is the drafter NAME with n-gram lookup beside it
            (`LookupDrafter`).
        dtype: of a checkpoint's weights; see `load_drafter`.

    Raises:
        ConfigError: NAME of "NAME+ngram" is nobody, or a drafter that lookup does not go beside.
        CheckpointError, DrafterMismatchError: see `load_drafter`.
    """
    if spec is None or spec == "none":
        log.info("drafter: none, plain decoding")
        return None
    drafter, origin = _find(spec, target, dtype)
    log.info("drafter: %s (%s), k=%d", drafter.kind, origin, drafter.default_k)
    return drafter


def checkpoint_of(word: str | Path, target: Target) -> str:
    """The folder of the checkpoint that a word stands for (it does for one), and LOOKUP if lookup goes beside it."""
    name = word.removesuffix(LOOKUP) if isinstance(word, str) else word
    folder = shipped_for(target) if name == "auto" else hub.resolve(name)
    assert folder is not None, "found before"
    return f"{folder.resolve()}{LOOKUP if name == 'auto' or name != word else ''}"


def _find(spec: str | Path | Drafter, target: Target, dtype: str | torch.dtype | None) -> tuple[Drafter, str]:
    if isinstance(spec, Drafter):
        spec.check_fit(target.config)
        return spec, "as given"
    if isinstance(spec, str) and spec.endswith(LOOKUP):
        return _find_with_lookup(spec.removesuffix(LOOKUP), target, dtype)
    if spec == "ngram":
        return NgramDrafter(), "as asked for"
    if spec != "auto":
        return load_drafter(spec, target, dtype), str(spec)
    shipped = shipped_for(target)
    if shipped is None:
        return NgramDrafter(), f"no shipped drafter was made for {target.name}"
    return LookupDrafter(load_drafter(shipped, target, dtype)), f"shipped, {shipped.name}"


def _find_with_lookup(name: str, target: Target, dtype: str | torch.dtype | None) -> tuple[Drafter, str]:
    if name in ("", "none"):
        raise ConfigError(f'drafter "{name}{LOOKUP}": there is no drafter to look up beside; lookup alone is "ngram"')
    drafter, origin = _find(name, target, dtype)
    return (drafter if name == "auto" else LookupDrafter(drafter)), origin  # auto looks up already


def shipped_for(target: Target) -> Path | None:
    """Folder of the first shipped drafter (by name) whose "target" entry is this target's, None if there is none."""
    wanted = target_entry(target.config)
    for name in zoo.names():
        entry = read_json(zoo.folder(name) / "config.json").get("target")
        if isinstance(entry, dict) and all(entry.get(key) == value for key, value in wanted.items()):
            return zoo.folder(name)
    return None
