"""Captured rounds: what a round launches, recorded once and replayed with one call, on a CPU as on a GPU."""

from __future__ import annotations

import traceback
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import CaptureError
from .ops._dispatch import cuda_stream, native
from .ops._graph import LaunchGraph
from .ring import Ring

_PACKAGE = Path(__file__).parent
_HARMLESS = {"aten.detach.default", "aten.alias.default", "aten._unsafe_view.default"}


class Captured(ABC):
    """A recorded round."""

    @abstractmethod
    def replay(self) -> None:
        """Run the round once."""

    def prepare_bursts(self) -> None:
        """Make what bursts need besides; CaptureError if it cannot be had. Else the first burst does."""
        return None

    @abstractmethod
    def burst(self, ring: Ring) -> None:
        """Run it at least once, then for as long as the round itself says so in the ring's control words."""


def capture(launches: Callable[[], object], device: torch.device, pool: Any = None) -> Captured:
    """Record what `launches` launches; nothing of it runs.

    Args:
        device: on a GPU, the current one.
        pool: from `torch.cuda.graph_pool_handle`, of the memory that rounds share which never run at the same time.

    Raises:
        CaptureError: something in it cannot be captured; the message names the op.
    """
    on_gpu = device.type == "cuda"
    watch = _Watch(refuse=not on_gpu)
    try:
        with watch:
            return _CudaGraph(launches, pool) if on_gpu else _NativeGraph(launches)
    except CaptureError:
        raise
    except Exception as error:
        # The end of a capture that failed raises once more, saying only that it failed.
        chain = (error, error.__context__)
        first = next((e for e in chain if e is not None and _innermost(e, "ops")), error)
        op = _innermost(first, "ops") or watch.last or "unknown"
        raise CaptureError(f"the round cannot be captured: op {op}: {first}") from error


class _NativeGraph(Captured):
    """Launches of native CPU kernels."""

    def __init__(self, launches: Callable[[], object]) -> None:
        self._graph = LaunchGraph(launches)

    def replay(self) -> None:
        self._graph.replay()

    def burst(self, ring: Ring) -> None:
        native.graph_burst(self._graph.handle, ring.go_address)


class _CudaGraph(Captured):
    """A CUDA graph; for bursts a second graph, whose one conditional node loops over a copy of the first."""

    def __init__(self, launches: Callable[[], object], pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph(keep_graph=True)
        # torch's own stream for captures is that of one GPU; and after a failed capture only the outer of these two
        # contexts goes back to the stream that was current.
        stream = _capture_stream(torch.cuda.current_device())
        recording = torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="relaxed")
        with torch.cuda.stream(stream), recording:
            launches()
        self._graph.instantiate()
        self._while: int | None = None

    def replay(self) -> None:
        self._graph.replay()

    def prepare_bursts(self) -> None:
        if self._while is not None:
            return
        try:
            self._while = native.cuda_while_create(self._graph.raw_cuda_graph())
        except RuntimeError as error:
            raise CaptureError(f"no WHILE graph of the round can be made: {error}; use loop='run_ahead'") from error
        weakref.finalize(self, native.cuda_while_destroy, self._while)

    def burst(self, ring: Ring) -> None:
        self.prepare_bursts()
        native.cuda_while_launch(self._while, ring.control_C.data_ptr(), cuda_stream())


@cache
def _capture_stream(gpu: int) -> Any:
    return torch.cuda.Stream(gpu)


class _Watch(TorchDispatchMode):
    """Remembers the last torch op; where only native launches are recorded, refuses all but views."""

    def __init__(self, refuse: bool) -> None:
        super().__init__()
        self.refuse, self.last = refuse, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.last = str(func)
        if self.refuse and not func.is_view and self.last not in _HARMLESS:
            raise CaptureError(f"the round cannot be captured: {self.last}, in {_caller()}, is no native CPU kernel")
        return func(*args, **(kwargs or {}))


def _innermost(error: BaseException, folder: str) -> str | None:
    """The function of the package's `folder` in which an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    names = [frame.name for frame in frames if Path(frame.filename).parent == _PACKAGE / folder]
    return names[-1] if names else None


def _caller() -> str:
    """The line of the package that called a torch op."""
    frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(_PACKAGE)]
    frame = next((f for f in reversed(frames) if f.filename != __file__), None)
    return f"{Path(frame.filename).relative_to(_PACKAGE)}:{frame.lineno} ({frame.name})" if frame else "unknown code"
