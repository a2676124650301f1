"""Benchmark of compact_kv: every second node of a tree was accepted."""

from __future__ import annotations

from collections.abc import Iterator

from ._bench import Case, Model, bf16, i32, main

S = 512


def cases(m: Model, N: int) -> Iterator[Case]:
    """N nodes behind a prefix of 400; all layers of one slot."""
    path = list(range(0, N, 2))
    if len(path) < 2:
        return  # nothing to move
    kv_L2BGSE = bf16(m.L, 2, 1, m.G, S, m.E)
    args = (kv_L2BGSE, i32([path]), i32([len(path)]), i32([400 + len(path)]))
    size = 2 * (len(path) - 1) * m.L * 2 * m.G * m.E * 2
    yield Case(m.name, N, f"{len(path) - 1} rows, {m.L} layers", lambda: (args, {}), size)


if __name__ == "__main__":
    main("compact_kv", cases, rows=(4, 8, 16, 64))
