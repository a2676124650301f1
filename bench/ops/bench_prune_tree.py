"""Benchmark of prune_tree: the best N of 610 candidates."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import MODELS, Case, Model, i32, main


def cases(m: Model, N: int) -> Iterator[Case]:
    """Trees of N nodes for 1 and 8 slots; the model does not matter."""
    if m is not MODELS[0]:
        return
    for B in (1, 8):
        ids_BGC, scores_BGC, origin_BG = i32(torch.zeros(B, 61, 10)), -torch.rand(B, 61, 10), i32(torch.zeros(B, 61))
        ids_BN, parent_BN, depth_BN, positions_BN, noise_row_BN = (i32(torch.zeros(B, N)) for _ in range(5))
        tree = (ids_BN, parent_BN, depth_BN, torch.zeros(B, N, dtype=torch.int64), positions_BN)
        args = (ids_BGC, scores_BGC, origin_BG, i32([7] * B), i32([100] * B), *tree, i32([0] * B), noise_row_BN)
        size = sum(x.nbytes for x in args)
        yield Case("any", N, f"{B} slots", lambda a=args: (a, {"noise_stride": 8, "picks_N": None}), size)


if __name__ == "__main__":
    main("prune_tree", cases, rows=(8, 60))
