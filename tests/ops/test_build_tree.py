"""build_tree against an expansion with a plain list, and against templates written out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pspec_rt import ops

from .cases import WILD, i32, signed, words_of

NAN, INF = float("nan"), float("inf")


@dataclass
class Tree:
    """The outputs of one call."""

    ids_BN: Tensor
    parent_BN: Tensor
    depth_BN: Tensor
    words_BN: Tensor
    positions_BN: Tensor
    prefix_B: Tensor
    noise_row_BN: Tensor


def build(ids_BKC: Tensor, scores_BKC: Tensor | None, N: int, **options: object) -> Tree:
    """Bonus token of slot b is 1000 + b, its length 10 * b + 1; 70 rows of noise per slot."""
    B = ids_BKC.shape[0]
    outputs = [torch.full((B, N), WILD, dtype=torch.int32) for _ in range(5)]
    outputs[3] = outputs[3].long()
    slots = i32([1000 + b for b in range(B)]), i32([10 * b + 1 for b in range(B)])
    prefix_B, noise_row_BN = i32([WILD] * B), torch.full((B, N), WILD, dtype=torch.int32)
    more = {"prefix_B": prefix_B, "noise_row_BN": noise_row_BN, "noise_stride": 70}
    ops.build_tree(ids_BKC, scores_BKC, *slots, *outputs, **more, **options)
    assert prefix_B.tolist() == [10 * b for b in range(B)]
    assert torch.equal(noise_row_BN, outputs[2] + 70 * torch.arange(B, dtype=torch.int32)[:, None])
    return Tree(*outputs, prefix_B, noise_row_BN)


def expand(scores_KC: Tensor, N: int) -> list[tuple[int, int, int]]:
    """(parent, depth, rank) of the best-first tree; scores summed in fp32, NaN as -inf, first inserted wins ties."""
    K, C = scores_KC.shape
    zero = torch.zeros(())
    nodes, path, frontier = [(-1, 0, 0)], [zero], []

    def insert(parent: int, depth: int, rank: int) -> None:
        total = path[parent] + scores_KC[depth - 1, rank]
        frontier.append((-INF if total.isnan() else total.item(), parent, depth, rank))

    if N > 1:
        insert(0, 1, 0)
    while len(nodes) < N:
        best = max(range(len(frontier)), key=lambda i: (frontier[i][0], -i))
        score, parent, depth, rank = frontier.pop(best)
        nodes.append((parent, depth, rank))
        path.append(torch.tensor(score))
        if rank + 1 < C:
            insert(parent, depth, rank + 1)
        if depth < K:
            insert(len(nodes) - 1, depth + 1, 0)
    return nodes


def full_tree(K: int, C: int) -> int:
    return sum(C**depth for depth in range(K + 1))


def check(ids_BKC: Tensor, scores_BKC: Tensor, N: int) -> Tree:
    tree = build(ids_BKC, scores_BKC, N)
    for b, (ids_KC, scores_KC) in enumerate(zip(ids_BKC, scores_BKC, strict=True)):
        nodes = expand(scores_KC, N)
        parents = [parent for parent, _, _ in nodes]
        assert tree.parent_BN[b].tolist() == parents
        assert tree.depth_BN[b].tolist() == [depth for _, depth, _ in nodes]
        assert tree.ids_BN[b].tolist() == [1000 + b] + [int(ids_KC[d - 1, r]) for _, d, r in nodes[1:]]
        assert tree.words_BN[b].tolist() == [signed(word) for word in words_of(parents)]
        assert tree.positions_BN[b].tolist() == [10 * b + depth for _, depth, _ in nodes]
    return tree


# Few distinct values, so ties abound; sums of halves are exact, thirds are not.
SCORES = st.sampled_from([-0.0, -0.5, -1.0, -1 / 3, -2 / 3, -4.0, -INF, NAN])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    B, K, C = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    N = draw(st.integers(1, min(40, full_tree(K, C))))
    numbers = draw(st.lists(SCORES, min_size=B * K * C, max_size=B * K * C))
    scores_BKC = torch.tensor(numbers).view(B, K, C)
    if draw(st.booleans()):  # drafters give them ranked
        scores_BKC = scores_BKC.sort(dim=2, descending=True).values
    return torch.arange(-1, B * K * C - 1, dtype=torch.int32).view(B, K, C), scores_BKC, N


@given(case=cases())
def test_best_first(backend: str, case: tuple[Tensor, Tensor, int]) -> None:
    check(*case)


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("N", [1, 31, 32, 33, 64])
def test_real_scores(backend: str, N: int, B: int) -> None:
    scores_BKC = torch.log_softmax(torch.randn(B, 6, 40) * 3, dim=2).sort(dim=2, descending=True).values
    check(torch.randint(0, 9999, (B, 6, 8)).int(), scores_BKC[:, :, :8].contiguous(), N)


def test_is_the_heaviest_tree(backend: str) -> None:
    """Summed path probability is the largest over all trees of N nodes: the N - 1 best paths of all."""
    scores_BKC = torch.log_softmax(torch.randn(1, 3, 4), dim=2).sort(dim=2, descending=True).values
    nodes = expand(scores_BKC[0], 12)
    tree = build(torch.zeros(1, 3, 4, dtype=torch.int32), scores_BKC, 12)
    assert tree.parent_BN[0].tolist() == [parent for parent, _, _ in nodes]
    paths, best = [0.0], []
    for n, (parent, depth, rank) in enumerate(nodes[1:], start=1):
        paths.append(paths[parent] + scores_BKC[0, depth - 1, rank].item())
        best.append(paths[n])
    level, everything = [0.0], []
    for depth in range(3):
        level = [p + s for p in level for s in scores_BKC[0, depth].tolist()]
        everything += level
    assert sorted(best, reverse=True) == pytest.approx(sorted(everything, reverse=True)[:11])


def test_chain_of_64_uses_bit_63(backend: str) -> None:
    tree = check(torch.arange(63).int().view(1, 63, 1), torch.zeros(1, 63, 1), 64)
    assert tree.words_BN[0, 63] == -1


def test_all_scores_dead(backend: str) -> None:
    """NaN and -inf everywhere still give a tree, in insertion order."""
    for value in (NAN, -INF):
        check(torch.zeros(2, 3, 4, dtype=torch.int32), torch.full((2, 3, 4), value), 20)


def test_full_tree(backend: str) -> None:
    check(torch.arange(12).int().view(1, 3, 4), torch.randn(1, 3, 4), full_tree(3, 4) - 21)
    check(torch.arange(6).int().view(1, 2, 3), torch.randn(1, 2, 3), full_tree(2, 3))


def template_of(paths: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
    index = {(): 0} | {path: n for n, path in enumerate(paths, start=1)}
    parents = [-1] + [index[path[:-1]] for path in paths]
    depth, rank = [0] + [len(path) for path in paths], [0] + [path[-1] for path in paths]
    words = torch.tensor([signed(word) for word in words_of(parents)])
    return i32(parents), i32(depth), i32(rank), words


@pytest.mark.parametrize("with_scores", [False, True])
def test_template(backend: str, with_scores: bool) -> None:
    paths = [(0,), (1,), (0, 0), (0, 2), (1, 1), (0, 2, 0)]
    template = template_of(paths)
    ids_BKC = torch.randint(0, 99, (3, 3, 3)).int()
    tree = build(ids_BKC, torch.full((3, 3, 3), NAN) if with_scores else None, 7, template=template)
    for b in range(3):
        expected = [1000 + b] + [int(ids_BKC[b, len(path) - 1, path[-1]]) for path in paths]
        assert tree.ids_BN[b].tolist() == expected
        assert tree.positions_BN[b].tolist() == [10 * b + d for d in template[1].tolist()]
        outputs = (tree.parent_BN[b], tree.depth_BN[b], tree.words_BN[b])
        assert all(torch.equal(x, t) for x, t in zip(outputs, (template[0], template[1], template[3]), strict=True))


def test_template_of_64_nodes(backend: str) -> None:
    template = template_of([(0,) * depth for depth in range(1, 64)])
    tree = build(torch.arange(63).int().view(1, 63, 1), None, 64, template=template)
    assert tree.ids_BN[0].tolist() == [1000, *range(63)]
    assert torch.equal(tree.words_BN[0], template[3])


@pytest.mark.parametrize("with_template", [False, True])
def test_root_alone(backend: str, with_template: bool) -> None:
    """Plain decoding: no candidates at all."""
    template = template_of([]) if with_template else None
    scores_BKC = torch.zeros(2, 0, 1)
    tree = build(torch.zeros(2, 0, 1, dtype=torch.int32), scores_BKC, 1, template=template)
    assert tree.ids_BN.tolist() == [[1000], [1001]] and tree.parent_BN.tolist() == [[-1], [-1]]
    assert tree.words_BN.tolist() == [[1], [1]] and tree.positions_BN.tolist() == [[0], [10]]


def test_noise_rows_may_be_left_out(backend: str) -> None:
    outputs = [torch.zeros(1, 3, dtype=torch.int32) for _ in range(5)]
    outputs[3] = outputs[3].long()
    slots, prefix_B = (i32([7]), i32([5])), i32([WILD])
    ops.build_tree(i32([[[4], [5]]]), torch.zeros(1, 2, 1), *slots, *outputs, prefix_B=prefix_B)
    assert outputs[0].tolist() == [[7, 4, 5]] and prefix_B.tolist() == [4]


def test_wrong_arguments_are_named() -> None:
    ids_BKC, scores_BKC = torch.zeros(1, 2, 2, dtype=torch.int32), torch.zeros(1, 2, 2)
    with pytest.raises(ValueError, match="1..64 nodes, got 65"):
        build(ids_BKC, scores_BKC, 65)
    with pytest.raises(ValueError, match="needs scores"):
        build(ids_BKC, None, 2)
    with pytest.raises(ValueError, match="candidate_ids_BKC.*int32"):
        build(ids_BKC.long(), scores_BKC, 2)
    with pytest.raises(ValueError, match="template"):
        build(ids_BKC, scores_BKC, 2, template=template_of([(0,), (1,)]))
