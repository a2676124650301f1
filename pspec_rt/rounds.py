"""Rounds: what an engine's rounds run on, how one of a key is launched, and how its results are read back."""

from __future__ import annotations

from .drafters.base import Drafter
from .loop import RoundKey
from .models.decoder import Decoder
from .ring import Ring, RoundRecord
from .state import RUNNING, DecodeState
from .step import decode_round
from .timing import PhaseTimer


class Rounds:
    """Rounds that draft, and plain ones of the same sequences.

    Loops hold it. It knows nothing of the engine, so that one that is dropped is freed at once, its caches with it.
    """

    def __init__(self, state: DecodeState, decoder: Decoder, drafter: Drafter | None) -> None:
        self._decoder, self._drafter = decoder, drafter
        self._state, self._plain_state = state, state if drafter is None else state.plain_twin()
        self.timer = PhaseTimer(state.device)

    @property
    def states(self) -> tuple[DecodeState, ...]:
        """The states rounds run on: with the tree, and plain."""
        return (self._state,) if self._plain_state is self._state else (self._state, self._plain_state)

    def state_of(self, key: RoundKey) -> DecodeState:
        return self._state if key.drafting else self._plain_state

    def launch(self, key: RoundKey, ring: Ring | None) -> None:
        """Launch one round."""
        state = self.state_of(key)
        state.mode = key.mode
        timed = ring is None or state.device.type == "cpu"
        if timed:
            self.timer.start()
        mark = self.timer.mark if timed else _no_mark
        decode_round(state, self._decoder, self._drafter if key.drafting else None, mark, ring)

    def read(self, key: RoundKey) -> RoundRecord:
        """Results of an eager round, read back from the state: here the host waits for the device."""
        s = self.state_of(key)
        drafted = ((s.ids_BN >= 0).sum(dim=1) - 1).tolist()
        finished = s.finished_B.tolist()
        return RoundRecord(
            0, 0, finished.count(RUNNING), s.count_B.tolist(), drafted, finished, s.emitted_BP.tolist(),
        )  # fmt: skip


def _no_mark(phase: str) -> None:
    """Nothing is timed."""
