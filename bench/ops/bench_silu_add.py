"""Benchmark of silu_add: the end of a residual block."""

from __future__ import annotations

from collections.abc import Iterator

from ._bench import Case, Model, bf16, main


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows of the model's width."""
    args = (bf16(R, m.M), bf16(R, m.M))
    yield Case(m.name, R, f"{R} x {m.M}", lambda: (args, {}), 3 * args[0].nbytes)


if __name__ == "__main__":
    main("silu_add", cases)
