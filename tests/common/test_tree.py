"""Best-first expansion against brute force over every node that any tree could have."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from pspec_rt import _C

from ..ops.cases import i32


class Tree(NamedTuple):
    ids: list[int]
    parent: list[int]
    depth: list[int]
    words: list[int]  # unsigned
    positions: list[int]


def build(scores_KC: Tensor, N: int, length: int = 9) -> Tree:
    """Native best-first tree; the candidate of depth d and rank r has id 100 d + r."""
    K, C = scores_KC.shape
    ids_KC = i32(100 * torch.arange(1, K + 1)[:, None] + torch.arange(C))
    bonus_1, length_1 = i32([7]), i32([length])
    ids_N, parent_N, depth_N, positions_N = (i32([-9] * N) for _ in range(4))
    words_N = torch.zeros(N, dtype=torch.int64)
    prefix_1 = i32([-9])
    tensors = (ids_KC, scores_KC, bonus_1, length_1, ids_N, parent_N, depth_N, words_N, positions_N, prefix_1)
    _C.build_tree(*(x.data_ptr() for x in tensors), *[0] * 5, 1, K, C, N, 0)
    words = [word & 2**64 - 1 for word in words_N.tolist()]
    return Tree(ids_N.tolist(), parent_N.tolist(), depth_N.tolist(), words, positions_N.tolist())


def path_of(tree: Tree, node: int) -> tuple[int, ...]:
    """Ranks from the root down to the node."""
    ranks = []
    while node > 0:
        ranks.append(tree.ids[node] - 100 * tree.depth[node])
        node = tree.parent[node]
    return tuple(reversed(ranks))


def path_score(scores_KC: Tensor, path: tuple[int, ...]) -> np.float32:
    """Sum from the root to the leaf in fp32, as the tree adds it."""
    total = np.float32(0)
    for depth, rank in enumerate(path):
        total += np.float32(scores_KC[depth, rank].item())
    return total


@st.composite
def ranked_scores(draw: st.DrawFn) -> Tensor:
    """[K, C] scores <= 0, each depth best first; few distinct values, so that ties are common."""
    K, C = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    value = st.one_of(st.integers(-6, 0).map(float), st.floats(-20, 0, width=32))
    rows = [sorted(draw(st.lists(value, min_size=C, max_size=C)), reverse=True) for _ in range(K)]
    return torch.tensor(rows)


@given(scores_KC=ranked_scores(), N=st.integers(1, 30))
def test_it_is_the_best_tree(scores_KC: Tensor, N: int) -> None:
    K, C = scores_KC.shape
    every_path = [p for d in range(1, K + 1) for p in itertools.product(range(C), repeat=d)]
    assume(len(every_path) + 1 >= N)
    tree = build(scores_KC, N)
    taken = [path_score(scores_KC, path_of(tree, n)) for n in range(1, N)]
    best = sorted((path_score(scores_KC, p) for p in every_path), reverse=True)
    # Any N-1 nodes of any tree are N-1 of these paths, so no tree has a larger sum.
    assert taken == best[: N - 1], "nodes come in order of score and are the best there are"


@given(scores_KC=ranked_scores(), N=st.integers(1, 30))
def test_it_is_a_tree(scores_KC: Tensor, N: int) -> None:
    K, C = scores_KC.shape
    assume(sum(C**d for d in range(K + 1)) >= N)
    tree = build(scores_KC, N, length=9)
    assert (tree.ids[0], tree.parent[0], tree.depth[0], tree.words[0]) == (7, -1, 0, 1)
    assert len({path_of(tree, n) for n in range(N)}) == N, "no node twice"
    assert tree.positions == [8 + depth for depth in tree.depth]
    for n in range(1, N):
        parent = tree.parent[n]
        assert 0 <= parent < n
        assert tree.depth[n] == tree.depth[parent] + 1
        assert tree.words[n] == tree.words[parent] | 1 << n


def test_ties_go_to_the_first_inserted() -> None:
    """All equal: popping inserts the sibling before the child, so siblings come first."""
    tree = build(torch.zeros(2, 2), 7)
    assert [path_of(tree, n) for n in range(1, 7)] == [(0,), (1,), (0, 0), (1, 0), (0, 1), (1, 1)]


def test_nan_and_minus_infinity_come_last() -> None:
    nan, inf = float("nan"), float("inf")
    scores_KC = torch.tensor([[-1.0, nan, -inf], [-1.0, -inf, nan]])
    tree = build(scores_KC, 3)
    assert [path_of(tree, n) for n in range(1, 3)] == [(0,), (0, 0)]
    assert len({path_of(build(scores_KC, 13), n) for n in range(13)}) == 13


def test_sixty_four_nodes_use_bit_63() -> None:
    chain = build(torch.full((63, 1), -0.5), 64)
    assert chain.words[63] == 2**64 - 1
    assert chain.parent == list(range(-1, 63))
