"""Seconds per phase of a round, taken without waiting for the device."""

from __future__ import annotations

import time
from typing import Any

import torch

from .ops._dispatch import native

PHASES = ("draft", "verify", "rest")


class PhaseTimer:
    """Times the phases of rounds: on a GPU by events, on a CPU by the clock, also inside a captured round."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._native = not self._on_gpu and native.available
        self._times = torch.zeros(len(PHASES) + 1, dtype=torch.float64)  # start, then the end of each phase
        self._events: list[Any] = []

    def start(self) -> None:
        self._events = []
        self._note(0)

    def mark(self, phase: str) -> None:
        self._note(1 + PHASES.index(phase))

    def _note(self, index: int) -> None:
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        elif self._native:
            native.clock(self._times.data_ptr() + index * self._times.itemsize)
        else:
            self._times[index] = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """{phase: seconds} of the round that ended last; on a GPU only once its results have been read."""
        if self._on_gpu:
            spans = [a.elapsed_time(b) / 1000 for a, b in zip(self._events, self._events[1:], strict=False)]
        else:
            spans = self._times.diff().tolist()
        return dict(zip(PHASES, spans, strict=True))
