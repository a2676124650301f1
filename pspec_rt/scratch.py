"""Scratch memory: what a kernel writes for the next one, or for its own programs; one set for launches in one order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


class Scratch:
    """Buffers by name that grow and are never given back.

    Launches that share one must run one after another. So whoever launches on a second stream, or replays graphs on
    one, needs a second: see `scratch_of`.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.device, str, torch.dtype], list[Tensor]] = {}

    def take(self, device: torch.device, name: str, numel: int, dtype: torch.dtype) -> Tensor:
        """At least `numel` elements of device memory, zeros when made, the same ones at every call of that name.

        They grow when a larger call comes, which must happen before a capture; smaller ones are kept, as graphs
        captured earlier hold their addresses.
        """
        kept = self._kept.setdefault((device, name, dtype), [])
        if not kept or kept[-1].numel() < numel:
            capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
            assert not capturing, f"scratch {name!r} must grow to {numel} elements: run the op once before capturing it"
            with torch.inference_mode(False):  # so that it can be written in either mode
                kept.append(torch.zeros(numel, dtype=dtype, device=device))
        return kept[-1]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for kept in self._kept.values() for tensor in kept)


_in_use: ContextVar[Scratch] = ContextVar("scratch", default=Scratch())  # noqa: B039  (one for all is what is meant)


@contextmanager
def scratch_of(owned: Scratch) -> Iterator[None]:
    """What is launched inside uses this scratch memory, not the one that the whole process shares."""
    token = _in_use.set(owned)
    try:
        yield
    finally:
        _in_use.reset(token)


def scratch(device: torch.device, name: str, numel: int, dtype: torch.dtype) -> Tensor:
    """`Scratch.take` of the scratch memory in use."""
    return _in_use.get().take(device, name, numel, dtype)
