"""grow_tree, level after level, against a tree kept as a dictionary of paths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt import ops

from .cases import WILD, i32

Path = tuple[int, ...]


def rows_of(B: int, X: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ids_BX, positions_BX, parent_BX = (torch.full((B, X), WILD, dtype=torch.int32) for _ in range(3))
    return ids_BX, positions_BX, torch.full((B, X), WILD, dtype=torch.int64), parent_BX


@pytest.mark.parametrize("shift", [0, -1])
@pytest.mark.parametrize(
    "widths, C", [((1,), 3), ((1, 2, 4), 3), ((1, 10, 10, 10), 10), ((1, 32, 32), 16), ((1, 16, 48), 16)]
)
def test_levels(backend: str, widths: tuple[int, ...], C: int, shift: int) -> None:
    widths = tuple(min(W, C * above) for W, above in zip(widths, (1, *widths), strict=False))
    B, G = 3, sum(widths)
    lengths = [1, 7, 50]
    pool_ids, pool_scores = torch.full((B, G, C), WILD, dtype=torch.int32), torch.zeros(B, G, C)
    origin_BG, prefix_B, append_B = (torch.full(size, WILD, dtype=torch.int32) for size in ((B, G), (B,), (B,)))
    words_BW = torch.zeros(B, 1, dtype=torch.int64)
    rows: list[list[tuple[Path, float]]] = [[((), 0.0)] for _ in range(B)]  # of this level, with their scores
    words: list[dict[Path, int]] = [{(): 0} for _ in range(B)]
    for level, W in enumerate(widths):
        first, X = sum(widths[:level]), widths[level + 1] if level + 1 < len(widths) else 0
        ids_RC = torch.randint(0, 10**6, (B * W, C)).int()
        scores_RC = -torch.randint(0, 4, (B * W, C)).float()  # many ties
        scores_RC[0, 0] = torch.nan
        ids_BX, positions_BX, next_words_BX, parent_BX = rows_of(B, X)
        ops.grow_tree(
            ids_RC, scores_RC, i32(lengths), words_BW, pool_ids, pool_scores, origin_BG,
            ids_BX, positions_BX, next_words_BX, parent_BX, prefix_B, append_B, level=level, first=first, shift=shift,
        )  # fmt: skip
        for b in range(B):
            found = []
            for w, (path, score) in enumerate(rows[b]):
                for c in range(C):
                    own = scores_RC[b * W + w, c].item()
                    found.append(((*path, w * C + c), score + (own if own == own else -torch.inf), w * C + c))
            assert pool_scores[b, first : first + W].flatten().tolist() == [score for _, score, _ in found]
            assert pool_ids[b, first : first + W].flatten().tolist() == ids_RC[b * W : b * W + W].flatten().tolist()
            start = max(lengths[b] + shift, 0)
            assert (prefix_B[b], append_B[b]) == (start, start + first + W - 1)
            best = sorted(found, key=lambda entry: (-entry[1], entry[2]))[:X]
            assert parent_BX[b].tolist() == [entry // C for _, _, entry in best]
            assert ids_BX[b].tolist() == [int(ids_RC[b * W + entry // C, entry % C]) for _, _, entry in best]
            assert positions_BX[b].tolist() == [max(lengths[b] + shift + level, 0)] * X
            assert origin_BG[b, first + W : first + W + X].tolist() == [first * C + entry for _, _, entry in best]
            for x, (path, _, _) in enumerate(best):
                words[b][path] = words[b][path[:-1]] | 1 << (first + W + x - 1)
                assert int(next_words_BX[b, x]) & (1 << 64) - 1 == words[b][path]
            rows[b] = [(path, score) for path, score, _ in best]
        words_BW = next_words_BX


def test_picks_name_the_rows(backend: str) -> None:
    ids_RC, scores_RC = i32([[5, 6, 7], [8, 9, 4]]), torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]])
    pool_ids, pool_scores, origin_BG = torch.zeros(1, 5, 3).int(), torch.zeros(1, 5, 3), torch.zeros(1, 5).int()
    ids_BX, positions_BX, words_BX, parent_BX = rows_of(1, 2)
    ops.grow_tree(
        ids_RC, scores_RC, i32([9]), torch.tensor([[1, 2]]), pool_ids, pool_scores, origin_BG,
        ids_BX, positions_BX, words_BX, parent_BX, i32([0]), i32([0]), level=1, first=1, shift=0, picks_X=i32([2, 4]),
    )  # fmt: skip
    assert (ids_BX.tolist(), parent_BX.tolist(), words_BX.tolist()) == ([[7, 9]], [[0, 1]], [[1 | 4, 2 | 8]])
    assert origin_BG[0, 3:].tolist() == [5, 7]


def test_scores_above_0_do_not_count(backend: str) -> None:
    """Rounding may leave a log-probability a little above 0: a child must not come before its parent."""
    pool_scores = torch.zeros(1, 1, 1)
    rows = rows_of(1, 0)
    ops.grow_tree(
        i32([[5]]), torch.tensor([[1e-7]]), i32([9]), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, 1).int(),
        pool_scores, i32([[0]]), *rows, i32([0]), i32([0]), level=0, first=0, shift=0,
    )  # fmt: skip
    assert pool_scores.item() == 0


def test_wrong_arguments_are_named() -> None:
    def call(X: int, C: int) -> None:
        pool = torch.zeros(1, 4, 2).int(), torch.zeros(1, 4, 2), torch.zeros(1, 4).int()
        words = torch.zeros(1, 1, dtype=torch.int64)
        candidates = torch.zeros(1, C).int(), torch.zeros(1, C)
        ops.grow_tree(
            *candidates, i32([3]), words, *pool, *rows_of(1, X), i32([0]), i32([0]), level=0, first=0, shift=0
        )

    with pytest.raises(ValueError, match="next_ids_BX"):
        call(3, 2)
    with pytest.raises(ValueError, match="ids_RC"):
        call(1, 3)
