"""Benchmark of grow_tree: a level of 10 rows, 10 candidates each, and the 10 rows of the next."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import MODELS, Case, Model, i32, main


def cases(m: Model, B: int) -> Iterator[Case]:
    """B slots; the model does not matter."""
    if m is not MODELS[0]:
        return
    W, C, G = 10, 10, 61
    candidates = (i32(torch.ones(B * W, C)), -torch.rand(B * W, C), i32([100] * B))
    pool = (i32(torch.zeros(B, G, C)), torch.zeros(B, G, C), i32(torch.zeros(B, G)))
    words = torch.ones(B, W, dtype=torch.int64)
    rows = (i32(torch.zeros(B, W)), i32(torch.zeros(B, W)), words.clone(), i32(torch.zeros(B, W)))
    args = (*candidates, words, *pool, *rows, i32([0] * B), i32([0] * B))
    call = args, {"level": 1, "first": 1, "shift": -1, "picks_X": None}
    yield Case("any", B, f"{W} rows of {C}", lambda: call, 2 * sum(x.nbytes for x in candidates) + 2 * words.nbytes)


if __name__ == "__main__":
    main("grow_tree", cases, rows=(1, 8, 64))
