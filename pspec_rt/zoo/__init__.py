"""The drafters we ship, a folder each: config.json, model.safetensors, and README.md, its model card.

Their names serve wherever a checkpoint is named: `Generator(target, "smollm2-135m-instruct-eagle")`.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the shipped drafters."""
    return sorted(config.parent.name for config in ROOT.glob("*/config.json"))


def folder(name: str) -> Path:
    """Where a shipped drafter lies."""
    return ROOT / name
