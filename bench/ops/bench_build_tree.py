"""Benchmark of build_tree: best-first trees of N nodes from 8 depths of 8 candidates, and chains."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import MODELS, Case, Model, i32, main


def cases(m: Model, N: int) -> Iterator[Case]:
    """N nodes for 1 and 8 slots; the model does not matter."""
    if m is not MODELS[0]:
        return
    chain = (i32(range(-1, N - 1)), i32(range(N)), i32([0] * N), torch.ones(N, dtype=torch.int64))
    for B in (1, 8):
        for name, K, C, template in (("best first", 8, 8, None), ("chain", max(N - 1, 1), 1, chain)):
            ids_BKC, scores_BKC = i32(torch.zeros(B, K, C)), torch.log_softmax(torch.randn(B, K, C), 2)
            slots = (i32([7] * B), i32([100] * B))
            ints = [torch.empty(B, N, dtype=torch.int32) for _ in range(4)]
            outputs = (*ints[:3], torch.empty(B, N, dtype=torch.int64), ints[3])
            args = (ids_BKC, scores_BKC.sort(2, descending=True).values, *slots, *outputs)
            call = args, {"template": template, "prefix_B": i32([0] * B)}
            size = ids_BKC.nbytes + scores_BKC.nbytes + B * N * 24
            yield Case("any", N, f"{B} slots, {name}", lambda c=call: c, size)


if __name__ == "__main__":
    main("build_tree", cases, rows=(1, 8, 16, 32, 64))
