"""Benchmark of gather_features: one or three tapped features of a path of up to nine nodes."""

from __future__ import annotations

from collections.abc import Iterator

from ._bench import Case, Model, bf16, i32, main


def cases(m: Model, N: int) -> Iterator[Case]:
    """A tree of N nodes, half of the path slots used."""
    P = min(N, 9)
    path_BP = i32([[i if i <= P // 2 else -1 for i in range(P)]])
    for taps in (1, 3):
        args = (bf16(N, taps * m.M), path_BP, bf16(1, P, taps * m.M))
        size = 2 * 2 * (P // 2 + 1) * taps * m.M
        yield Case(m.name, N, f"{P} of {N} x {taps * m.M}", lambda a=args: (a, {}), size)


if __name__ == "__main__":
    main("gather_features", cases)
