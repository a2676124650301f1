"""What a request may ask for, checked once, and the seeds derived from one seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .errors import RequestError

Mode = Literal["greedy", "noise", "filtered"]
MODES: tuple[Mode, ...] = ("greedy", "noise", "filtered")  # each can serve the requests of the ones before it

MAX_STOP_IDS = 16
MAX_LOGPROBS = 20
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class SamplingParams:
    """How one sequence is sampled. Raises RequestError naming the field and the allowed range.

    Attributes:
        max_new_tokens: at most this many tokens; 0 gives an empty result.
        temperature: 0 is greedy (argmax, lowest id wins ties).
        top_k, top_p, min_p: filters in this order after the temperature; 0, 1.0 and 0.0 switch them off.
        seed: 64-bit; the token at position t depends on (seed, t) and the logits only.
        stop: strings that end the text; never shown.
        stop_token_ids: ids that end the text besides the model's own end tokens.
        ignore_eos: do not stop at the model's own end tokens.
        logprobs: None, or how many top log-probabilities to report per token beside the chosen one's
            (raw logits: no temperature, no filter).
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        def require(name: str, holds: bool, allowed: str) -> None:
            if not holds:
                raise RequestError(f"{name}={getattr(self, name)!r}: expected {allowed}")

        require("max_new_tokens", _is_int(self.max_new_tokens) and self.max_new_tokens >= 0, "an int >= 0")
        require("temperature", _is_number(self.temperature) and self.temperature >= 0, "a finite number >= 0")
        require("top_k", _is_int(self.top_k) and self.top_k >= 0, "an int >= 0 (0 = off)")
        require("top_p", _is_number(self.top_p) and 0 < self.top_p <= 1, "a number in (0, 1] (1 = off)")
        require("min_p", _is_number(self.min_p) and 0 <= self.min_p <= 1, "a number in [0, 1] (0 = off)")
        require("seed", _is_int(self.seed), "an int")
        require("stop", all(isinstance(s, str) and s for s in self.stop), "non-empty strings")
        require("stop_token_ids", all(_is_int(i) and i >= 0 for i in self.stop_token_ids), "token ids >= 0")
        top = self.logprobs
        in_range = top is None or (_is_int(top) and 0 <= top <= MAX_LOGPROBS)
        require("logprobs", in_range, f"None or an int in 0..{MAX_LOGPROBS}")

    @property
    def mode(self) -> Mode:
        """The cheapest way to serve this request: greedy and noise never need the logits of a whole row."""
        if self.logprobs is not None:
            return "filtered"
        if self.temperature == 0:
            return "greedy"
        filters = self.top_k > 0 or self.top_p < 1 or self.min_p > 0
        return "filtered" if filters else "noise"


def derive_seed(seed: int, index: int) -> int:
    """Seed of sample `index` under one user seed: a SplitMix64 mix, so neighbouring seeds do not collide."""
    x = (seed + (index + 1) * 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def as_int64(seed: int) -> int:
    """The 64-bit pattern of a seed as the signed number an int64 tensor holds."""
    seed &= _MASK64
    return seed - (1 << 64) if seed >> 63 else seed


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
