"""AcceptanceWatch: one line after 32 rounds of a drafter that accepts next to nothing."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from pspec_rt.drafters.watch import ROUNDS, AcceptanceWatch


@pytest.mark.parametrize(
    ("kind", "k", "tokens", "warns"),
    [("pard2", 12, 1.4, True), ("pard2", 12, 7.7, False), ("eagle", 1, 1.3, False), ("lm", 4, 1.0, False)],
)
def test_few_tokens_are_reported_once(
    kind: str, k: int, tokens: float, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    watch = AcceptanceWatch(SimpleNamespace(kind=kind), k)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "pspec_rt"):
        for n in range(3 * ROUNDS):
            watch.add(int(tokens * (n + 1)) - int(tokens * n))
            assert not caplog.records or n >= ROUNDS - 1
    assert len(caplog.records) == warns
    if warns:
        assert kind in caplog.text and "chat template" in caplog.text


def test_without_a_drafter_there_is_nothing_to_watch() -> None:
    AcceptanceWatch(None, 0).add(1)
