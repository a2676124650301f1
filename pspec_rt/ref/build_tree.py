"""build_tree in plain PyTorch: a fixed tree filled with candidates, or the best-first tree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._index import arange

_DEAD = float("-inf")  # popped, or never inserted
_LOWEST = -1e300  # a path score of -inf: below every fp32, above _DEAD (scores are compared as fp64)


def build_tree(
    candidate_ids_BKC: Tensor,
    candidate_scores_BKC: Tensor | None,
    bonus_B: Tensor,
    length_B: Tensor,
    ids_BN: Tensor,
    parent_BN: Tensor,
    depth_BN: Tensor,
    words_BN: Tensor,
    positions_BN: Tensor,
    *,
    prefix_B: Tensor,
    noise_row_BN: Tensor | None = None,
    noise_stride: int = 0,
    template: Sequence[Tensor] | None = None,
) -> None:
    """The N nodes of a draft tree; see `pspec_rt.ops.build_tree`."""
    if template is None:
        assert candidate_scores_BKC is not None, "a best-first tree needs scores"
        rank_BN = _best_first(candidate_scores_BKC, parent_BN, depth_BN, words_BN)
    else:
        parent_N, depth_N, rank_N, words_N = template
        parent_BN.copy_(parent_N.expand_as(parent_BN))
        depth_BN.copy_(depth_N.expand_as(depth_BN))
        words_BN.copy_(words_N.expand_as(words_BN))
        rank_BN = rank_N.expand_as(depth_BN)
    ids_BN[:, 0] = bonus_B
    if ids_BN.shape[1] > 1:
        B, K, C = candidate_ids_BKC.shape
        cell_BN = ((depth_BN - 1) * C + rank_BN)[:, 1:].long()
        ids_BN[:, 1:] = candidate_ids_BKC.view(B, K * C).gather(1, cell_BN)
    torch.sub(length_B, 1, out=prefix_B)
    torch.add(depth_BN, prefix_B[:, None], out=positions_BN)
    if noise_row_BN is not None:
        first_B = arange(len(length_B), length_B.device) * noise_stride
        noise_row_BN.copy_(depth_BN + first_B[:, None])


def _best_first(scores_BKC: Tensor, parent_BN: Tensor, depth_BN: Tensor, words_BN: Tensor) -> Tensor:
    """Write parent, depth and words of the best-first tree; returns rank_BN.

    The frontier is a table whose column is the order of insertion, so argmax (which takes the first
    of equals) breaks ties as promised: column 0 is the start, pop n fills columns 2n-1 (next
    sibling) and 2n (first child).
    """
    (B, K, C), N = scores_BKC.shape, parent_BN.shape[1]
    slot_B = arange(B, scores_BKC.device)
    frontier = _Frontier(B, 2 * N, scores_BKC.device)
    path_BN = torch.zeros(B, N, device=scores_BKC.device)  # path score of each node, fp32
    rank_BN = torch.zeros_like(parent_BN)
    parent_BN[:, 0], depth_BN[:, 0], words_BN[:, 0] = -1, 0, 1
    if N == 1:
        return rank_BN
    frontier.insert(0, scores_BKC[:, 0, 0], 1, 0, 0, torch.ones_like(slot_B, dtype=torch.bool))
    for n in range(1, N):
        score_B, depth_B, rank_B, node_B = frontier.pop()
        path_BN[:, n], rank_BN[:, n] = score_B, rank_B
        parent_BN[:, n], depth_BN[:, n] = node_B, depth_B
        words_BN[:, n] = words_BN[slot_B, node_B] | _bit(n)
        sibling_B = (rank_B + 1).clamp(max=C - 1)
        sibling_score_B = path_BN[slot_B, node_B] + scores_BKC[slot_B, depth_B - 1, sibling_B]
        frontier.insert(2 * n - 1, sibling_score_B, depth_B, rank_B + 1, node_B, rank_B + 1 < C)
        child_score_B = score_B + scores_BKC[slot_B, depth_B.clamp(max=K - 1), 0]
        frontier.insert(2 * n, child_score_B, depth_B + 1, 0, n, depth_B < K)
    return rank_BN


class _Frontier:
    """Candidate nodes of B trees, one column per insertion."""

    def __init__(self, B: int, columns: int, device: torch.device) -> None:
        self.key_BX = torch.full((B, columns), _DEAD, dtype=torch.float64, device=device)
        self.score_BX = torch.zeros(B, columns, device=device)
        self.depth_BX, self.rank_BX, self.parent_BX = (
            torch.zeros(B, columns, dtype=torch.int64, device=device) for _ in range(3)
        )

    def insert(
        self,
        column: int,
        score_B: Tensor,
        depth: Tensor | int,
        rank: Tensor | int,
        parent: Tensor | int,
        valid_B: Tensor,
    ) -> None:
        """Fill a column; a NaN score counts as -inf, an invalid entry is never popped."""
        score_B = torch.where(score_B.isnan(), float("-inf"), score_B)
        self.score_BX[:, column] = score_B
        self.depth_BX[:, column], self.rank_BX[:, column] = depth, rank
        self.parent_BX[:, column] = parent
        key_B = score_B.double().clamp(min=_LOWEST)
        self.key_BX[:, column] = torch.where(valid_B, key_B, _DEAD)

    def pop(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """score, depth, rank, parent of each tree's best entry, which leaves the frontier."""
        best_B1 = self.key_BX.argmax(dim=1, keepdim=True)
        self.key_BX.scatter_(1, best_B1, _DEAD)
        tables = (self.score_BX, self.depth_BX, self.rank_BX, self.parent_BX)
        score_B, depth_B, rank_B, parent_B = (x.gather(1, best_B1)[:, 0] for x in tables)
        return score_B, depth_B, rank_B, parent_B


def _bit(n: int) -> int:
    """1 << n as the signed 64-bit number with that pattern."""
    return 1 << n if n < 63 else -(1 << 63)
