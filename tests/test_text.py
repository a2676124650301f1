"""TextStream: whatever the pieces, no released text ever holds a stop string or anything behind one."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt.text import TextStream
from pspec_rt.tokenizer import StreamDecoder, Tokenizer
from tests.tiny import tiny_checkpoint

PIECES = st.lists(st.text("ab", max_size=4), max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


@cache
def tiny_tokenizer() -> Tokenizer:
    return Tokenizer(tiny_checkpoint())


class PieceDecoder:
    """Token i is piece i; `flush` gives what an incomplete character at the end would."""

    def __init__(self, pieces: list[str], tail: str) -> None:
        self._pieces, self._tail = pieces, tail

    def push(self, ids: list[int]) -> str:
        return "".join(self._pieces[i] for i in ids)

    def flush(self) -> str:
        tail, self._tail = self._tail, ""
        return tail


def cut(pieces: list[str], stops: list[str]) -> tuple[str, int | None]:
    """The text up to the first completed stop string, and how many pieces it took; None if there is none."""
    text = ""
    for used, piece in enumerate(pieces, start=1):
        text += piece
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)], used
    return text, None


@given(PIECES, st.text("ab", max_size=3), STOPS, st.data())
def test_released_text_is_the_cut_text(pieces: list[str], tail: str, stops: list[str], data: st.DataObject) -> None:
    expected, used = cut([*pieces, tail], stops)
    stream = TextStream(PieceDecoder(pieces, tail), stops)
    position, stopped = 0, False
    while position < len(pieces) and not stopped:
        size = data.draw(st.integers(1, len(pieces) - position))
        taken, stopped = stream.feed(range(position, position + size))
        position += taken
        assert expected.startswith(stream.text)
        assert not any(stop in stream.text for stop in stops)
    assert stopped == (used is not None and used <= len(pieces))
    assert position == (used if stopped else len(pieces))
    at_the_end = stream.finish()
    assert stream.text == expected
    assert (stopped or at_the_end) == (used is not None)


@given(PIECES, STOPS)
def test_no_more_is_held_back_than_could_become_a_stop(pieces: list[str], stops: list[str]) -> None:
    stream = TextStream(PieceDecoder(pieces, ""), stops)
    for i in range(len(pieces)):
        _, stopped = stream.feed([i])
        if stopped:
            return
        decoded = "".join(pieces[: i + 1])
        held = decoded[len(stream.text) :]
        assert decoded == stream.text + held
        assert held == "" or any(stop.startswith(held) for stop in stops)


@given(st.lists(st.integers(0, 383), max_size=24), st.integers(1, 5))
def test_without_stops_the_text_is_what_the_tokenizer_decodes(ids: list[int], size: int) -> None:
    tokenizer = tiny_tokenizer()
    stream = TextStream(StreamDecoder(tokenizer))
    for start in range(0, len(ids), size):
        assert stream.feed(ids[start : start + size]) == (len(ids[start : start + size]), False)
    stream.finish()
    assert stream.text == tokenizer.decode(ids)


def test_after_a_stop_nothing_more_comes() -> None:
    stream = TextStream(PieceDecoder(["one st", "op two", " three"], "tail"), ["stop"])
    assert stream.feed([0, 1, 2]) == (2, True)
    assert stream.text == "one "
    assert not stream.finish()
    assert stream.text == "one "


def test_the_earliest_of_several_stops_wins() -> None:
    stream = TextStream(PieceDecoder(["a b c"], ""), ["c", "b"])
    assert stream.feed([0]) == (1, True)
    assert stream.text == "a "


@pytest.mark.parametrize("stops", [[], ["x"]])
def test_without_a_tokenizer_there_is_no_text(stops: list[str]) -> None:
    stream = TextStream(None, stops)
    assert stream.feed([1, 2, 3]) == (3, False)
    assert not stream.finish()
    assert stream.text == ""
