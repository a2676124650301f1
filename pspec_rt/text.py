"""From one sequence's token ids to the text a user may see: incremental decoding and stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from .tokenizer import StreamDecoder


class TextStream:
    """Feeds on token ids and releases text, holding back what might still become a stop string.

    Args:
        decoder: turns ids into text deltas; None if the target has no tokenizer (then all text is "").
        stop: strings that end the text; neither they nor what follows are ever released.
    """

    def __init__(self, decoder: StreamDecoder | None, stop: Sequence[str] = ()) -> None:
        self.text = ""  # released so far
        self._decoder = decoder
        self._stop = tuple(stop)
        self._held = ""  # decoded, not yet released

    def feed(self, token_ids: Sequence[int]) -> tuple[int, bool]:
        """Take in tokens until a stop string is complete.

        Returns how many tokens were used (the one that completed the stop string included) and whether it was found.
        """
        if self._decoder is None:
            return len(token_ids), False
        for used, token_id in enumerate(token_ids, start=1):
            self._held += self._decoder.push([token_id])
            if self._cut_at_stop():
                return used, True
        self._release(keep=self._possible_stop())
        return len(token_ids), False

    def finish(self) -> bool:
        """No token follows: release what is held; returns whether a stop string was completed by the last bytes."""
        if self._decoder is not None:
            self._held += self._decoder.flush()
        if self._cut_at_stop():
            return True
        self._release(keep=0)
        return False

    def _cut_at_stop(self) -> bool:
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.text += self._held[: min(found)]
            self._held, self._decoder = "", None
        return bool(found)

    def _possible_stop(self) -> int:
        """Length of the longest held suffix that is a proper prefix of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0

    def _release(self, keep: int) -> None:
        cut = len(self._held) - keep
        self.text += self._held[:cut]
        self._held = self._held[cut:]
