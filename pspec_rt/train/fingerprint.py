"""Fingerprint of a checkpoint folder: whether two runs used the same target, without reading all its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

HEAD_BYTES = 1 << 20  # of a weight file; its header, which names every tensor, lies there

_WHOLE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def fingerprint(folder: Path) -> str:
    """Hash of configuration and tokenizer, and of each weight file's name, size and first bytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        weights = path.suffix == ".safetensors"
        if not weights and path.name not in _WHOLE:
            continue
        with path.open("rb") as file:
            content = file.read(HEAD_BYTES if weights else -1)
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]
