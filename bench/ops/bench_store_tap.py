"""Benchmark of store_tap: one of three tapped hidden states."""

from __future__ import annotations

from collections.abc import Iterator

from ._bench import Case, Model, bf16, main


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows into the middle columns."""
    args = (bf16(R, m.M), bf16(R, 3 * m.M), m.M)
    yield Case(m.name, R, f"{R} x {m.M}", lambda: (args, {}), 2 * args[0].nbytes)


if __name__ == "__main__":
    main("store_tap", cases)
