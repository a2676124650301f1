"""Rotary position embedding: parameters from config.json, and the cos/sin tables ops read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ._json import Fields

KINDS = ("default", "linear", "llama3", "yarn", "dynamic")
_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class RopeConfig:
    """Parameters of one kind of RoPE; those a kind does not use keep their defaults."""

    kind: str = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    original_positions: int = 0  # context length before scaling (llama3, yarn)
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float = 1.0  # multiplies cos and sin (yarn)
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    max_positions: int | None = None  # positions beyond this cannot be served (dynamic)


def parse_rope(config: Fields, max_positions: int) -> RopeConfig:
    """RoPE of a config.json: the old form (rope_theta, rope_scaling) or the new (rope_parameters).

    Raises:
        CheckpointError: an unsupported kind, different RoPE per layer type, partial rotary, or a
            missing parameter.
    """
    raw = _flatten(config)
    fields = config.sub(raw, "rope")
    kind = raw.get("rope_type") or raw.get("type") or "default"
    theta = fields.number("rope_theta", config.number("rope_theta", 10_000.0))
    partial = fields.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise CheckpointError(f"{config.source}: partial_rotary_factor = {partial} is not supported, only 1.0")
    if kind == "longrope":
        raise CheckpointError(
            f"{config.source}: RoPE kind 'longrope' is not supported: its frequencies change once "
            "a sequence passes the original length, which would change keys that are already in "
            f"the cache. Supported: {', '.join(KINDS)}"
        )
    if kind not in KINDS:
        raise CheckpointError(f"{config.source}: RoPE kind {kind!r} is not supported. Supported: {', '.join(KINDS)}")
    original = config.integer(
        "original_max_position_embeddings",
        fields.integer("original_max_position_embeddings", max_positions),
    )
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "dynamic":
        # Up to the original length it is the default; past it every earlier key would change.
        fields.number("factor")
        return RopeConfig(kind, theta, max_positions=max_positions)
    if kind == "linear":
        return RopeConfig(kind, theta, fields.number("factor"))
    if kind == "llama3":
        low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
        return RopeConfig(kind, theta, fields.number("factor"), original, low, high)
    return _parse_yarn(fields, theta, original, max_positions)


def _parse_yarn(fields: Fields, theta: float, original: int, max_positions: int) -> RopeConfig:
    factor = fields.number("factor", max_positions / original)

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    mscale, mscale_all_dim = fields.number("mscale", 0.0), fields.number("mscale_all_dim", 0.0)
    attention = magnitude(1.0)
    if mscale and mscale_all_dim:
        attention = magnitude(mscale) / magnitude(mscale_all_dim)
    return RopeConfig(
        "yarn",
        theta,
        factor,
        original,
        attention_factor=fields.number("attention_factor", attention),
        beta_fast=fields.number("beta_fast", 32.0),
        beta_slow=fields.number("beta_slow", 1.0),
        truncate=fields.flag("truncate", True),
    )


def _flatten(config: Fields) -> Mapping[str, Any]:
    """The one set of RoPE parameters; given per layer type, all must be the same."""
    raw = config.raw.get("rope_scaling") or config.raw.get("rope_parameters") or {}
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{config.source}: rope_scaling / rope_parameters is {raw!r}, expected an object")
    nested = [raw[key] for key in raw if key in _LAYER_TYPES]
    if not nested:
        return raw
    if not isinstance(nested[0], Mapping) or any(other != nested[0] for other in nested):
        raise CheckpointError(f"{config.source}: rope_parameters differ between layer types; only one is supported")
    return nested[0]


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """[E/2] fp32 rotation per position of each pair of dimensions."""
    inverse = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.kind == "linear":
        return inverse / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, inverse)
    if rope.kind == "yarn":
        return _yarn(rope, inverse, head_dim)
    return inverse


def _llama3(rope: RopeConfig, inverse: Tensor) -> Tensor:
    """Long waves slowed down by `factor`, short ones kept, those between blended by frequency."""
    turns = rope.original_positions * inverse / (2 * math.pi)  # within the original context
    keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return torch.lerp(inverse / rope.factor, inverse, keep.clamp(0, 1))


def _yarn(rope: RopeConfig, inverse: Tensor, head_dim: int) -> Tensor:
    """Fast waves kept, slow ones slowed down, between two turn counts blended by dimension."""

    def dimension(turns: float) -> float:
        """The dimension pair that makes this many turns within the original context."""
        length = rope.original_positions / (turns * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low if high != low else 0.001
    slowed = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return torch.lerp(inverse, inverse / rope.factor, slowed)


class Rope:
    """cos/sin tables of positions 0..S-1, grown on request.

    Attributes:
        cos_SE, sin_SE: [S, E/2] fp32, the attention factor folded in.
    """

    def __init__(self, rope: RopeConfig, head_dim: int, device: torch.device, positions: int = 0) -> None:
        self.config = rope
        self.device = device
        self._inverse_E = inverse_frequencies(rope, head_dim)
        self._outgrown: list[tuple[Tensor, Tensor]] = []
        self._build(0)
        self.reserve(positions)

    def reserve(self, positions: int) -> None:
        """Make the tables cover positions 0..positions-1.

        They move when they grow, so call it before a round runs; rounds captured earlier go on reading the old ones.

        Raises:
            ConfigError: this kind of RoPE cannot serve so many positions.
        """
        limit = self.config.max_positions
        if limit is not None and positions > limit:
            raise ConfigError(
                f"{positions} positions asked for, but RoPE kind {self.config.kind!r} is served "
                f"only up to the model's original length of {limit}: lower max_length"
            )
        if positions > self.cos_SE.shape[0]:
            self._outgrown.append((self.cos_SE, self.sin_SE))
            self._build(positions)

    def _build(self, positions: int) -> None:
        angle_SE = torch.arange(positions, dtype=torch.float32)[:, None] * self._inverse_E
        self.cos_SE = (angle_SE.cos() * self.config.attention_factor).to(self.device)
        self.sin_SE = (angle_SE.sin() * self.config.attention_factor).to(self.device)
