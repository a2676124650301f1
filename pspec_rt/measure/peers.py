"""The peers pspec_rt can be measured against, one module each; loaded only when they are asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ConfigError
from .contender import Contender


@dataclass(frozen=True)
class Peer:
    """Where a peer is: a module here with `make(setup: PeerSetup) -> Contender`.

    Attributes:
        needs: the module it imports, if pspec_rt does not depend on it.
        package: what to install to get that.
    """

    module: str
    needs: str = ""
    package: str = ""


PEERS = {
    "transformers": Peer("peer_transformers"),
    "transformers-assisted": Peer("peer_transformers_assisted"),
    "llama.cpp": Peer("peer_llama_cpp", needs="llama_cpp", package="llama-cpp-python"),
}


@dataclass(frozen=True)
class PeerSetup:
    """What every peer gets: the checkpoint folder, dtype, device, end tokens and threads that our own side uses."""

    checkpoint: Path
    dtype: torch.dtype
    device: torch.device
    eos_ids: tuple[int, ...]
    threads: int


def split_names(words: Iterable[str]) -> tuple[str, ...]:
    """Names given one by one or joined by commas, each once: ["a,b", "a"] -> ("a", "b")."""
    return tuple(dict.fromkeys(name.strip() for word in words for name in word.split(",") if name.strip()))


def check_peers(names: tuple[str, ...], temperature: float) -> None:
    """Raise ConfigError for a peer that is unknown or not installed, or sampling, where peers draw other numbers."""
    if unknown := [name for name in names if name not in PEERS]:
        raise ConfigError(f"unknown peer {unknown[0]!r}: choose from {', '.join(PEERS)}")
    if names and temperature:
        raise ConfigError(f"temperature={temperature}: peers are measured greedily only; leave out --temperature")
    for name in names:
        peer = PEERS[name]
        if peer.needs and importlib.util.find_spec(peer.needs) is None:
            raise ConfigError(f"peer {name!r} is not installed; run: pip install {peer.package}")


def make_peer(name: str, setup: PeerSetup) -> Contender:
    """Load a peer."""
    return importlib.import_module(f".{PEERS[name].module}", __package__).make(setup)
