"""What the commands show in a terminal: streamed text with accepted drafts in colour, statistics, who drafts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

if TYPE_CHECKING:
    from ..generator import Generator
    from ..result import Stats, StreamChunk
    from ..team import Member

ACCEPTED_STYLE = "green"


class Decoder(Protocol):
    """Incremental decoding, as `pspec_rt.tokenizer.StreamDecoder` does it."""

    def push(self, ids: list[int]) -> str: ...
    def flush(self) -> str: ...


def stdout() -> Console:
    """Standard output without wrapping, markup or number colouring; colours only in a terminal."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def stderr() -> Console:
    """The same for standard error."""
    return Console(highlight=False, markup=False, soft_wrap=True, stderr=True)


class DraftColours:
    """Tells which part of a streamed text came from accepted drafts.

    Released text lags behind the tokens (incomplete characters, possible stop strings), so the tokens are decoded once
    more here, each with its mark, and the marks are handed out as that much text is released.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._pending: deque[tuple[str, bool]] = deque()

    def pieces(self, chunk: StreamChunk) -> Iterator[tuple[str, bool]]:
        """(text, came from an accepted draft) pieces; joined they are `chunk.text`."""
        for token_id, accepted in zip(chunk.token_ids, chunk.draft_accepted, strict=True):
            self._pending.append((self._decoder.push([token_id]), accepted))
        if chunk.output is not None:
            self._pending.append((self._decoder.flush(), False))
        rest = chunk.text
        while rest and self._pending:
            text, accepted = self._pending.popleft()
            shown, rest = rest[: len(text)], rest[len(text) :]
            if len(shown) < len(text):
                self._pending.appendleft((text[len(shown) :], accepted))
            if shown:
                yield shown, accepted
        if rest:
            yield rest, False


class StreamPrinter:
    """Writes the stream of one text or chat prompt to standard output as it comes."""

    def __init__(self, generator: Generator) -> None:
        from ..tokenizer import StreamDecoder

        assert generator.tokenizer is not None, "the prompt is text, so there is a tokenizer"
        self._console = stdout()
        self._colours = DraftColours(StreamDecoder(generator.tokenizer))

    def write(self, chunk: StreamChunk) -> None:
        for text, accepted in self._colours.pieces(chunk):
            self._console.out(text, style=ACCEPTED_STYLE if accepted else None, end="", highlight=False)


def describe_drafting(generator: Generator) -> str:
    """A line per drafter: who drafts, and which tree."""
    return "\n".join(map(_describe, generator.team.members))


def _describe(member: Member) -> str:
    if member.drafter is None:
        return "drafter: none (plain decoding)"
    size = f", {member.drafter.nbytes / 1e6:.1f} MB" if member.drafter.nbytes else ""
    assert member.tree is not None, "a drafter has a tree"
    return f"drafter: {member.name}{size}; tree: {member.tree.name}"


def stats_lines(stats: Stats) -> list[str]:
    """Counts, speed and where the time went; the acceptance profile only if something was drafted."""
    lines = [
        f"{stats.prompt_tokens} prompt + {stats.new_tokens} new tokens, {stats.rounds} rounds "
        f"({stats.mean_acceptance_length:.2f} tokens per round), {stats.tokens_per_s:.1f} tokens/s, "
        f"drafter {stats.drafter or 'none'}",
        f"prefill {stats.prefill_s:.2f} s, decode {stats.decode_s:.2f} s ({_shares(stats)})",
    ]
    if stats.drafted:
        lines.append(f"drafts accepted at position 1, 2, ...: {percentages(stats.acceptance_rate_per_position)}")
    return lines


def percentages(rates: list[float]) -> str:
    """Rates as whole percentages in a row."""
    return " ".join(f"{rate:.0%}" for rate in rates)


def _shares(stats: Stats) -> str:
    whole = stats.decode_s or 1.0
    return ", ".join(f"{phase} {getattr(stats, f'{phase}_s') / whole:.0%}" for phase in ("draft", "verify", "rest"))
