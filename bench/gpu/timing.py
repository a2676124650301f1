"""Timing on a GPU: calls captured in a CUDA graph and replayed, so that the host's launch time does not count."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy
import torch
from torch import Tensor

Call = Callable[[], object]
COLD_BYTES = 256 << 20  # calls take turns on copies of their data that large together: several times the L2 cache
REPLAYS = 9
LEAST_CALLS = 32  # in a graph


@dataclass(frozen=True)
class Timing:
    """Microseconds of a call: median, 20th and 80th percentile over the replays."""

    us: float
    us_p20: float
    us_p80: float


def time_calls(calls: Sequence[Call], device: str, replays: int = REPLAYS) -> Timing:
    """Time calls that follow each other, per call. On a CPU, where only logic is tested, they simply run."""
    if device != "cuda":
        start = time.perf_counter()
        for call in calls:
            call()
        us = (time.perf_counter() - start) / len(calls) * 1e6
        return Timing(us, us, us)
    repeats = -(-LEAST_CALLS // len(calls))
    graph = captured(lambda: [call() for _ in range(repeats) for call in calls], warm=lambda: [c() for c in calls])
    times = numpy.array(replay_us(graph, replays)) / (repeats * len(calls))
    return Timing(*(float(x) for x in numpy.percentile(times, (50, 20, 80))))


def captured(body: Call, warm: Call) -> torch.cuda.CUDAGraph:
    """A graph of what `body` launches, after `warm` ran outside it: compilation and scratch memory come first."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm()
        warm()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph


def replay_us(graph: torch.cuda.CUDAGraph, replays: int) -> list[float]:
    """Microseconds of replays that follow each other. One before them keeps the device busy while the host launches
    the next, whose launch would else count."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
    graph.replay()
    for event in events[:-1]:
        event.record()
        graph.replay()
    events[-1].record()
    events[-1].synchronize()
    return [1e3 * begin.elapsed_time(end) for begin, end in pairwise(events)]


def tensors_in(*values: object) -> list[Tensor]:
    """The tensors among arguments."""
    return [value for value in values if isinstance(value, Tensor)]


def copies_for(nbytes: int, most: int = 32) -> int:
    """How many copies of so much data do not fit in the cache together."""
    return max(1, min(most, -(-COLD_BYTES // max(nbytes, 1))))
