"""Benchmark of draft_rows: the rows of drafts of K tokens, half masks."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import MODELS, Case, Model, i32, main


def cases(m: Model, B: int) -> Iterator[Case]:
    """B slots; the model does not matter."""
    if m is not MODELS[0]:
        return
    for K in (4, 16):
        N, slots = 2 * K, i32([3] * B)
        outputs = [i32(torch.zeros(B, N)), i32(torch.zeros(B, N)), i32([0] * B)]
        outputs += [torch.zeros(B, N, dtype=torch.int64), i32(torch.zeros(B, K)), i32(torch.zeros(B, N))]
        args = (i32(torch.ones(B, K + 1)), slots, i32([100] * B), *outputs)
        size = sum(x.nbytes for x in args)
        yield Case("any", B, f"K = {K}", lambda a=args: (a, {"shift": -1, "mask_id": 0, "vocab": 0}), size)


if __name__ == "__main__":
    main("draft_rows", cases, rows=(1, 8, 64))
