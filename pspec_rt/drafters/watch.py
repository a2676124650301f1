"""AcceptanceWatch: says once when a drafter's first rounds accept far less than its format does when all is right."""

from __future__ import annotations

import logging

from .base import Drafter
from .config import DFLASH, EAGLE1, EAGLE3, MEDUSA_HEADS, PARD, PARD2, PEAGLE

log = logging.getLogger("pspec_rt")

ROUNDS = 32
# Tokens per round that published drafters exceed on every task of their own reports, at their own K.
USUAL = {EAGLE1: 2.4, EAGLE3: 2.2, PEAGLE: 2.0, MEDUSA_HEADS: 1.8, PARD: 2.4, PARD2: 3.0, DFLASH: 2.5}
CAUSES = (
    "made for another target or fine-tune, a prompt without the chat template it was trained on, "
    "or text unlike its training's"
)


class AcceptanceWatch:
    """Counts tokens per drafted round.

    Args:
        drafter: of which only the kind matters; formats nothing is known of are not watched.
        k: drafted depths; a short draft is not expected to reach what a long one does.
    """

    def __init__(self, drafter: Drafter | None, k: int) -> None:
        self.kind = "" if drafter is None else drafter.kind
        self.usual = min(USUAL.get(self.kind, 0.0), 1 + 0.35 * k)
        self.rounds = self.tokens = 0

    def add(self, tokens: int) -> None:
        """Count a round that emitted so many; after the 32nd, log one line if they are few."""
        if self.kind not in USUAL or self.rounds >= ROUNDS:
            return
        self.rounds += 1
        self.tokens += tokens
        if self.rounds == ROUNDS and self.tokens < (1 + self.usual) / 2 * ROUNDS:
            log.warning(
                "the first %d rounds gave %.2f tokens each; %s drafters usually give more than %.1f. Likely causes: %s",
                ROUNDS, self.tokens / ROUNDS, self.kind, self.usual, CAUSES,
            )  # fmt: skip
