"""How rounds are driven: one by one, replayed ahead of their results, or in bursts that loop by themselves.

eager      the round as a Python function; its results are read back after each.
run_ahead  the round captured once per key and replayed; the host takes its results from a ring, up to `ahead`
           rounds behind. On a CPU a replay is one native call that returns when the round is done.
while      one launch runs a burst of captured rounds: on a GPU a graph with one conditional node, on a CPU a native
           loop. A burst ends by itself when no slot runs, the ring is full or it is `burst` rounds long.
"""

from __future__ import annotations

import logging
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from .capture import Captured, capture
from .errors import CaptureError, ConfigError
from .ops._dispatch import REGISTRY
from .ring import Ring, RoundRecord
from .sampling import Mode

log = logging.getLogger("pspec_rt")

LOOPS = ("auto", "eager", "run_ahead", "while")
AHEAD = 4  # rounds in flight on a GPU: enough to hide the host, few enough to waste at the end of a sequence
BURST = 64  # most rounds of a `while` launch: a joining request waits for its end
RING_ROUNDS = 128  # a power of two, more than AHEAD and BURST
_POLL_S = 0.05  # how long to wait for a round before asking the device whether it is still well


class RoundKey(NamedTuple):
    """What, with an engine's sizes, fixes the launches of a round."""

    drafting: bool
    mode: Mode


class Result(NamedTuple):
    """What one round gave every slot, and the seconds it took."""

    record: RoundRecord
    seconds: float


Launch = Callable[[RoundKey, Ring | None], None]


class Loop(ABC):
    """Drives the rounds of one engine.

    Attributes:
        name: one of LOOPS, but not "auto".
        in_step: whether a round is launched only when the results of the one before are known.
    """

    name: str
    in_step = True

    @abstractmethod
    def next(self, key: RoundKey) -> Result:
        """The oldest result not taken yet; launches rounds of `key` as needed."""

    def drain(self) -> list[Result]:
        """Wait for all rounds in flight and take their results."""
        return []

    def cancel(self, slot: int) -> None:
        """Let a running slot end with its next round, if rounds are in flight."""
        return None

    def admit(self, slot: int) -> None:
        """A slot starts anew; nothing is in flight."""
        return None


class Eager(Loop):
    """`launch` runs a round, `read` reads its results back."""

    name = "eager"

    def __init__(self, launch: Launch, read: Callable[[RoundKey], RoundRecord]) -> None:
        self._launch, self._read = launch, read

    def next(self, key: RoundKey) -> Result:
        start = time.perf_counter()
        self._launch(key, None)
        record = self._read(key)
        return Result(record, time.perf_counter() - start)


class _Captured(Loop):
    """What the loops over captured rounds share: the rounds by key, the ring, and the time between results."""

    def __init__(self, launch: Launch, ring: Ring, device: torch.device) -> None:
        self._launch, self._ring, self._on_gpu, self._device = launch, ring, device.type == "cuda", device
        self._pool = torch.cuda.graph_pool_handle() if self._on_gpu else None
        if self._on_gpu:
            weakref.finalize(self, _outlive_rounds, ring)
        self._rounds: dict[RoundKey, Captured] = {}
        self._warm: set[RoundKey] = set()
        self._launched_s: float | None = (
            None  # host clock at a launch with nothing in flight, until its result is taken
        )
        self._clock_ns = 0  # device clock of the result taken last

    def drain(self) -> list[Result]:
        """By what the ring holds: rounds that an interrupt left uncounted are taken, too."""
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()
        return [self._take() for _ in range(self._ring.unread)]

    def cancel(self, slot: int) -> None:
        self._ring.cancel(slot)

    def admit(self, slot: int) -> None:
        self._ring.clear_cancel(slot)

    def _captured(self, key: RoundKey) -> Captured | None:
        """The captured round of a key. On a GPU the first round of a key runs eagerly instead: kernels are compiled
        and loaded, libraries get their workspaces, none of which a capture may do."""
        if key not in self._rounds:
            if self._on_gpu and key not in self._warm:
                self._warm.add(key)
                return None
            self._rounds[key] = capture(lambda: self._launch(key, self._ring), self._device, self._pool)
        return self._rounds[key]

    def prepare(self, key: RoundKey) -> Captured:
        """Capture the round of a key while every slot is idle."""
        if self._on_gpu:
            self._launch(key, None)
            self._warm.add(key)
        captured = self._captured(key)
        assert captured is not None, "it is warm"
        return captured

    def _note_launch(self, idle: bool) -> None:
        if idle and self._on_gpu:
            self._launched_s = time.perf_counter()
        elif idle:  # on a CPU both sides read one clock
            self._clock_ns = time.monotonic_ns()

    def _take(self) -> Result:
        """The oldest unread result, timed by the clock of the records while rounds follow each other, else from the
        launch on."""
        record = self._ring.take()
        assert record is not None, "a result is there"
        if self._launched_s is not None:
            seconds, self._launched_s = time.perf_counter() - self._launched_s, None
        else:
            seconds = (record.clock_ns - self._clock_ns) * 1e-9
        self._clock_ns = record.clock_ns
        return Result(record, seconds)


