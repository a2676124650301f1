"""prune_tree against sorting: the best entries of a pool with all their ancestors, and fixed ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt import ops

from .cases import WILD, i32, signed, words_of


def prune(pool: tuple[Tensor, Tensor, Tensor], N: int, **options: object) -> tuple[Tensor, ...]:
    B = len(pool[0])
    ids_BN, parent_BN, depth_BN, positions_BN, noise_row_BN = (
        torch.full((B, N), WILD, dtype=torch.int32) for _ in range(5)
    )
    words_BN, prefix_B = torch.full((B, N), WILD, dtype=torch.int64), torch.full((B,), WILD, dtype=torch.int32)
    slots = i32([1000 + b for b in range(B)]), i32([10 * b + 1 for b in range(B)])
    tree = (ids_BN, parent_BN, depth_BN, words_BN, positions_BN, prefix_B, noise_row_BN)
    ops.prune_tree(*pool, *slots, *tree, noise_stride=9, **options)
    return tree


def random_pool(B: int, widths: tuple[int, ...], C: int) -> tuple[Tensor, Tensor, Tensor]:
    """A pool as grow_tree fills it, with many equal scores."""
    G = sum(widths)
    ids_BGC, scores_BGC = torch.randint(0, 10**6, (B, G, C)).int(), torch.zeros(B, G, C)
    origin_BG = torch.zeros(B, G, dtype=torch.int32)
    first = 0
    for level, W in enumerate(widths):
        for b in range(B):
            above = scores_BGC[b].flatten()[origin_BG[b, first : first + W].long()] if level else torch.zeros(1)
            scores_BGC[b, first : first + W] = above[:, None] - torch.randint(0, 3, (W, C)).float()
            if level + 1 < len(widths):
                entries = first * C + torch.randperm(W * C)[: widths[level + 1]]
                origin_BG[b, first + W : first + W + widths[level + 1]] = entries.int()
        first += W
    return ids_BGC, scores_BGC, origin_BG


@pytest.mark.parametrize(
    "widths, C, N",
    [((1,), 4, 1), ((1,), 4, 5), ((1, 3, 3), 4, 12), ((1, 10, 10, 10, 10), 10, 64), ((1, 16, 48), 16, 64)],
)
def test_the_best_entries(backend: str, widths: tuple[int, ...], C: int, N: int) -> None:
    pool = ids_BGC, scores_BGC, origin_BG = random_pool(3, widths, C)
    ids_BN, parent_BN, depth_BN, words_BN, positions_BN, prefix_B, noise_row_BN = prune(pool, N)
    for b in range(3):
        scores = scores_BGC[b].flatten().tolist()
        best = sorted(sorted(range(len(scores)), key=lambda e: (-scores[e], e))[: N - 1])
        node = {entry: n for n, entry in enumerate(best, start=1)}
        parents = [-1] + [0 if e < C else node[int(origin_BG[b, e // C])] for e in best]
        depths = [0]
        for n in range(1, N):
            depths.append(depths[parents[n]] + 1)
        assert ids_BN[b].tolist() == [1000 + b] + [int(ids_BGC[b].flatten()[e]) for e in best]
        assert parent_BN[b].tolist() == parents
        assert depth_BN[b].tolist() == depths
        assert words_BN[b].tolist() == [signed(word) for word in words_of(parents)]
        assert positions_BN[b].tolist() == [10 * b + depth for depth in depths]
        assert noise_row_BN[b].tolist() == [9 * b + depth for depth in depths]
        assert prefix_B[b] == 10 * b


def test_fixed_entries(backend: str) -> None:
    """Whatever the scores: the root's candidates 0 and 2, and candidate 1 of the row that the latter became."""
    ids_BGC, scores_BGC, _ = random_pool(1, (1, 1), 3)
    ids_BN, parent_BN, depth_BN, *_ = prune((ids_BGC, scores_BGC, i32([[0, 2]])), 4, picks_N=i32([0, 0, 2, 4]))
    assert ids_BN[0].tolist() == [1000, *(int(ids_BGC.flatten()[e]) for e in (0, 2, 4))]
    assert (parent_BN[0].tolist(), depth_BN[0].tolist()) == ([-1, 0, 0, 2], [0, 1, 1, 2])


def test_wrong_arguments_are_named() -> None:
    pool = random_pool(1, (1,), 3)
    with pytest.raises(ValueError, match="ids_BN"):
        prune(pool, 5)
    with pytest.raises(ValueError, match="picks_N"):
        prune(pool, 3, picks_N=i32([0, 1]))
