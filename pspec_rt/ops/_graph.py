"""Launch graphs on the CPU: native launches recorded once and replayed in one call, as a captured graph is on a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ._dispatch import REGISTRY, native

MAX_GRAPHS = 64  # an engine needs a few; a caller with new buffers every time must not pile them up


class LaunchGraphs:
    """Graphs by key. A key names everything a launch holds: addresses, sizes, weights.

    A sequence may be recorded if it launches native kernels only; whatever else it does is not in the graph.
    """

    def __init__(self) -> None:
        self._handles: dict[Hashable, int] = {}
        self._free = weakref.finalize(self, _free, self._handles)

    def run(self, key: Hashable, launches: Callable[[], object]) -> None:
        """Replay the graph of `key`, or call `launches` and record what it launches."""
        handle = self._handles.get(key)
        if handle is not None:
            native.graph_replay(handle)
            return
        if len(self._handles) >= MAX_GRAPHS:
            _free(self._handles)
        native.graph_begin()
        try:
            launches()
        except BaseException:  # an interrupt, too, leaves half a sequence
            native.graph_free(native.graph_end())
            raise
        self._handles[key] = native.graph_end()


def address(tensor: Tensor | None) -> int:
    """Where a tensor's data lies, 0 for None: part of a key."""
    return 0 if tensor is None else tensor.data_ptr()


def all_native(ops: tuple[str, ...], device_type: str) -> bool:
    """Whether these ops all run native CPU kernels, so that a sequence of them may be recorded."""
    cpu = torch.device("cpu")
    return device_type == "cpu" and all(REGISTRY[op](cpu) is REGISTRY[op].backends.get("cpu") for op in ops)


def _free(handles: dict[Hashable, int]) -> None:
    for handle in handles.values():
        native.graph_free(handle)
    handles.clear()
