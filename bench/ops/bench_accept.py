"""Benchmark of accept: chains of N nodes of which the target accepts one half."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import MODELS, Case, Model, i32, main

S, LENGTH = 2048, 1000


def make(B: int, N: int) -> tuple:
    """Drafts 0, 1, 2, .. and a target that agrees up to the middle."""
    ids_BN = i32([list(range(N))] * B)
    parent_BN = ids_BN - 1
    target_BN = ids_BN + 1
    target_BN[:, N // 2] = 9999
    slots = [i32([value] * B) for value in (S, LENGTH, 0, 0)]
    outputs = [torch.empty(B, N, dtype=torch.int32) for _ in range(2)]
    stop_ids_BQ, tokens_BS, count_B = i32([[-1] * 16] * B), i32(torch.zeros(B, S)), i32([0] * B)
    limit_B, length_B, finished_B, bonus_B = slots
    tree = (ids_BN, parent_BN, target_BN)
    state = (stop_ids_BQ, limit_B, length_B, finished_B, bonus_B, tokens_BS)
    return (*tree, *state, *outputs, count_B), {}


def rewind(args: tuple) -> None:
    """Back to the state before the call."""
    args[5].fill_(LENGTH)
    args[6].zero_()


def cases(m: Model, N: int) -> Iterator[Case]:
    """1 and 8 slots; the model does not matter."""
    if m is not MODELS[0]:
        return
    for B in (1, 8):
        size = B * N * 4 * 5
        yield Case("any", N, f"{B} slots", lambda B=B: make(B, N), size, reset=rewind)


if __name__ == "__main__":
    main("accept", cases, rows=(1, 5, 9, 17, 64))
