"""The target model: configuration, weights and one decoder for the Llama family."""

from __future__ import annotations

from .config import GenerationDefaults, ModelConfig, load_config
from .target import Target, load_target

__all__ = ["GenerationDefaults", "ModelConfig", "Target", "load_config", "load_target"]
