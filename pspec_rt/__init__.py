"""pspec_rt: faster generation with Hugging Face causal LMs by parallel drafting, with the very same output."""

from __future__ import annotations

import importlib
import logging
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import build_info
    from .drafters.checkpoint import load_drafter, save_drafter
    from .drafters.new import init_drafter
    from .engine import Engine, StepOutput
    from .errors import (
        CheckpointError,
        ConfigError,
        DrafterMismatchError,
        PspecError,
        RequestError,
    )
    from .generator import Generator
    from .models.target import load_target
    from .result import GenerationOutput, Stats, StreamChunk
    from .sampling import SamplingParams
    from .tree import TreeSpec

try:
    __version__ = metadata.version("pspec-rt")  # pyproject.toml has it
except metadata.PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

# Public name -> module that defines it. Resolved at first use, so that `import pspec_rt` does not import torch.
_HOME = {
    "Generator": "generator",
    "Engine": "engine",
    "StepOutput": "engine",
    "SamplingParams": "sampling",
    "GenerationOutput": "result",
    "Stats": "result",
    "StreamChunk": "result",
    "TreeSpec": "tree",
    "build_info": "build",
    "load_target": "models.target",
    "init_drafter": "drafters.new",
    "load_drafter": "drafters.checkpoint",
    "save_drafter": "drafters.checkpoint",
    "PspecError": "errors",
    "CheckpointError": "errors",
    "DrafterMismatchError": "errors",
    "RequestError": "errors",
    "ConfigError": "errors",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DrafterMismatchError",
    "Engine",
    "GenerationOutput",
    "Generator",
    "PspecError",
    "RequestError",
    "SamplingParams",
    "Stats",
    "StepOutput",
    "StreamChunk",
    "TreeSpec",
    "build_info",
    "init_drafter",
    "load_drafter",
    "load_target",
    "save_drafter",
]

logging.getLogger("pspec_rt").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
