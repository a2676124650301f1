"""What takes part in a measurement: something that continues token ids, and its answer with the time it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..result import Stats


@dataclass(frozen=True)
class Answer:
    """One continuation.

    Attributes:
        token_ids: the new tokens, the end token included if one was generated: the same rule for everybody.
        seconds: from the prompt ids in to the last id out, prefill included, loading and warm-up not.
        text: for the next turn of the conversation; only our own contenders give it.
        stats: rounds and acceptance; only our own contenders have them.
    """

    token_ids: list[int]
    seconds: float
    text: str = ""
    stats: Stats | None = None


class Contender(Protocol):
    """One side of a comparison. All of them run in one process, on one checkpoint in one dtype, with equal threads."""

    name: str

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """Continue the prompt until an end token or `max_new_tokens`."""
        ...
