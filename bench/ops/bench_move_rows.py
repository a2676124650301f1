"""Benchmark of move_rows: every second node of a tree was accepted, cache rows of all heads lie together."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import Case, Model, bf16, i32, main

ROWS = 512


def cases(m: Model, N: int) -> Iterator[Case]:
    """N nodes of one sequence; K and V of all layers."""
    source = list(range(2, N, 2))
    if not source:
        return  # nothing to move
    buffers = [bf16(ROWS, m.G, m.E) for _ in range(2 * m.L)]
    addresses_L = torch.tensor([x.data_ptr() for x in buffers])
    args = (buffers, addresses_L, i32([[400 + n for n in source]]), i32([[401 + i for i in range(len(source))]]))
    size = 2 * len(source) * len(buffers) * m.G * m.E * 2
    yield Case(m.name, N, f"{len(source)} rows, {m.L} layers", lambda: (args, {}), size)


if __name__ == "__main__":
    main("move_rows", cases, rows=(4, 8, 16, 64))
