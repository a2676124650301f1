"""Benchmark of silu_mul."""

from __future__ import annotations

from collections.abc import Iterator

from ._bench import Case, Model, bf16, main, nbytes


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows of the MLP's width."""
    args = (bf16(R, 2 * m.I), bf16(R, m.I))
    yield Case(m.name, R, f"{R} x {m.I}", lambda: (args, {}), nbytes(*args))


if __name__ == "__main__":
    main("silu_mul", cases)
