"""A bandit over drafters: which one gives the most tokens per second, judged by what was measured so far."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

MEMORY = 0.97  # of an observation, what counts after the next: about 33 are remembered
CURIOSITY = 0.15  # a drafter this share slower than the best one is still tried now and then
FULL_WEIGHT = 32  # tokens from which on an answer counts whole; a shorter one counts for less
FIRST = 0.1  # weight of a first observation: kernels were compiled in it, and memory touched


@dataclass
class Arm:
    """What is known of one drafter, older observations counting less.

    Attributes:
        tries: observations ever made.
        weight: of all observations remembered; the less, the more uncertain its speed.
        measured: of those that told a speed.
        slowness: seconds per token, summed with their weights.
    """

    tries: int = 0
    weight: float = 0.0
    measured: float = 0.0
    slowness: float = 0.0

    @property
    def rate(self) -> float | None:
        """Tokens per second, None as long as nothing was measured."""
        return self.measured / self.slowness if self.measured else None

    def fade(self, share: float) -> None:
        self.weight, self.measured, self.slowness = self.weight * share, self.measured * share, self.slowness * share


class Bandit:
    """Discounted UCB (Garivier and Moulines, arXiv 0805.3415) over tokens per second of decoding.

    Each arm is tried once, in order; then the one with the highest rate plus bonus is chosen, the bonus growing as its
    observations fade, so that a change of workload is noticed. Nothing is random: the same observations give the same
    choices.

    Args:
        arms: how many, 1 or more.
    """

    def __init__(self, arms: int) -> None:
        assert arms >= 1, "there is nobody to choose"
        self.arms = [Arm() for _ in range(arms)]

    def choose(self, without: Collection[int] = ()) -> int:
        """The arm to use next; it changes nothing, so ask as often as you like. Ties go to the first.

        Args:
            without: arms that are out of the game.
        """
        arms = [i for i in range(len(self.arms)) if i not in without]
        untried = next((i for i in arms if not self.arms[i].tries), None)
        if untried is not None:
            return untried
        best = max((arm.rate for arm in self.arms if arm.rate is not None), default=1.0)
        evidence = math.log1p(sum(arm.weight for arm in self.arms))
        return max(arms, key=lambda i: self._hope(self.arms[i], best, evidence))

    def observe(self, arm: int, tokens: int, seconds: float) -> None:
        """An answer is done: `tokens` new ones in `seconds` of rounds.

        A time that tells nothing (zero, NaN, of no tokens) counts as a try and leaves the speed unknown.
        """
        seen = self.arms[arm]
        pace = seconds / tokens if tokens > 0 else math.nan
        known = 1e-9 < pace < 1e9
        weight = min(tokens / FULL_WEIGHT, 1.0) if known else 1.0
        if seen.tries == 1:
            seen.fade(0.0)  # the first one has done its part
        elif seen.tries == 0:
            weight *= FIRST
        for other in self.arms:
            other.fade(MEMORY**weight)
        seen.tries += 1
        seen.weight += weight
        if known:
            seen.measured += weight
            seen.slowness += weight * pace

    def _hope(self, arm: Arm, best: float, evidence: float) -> float:
        """How fast an arm may well be; one that was never measured, as fast as the best."""
        rate = best if arm.rate is None else arm.rate
        return rate + CURIOSITY * best * math.sqrt(evidence / arm.weight)
