"""What a generation returns, and the definitions of its statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any, NamedTuple


class TokenLogprob(NamedTuple):
    """Log-probabilities at one generated token, from the raw logits (no temperature, no filter)."""

    logprob: float
    top: dict[int, float]  # the most likely token ids, best first


@dataclass
class Stats:
    """Counts and times of one sequence, or of several added up; the names are vLLM's where it has one.

    A round is one draft plus one target pass. Every round emits the accepted drafts and one more token (the bonus
    token), except that the last round is cut at the stop. Times of a batched round are divided by its running slots.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    rounds: int = 0
    drafted: int = 0  # draft tokens offered for verification: tree nodes without the root
    accepted: int = 0  # drafts accepted
    accepted_per_position: list[int] = field(default_factory=list)  # [K], accepted at each draft position
    prefill_s: float = 0.0
    draft_s: float = 0.0
    verify_s: float = 0.0
    rest_s: float = 0.0
    loop_s: float = 0.0  # of rounds whose phases cannot be told apart: replayed ahead or in bursts
    loop: str = ""  # how rounds were driven, and why
    drafter: str = ""  # who drafted: its kind, or its name where a Generator has several; "none": plain decoding
    simulated: str = ""  # what was simulated: the text is not the model's then, and acceptance not the drafter's

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens per target pass: 1 + accepted / rounds."""
        return 1 + self.accepted / self.rounds if self.rounds else 0.0

    @property
    def acceptance_rate(self) -> float:
        """accepted / drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def acceptance_rate_per_position(self) -> list[float]:
        """Share of rounds in which the draft at each position was accepted."""
        return [count / self.rounds for count in self.accepted_per_position] if self.rounds else []

    @property
    def decode_s(self) -> float:
        """Seconds spent in rounds."""
        return self.draft_s + self.verify_s + self.rest_s + self.loop_s

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second of decoding; prefill is not counted."""
        return self.new_tokens / self.decode_s if self.decode_s else 0.0

    def cut_last_round(self, emitted: int, kept: int) -> None:
        """Leave out the tokens of the last round that lie behind a stop string."""
        self.new_tokens -= emitted - kept
        self.accepted -= emitted - kept
        for position in range(kept - 1, emitted - 1):
            self.accepted_per_position[position] -= 1

    def add(self, other: Stats) -> None:
        """Add another sequence's counts and times to this one."""
        ours, theirs = self.accepted_per_position, other.accepted_per_position
        self.accepted_per_position = [a + b for a, b in zip_longest(ours, theirs, fillvalue=0)]
        self.loop, self.simulated = self.loop or other.loop, self.simulated or other.simulated
        self.drafter = ", ".join(dict.fromkeys(filter(None, [*self.drafter.split(", "), other.drafter])))
        for name, value in vars(other).items():
            if isinstance(value, (int, float)):
                setattr(self, name, getattr(self, name) + value)

    def copy(self) -> Stats:
        """The same, not touched by what is added later."""
        return replace(self, accepted_per_position=list(self.accepted_per_position))

    def to_dict(self) -> dict[str, Any]:
        """Counts, times and the derived rates, ready for JSON."""
        rates = ("mean_acceptance_length", "acceptance_rate", "acceptance_rate_per_position")
        return asdict(self) | {name: getattr(self, name) for name in (*rates, "decode_s", "tokens_per_s")}


@dataclass
class GenerationOutput:
    """One generated sequence.

    Attributes:
        text: the new text; ends before a stop string.
        token_ids: the new tokens, the end token included if one was generated.
        finish_reason: "stop" (end token, stop id or stop string), "length", "interrupted" (KeyboardInterrupt), or
            "error" (the model's logits became NaN; what came before is kept).
        stats: see `Stats`.
        prompt_index, sample_index: which prompt, and which of its n samples.
        seed: the seed this sequence used; the same seed and prompt give the same tokens with any drafter.
        logprobs: one entry per token if they were asked for.
        draft_accepted: per token, whether it came from an accepted draft.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    stats: Stats
    prompt_index: int = 0
    sample_index: int = 0
    seed: int = 0
    logprobs: list[TokenLogprob] | None = None
    draft_accepted: list[bool] = field(default_factory=list)


@dataclass
class StreamChunk:
    """A piece of a streamed sequence; the pieces' texts joined are the output's text.

    Attributes:
        text, token_ids, draft_accepted: what is new since the last chunk of this sequence. Text may lag behind tokens
            while a character or a possible stop string is incomplete.
        output: the finished sequence, in its last chunk only.
    """

    prompt_index: int
    sample_index: int
    text: str
    token_ids: list[int]
    draft_accepted: list[bool]
    output: GenerationOutput | None = None