class RunAhead(_Captured):
    """Keeps up to `ahead` replays in flight. Slots that finish meanwhile emit nothing more."""

    name = "run_ahead"

    def __init__(self, launch: Launch, ring: Ring, device: torch.device, ahead: int = AHEAD) -> None:
        super().__init__(launch, ring, device)
        assert 1 <= ahead <= ring.capacity
        self._ahead = ahead if self._on_gpu else 1
        self.in_step = self._ahead == 1
        self._in_flight = 0

    def next(self, key: RoundKey) -> Result:
        while self._in_flight < self._ahead:
            self._note_launch(idle=not self._in_flight)
            captured = self._captured(key)
            if captured is None:
                self._launch(key, self._ring)
            else:
                captured.replay()
            self._in_flight += 1
        return self._await()

    def drain(self) -> list[Result]:
        self._in_flight = 0
        return super().drain()

    def _await(self) -> Result:
        while not self._ring.wait(_POLL_S):
            # On a CPU a replay returns when its round is published; a GPU's stream raises what went wrong there.
            idle = not self._on_gpu or torch.cuda.current_stream().query()
            assert not idle or self._ring.unread, "a round ended without publishing"
        self._in_flight -= 1
        return self._take()


class While(_Captured):
    """Launches bursts; the next one when the last has ended and all its results are taken."""

    name = "while"
    in_step = False

    def __init__(self, launch: Launch, ring: Ring, device: torch.device, burst: int = BURST) -> None:
        super().__init__(launch, ring, device)
        assert 1 <= burst <= ring.capacity
        self._burst = burst
        self._end: Any = None  # CUDA event after the burst in flight

    def next(self, key: RoundKey) -> Result:
        if not self._ready():
            self._note_launch(idle=True)
            captured = self._captured(key)
            self._ring.start_burst(self._burst)
            if captured is None:
                self._launch(key, self._ring)
            else:
                captured.burst(self._ring)
            if self._on_gpu:
                self._end = torch.cuda.Event()
                self._end.record()
            published = self._ready()
            assert published, "a burst publishes at least one round"
        return self._take()

    def prepare(self, key: RoundKey) -> Captured:
        captured = super().prepare(key)
        captured.prepare_bursts()
        return captured

    def drain(self) -> list[Result]:
        self._end = None
        return super().drain()

    def _ready(self) -> bool:
        """Wait for a result; False when the burst has ended and its results are taken."""
        while not self._ring.unread:
            if self._end is None or self._end.query():
                self._end = None
                return bool(self._ring.unread)  # one may have come between the two questions
            self._ring.wait(_POLL_S)
        return True


def _outlive_rounds(ring: Ring) -> None:
    """The last to hold a ring's pinned words keeps them until the rounds in flight have written theirs."""
    with suppress(RuntimeError):  # of a device that is in error
        torch.cuda.synchronize(ring.control_C.device)


def choose_loop(
    name: str, launch: Launch, read: Callable[[RoundKey], RoundRecord], key: RoundKey, path_BP: torch.Tensor
) -> tuple[Eager, Loop, str]:
    """The eager loop, the one asked for, and one line that says which and why; every slot is idle.

    Args:
        name: one of LOOPS.
        launch: runs a round of a key, publishing to a ring if it is given one.
        read: the results of the round launched last.
        key: the round that is captured at once, so that what cannot be captured is known before work starts.
        path_BP: for its sizes and device.

    Raises:
        ConfigError: no such loop, or rounds cannot publish their results here.
        CaptureError: the round cannot be captured.
    """
    check_loop(name)
    eager = Eager(launch, read)
    if name == "eager":
        return eager, eager, "eager: asked for"
    (B, P), device = path_BP.shape, path_BP.device
    try:
        _check_publishes(device)
        kind = While if name == "while" else RunAhead
        loop = kind(launch, Ring(B, P, RING_ROUNDS, device), device)
        loop.prepare(key)
    except (CaptureError, ConfigError) as error:
        if name != "auto":
            raise
        log.warning("rounds run eagerly: %s", error)
        return eager, eager, f"eager: {error}"
    return eager, loop, f"{loop.name}: {'the default' if name == 'auto' else 'asked for'}"


def check_loop(name: str) -> str:
    """The name of a loop; ConfigError if there is none of that name."""
    if name not in LOOPS:
        raise ConfigError(f"loop={name!r}: expected one of {', '.join(LOOPS)}")
    return name


def _check_publishes(device: torch.device) -> None:
    """Raise ConfigError unless `accept` runs on a backend that publishes its results to a ring."""
    backend = REGISTRY["accept"].backend(device.type)
    if backend not in ("cpu", "cuda"):
        raise ConfigError(
            f"op accept runs on backend {backend!r} here, which cannot publish to a ring "
            "(captured rounds need pspec_rt._C, on a GPU built with CUDA; see `pspec-rt env`): use loop='eager'"
        )
