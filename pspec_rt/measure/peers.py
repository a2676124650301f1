"""The peers pspec_rt can be measured against, one module each; loaded only when they are asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ConfigError
from .contender import Contender

# Peer name -> module here with `make(setup: PeerSetup) -> Contender`.
PEERS = {"transformers": "peer_transformers"}


@dataclass(frozen=True)
class PeerSetup:
    """What every peer gets: the checkpoint folder, dtype, device and end tokens that our own side uses."""

    checkpoint: Path
    dtype: torch.dtype
    device: torch.device
    eos_ids: tuple[int, ...]


def check_peers(names: tuple[str, ...], temperature: float) -> None:
    """Raise ConfigError for a peer we do not know, or sampling, where peers draw other random numbers."""
    if unknown := [name for name in names if name not in PEERS]:
        raise ConfigError(f"unknown peer {unknown[0]!r}: choose from {', '.join(PEERS)}")
    if names and temperature:
        raise ConfigError(f"temperature={temperature}: peers are measured greedily only; leave out --temperature")


def make_peer(name: str, setup: PeerSetup) -> Contender:
    """Load a peer."""
    return importlib.import_module(f".{PEERS[name]}", __package__).make(setup)
