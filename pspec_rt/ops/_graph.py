"""Launch graphs on the CPU: native launches recorded once and run in one call, as a captured graph is on a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ._dispatch import REGISTRY, native

MAX_GRAPHS = 64  # an engine needs a few; a caller with new buffers every time must not pile them up


class LaunchGraph:
    """The native kernels that `launches` launches, in order; they do not run while they are recorded.

    Whatever else `launches` does happens then and there and is not in the graph.
    """

    def __init__(self, launches: Callable[[], object]) -> None:
        native.graph_begin()
        try:
            launches()
        finally:  # after an error, too, the thread must not go on recording
            self.handle = native.graph_end()
            weakref.finalize(self, native.graph_free, self.handle)

    def replay(self) -> None:
        native.graph_replay(self.handle)


class LaunchGraphs:
    """Graphs by key. A key names everything a launch holds: addresses, sizes, weights."""

    def __init__(self) -> None:
        self._graphs: dict[Hashable, LaunchGraph] = {}

    def run(self, key: Hashable, launches: Callable[[], object]) -> None:
        """Run what `launches` launches: the graph of `key`, recorded at its first use."""
        if native.graph_recording():  # somebody records a longer sequence: be part of it
            launches()
            return
        graph = self._graphs.get(key)
        if graph is None:
            if len(self._graphs) >= MAX_GRAPHS:
                self._graphs.clear()
            graph = self._graphs[key] = LaunchGraph(launches)
        graph.replay()


def address(tensor: Tensor | None) -> int:
    """Where a tensor's data lies, 0 for None: part of a key."""
    return 0 if tensor is None else tensor.data_ptr()


def all_native(ops: tuple[str, ...], device_type: str) -> bool:
    """Whether these ops all run native CPU kernels, so that a sequence of them may be recorded."""
    cpu = torch.device("cpu")
    return device_type == "cpu" and all(REGISTRY[op](cpu) is REGISTRY[op].backends.get("cpu") for op in ops)
