"""blend_candidates against a list that one token is put into."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt import ops

from .cases import i32, interpreted, same_bits

Ranked = list[tuple[int, float]]  # (id, score), best first


def f32(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def put(token: int, score: float, candidates: Ranked) -> Ranked:
    """The rule: what is as good keeps its place, what is worse gives way, and as many remain."""
    if token < 0:
        return candidates
    others = [entry for entry in candidates if entry[0] != token]
    own = [entry for entry in candidates if entry[0] == token]
    if (own or candidates[-1:])[0][1] >= score:
        return candidates
    at = sum(other >= score for _, other in others)
    return [*others[:at], (token, score), *others[at:]][: len(candidates)]


def blend(proposals: Ranked, depths: list[Ranked]) -> list[Ranked]:
    """The op on the depths of one slot, between two slots to which nothing is proposed."""
    ids_KC, scores_KC = ([[entry[part] for entry in depth] for depth in depths] for part in (0, 1))
    ids_BKC, scores_BKC = i32([ids_KC] * 3), f32([scores_KC] * 3)
    proposed = [[-1] * len(depths), [token for token, _ in proposals], [-1] * len(depths)]
    given_scores = [[0.0] * len(depths), [score for _, score in proposals], [0.0] * len(depths)]
    before = ids_BKC.clone(), scores_BKC.clone()
    ops.blend_candidates(i32(proposed), f32(given_scores), ids_BKC, scores_BKC)
    for b in (0, 2):
        assert torch.equal(ids_BKC[b], before[0][b]) and same_bits(scores_BKC[b], before[1][b])
    return [
        list(zip(ids, scores, strict=True))
        for ids, scores in zip(ids_BKC[1].tolist(), scores_BKC[1].tolist(), strict=True)
    ]


SCORE = st.sampled_from([0.0, -0.25, -0.5, -1.0, -4.0, -math.inf])  # few: equal scores are everywhere


@st.composite
def depths(draw: st.DrawFn) -> tuple[list[Ranked], Ranked]:
    """Candidates of some depths, and a proposal for each."""
    K, C = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    ranked = []
    for _ in range(K):
        ids = draw(st.permutations(range(8)))[:C]
        if draw(st.booleans()):
            ids[-1] = -1  # no candidate
        ranked.append(list(zip(ids, sorted((draw(SCORE) for _ in range(C)), reverse=True), strict=True)))
    return ranked, [(draw(st.integers(-1, 8)), draw(SCORE)) for _ in range(K)]


@given(depths())
def test_rule(backend: str, case: tuple[list[Ranked], Ranked]) -> None:
    candidates, proposals = case
    expected = [put(*proposal, depth) for proposal, depth in zip(proposals, candidates, strict=True)]
    assert blend(proposals, candidates) == expected


def test_each_way(backend: str) -> None:
    own = [(7, -0.5), (3, -1.0), (9, -1.0), (4, -2.0)]
    assert blend([(5, -0.25)], [own]) == [[(5, -0.25), (7, -0.5), (3, -1.0), (9, -1.0)]]  # the last goes
    assert blend([(9, -0.5)], [own]) == [[(7, -0.5), (9, -0.5), (3, -1.0), (4, -2.0)]]  # moves up, behind its equal
    assert blend([(4, -1.0)], [own]) == [[(7, -0.5), (3, -1.0), (9, -1.0), (4, -1.0)]]  # stays, scores higher
    for proposal in ((5, -2.0), (5, -3.0), (7, -0.75), (3, -1.0), (-1, 0.0)):
        assert blend([proposal], [own]) == [own]


def test_a_chain_takes_the_likelier_token(backend: str) -> None:
    assert blend([(5, -0.5), (5, -0.5), (5, -0.5)], [[(7, -0.25)], [(7, -0.75)], [(7, -0.5)]]) == [
        [(7, -0.25)], [(5, -0.5)], [(7, -0.5)],
    ]  # fmt: skip


def test_nan_counts_as_the_worst(backend: str) -> None:
    (depth,) = blend([(5, -9.0)], [[(7, -0.5), (3, math.nan), (4, math.nan)]])
    assert depth[:2] == [(7, -0.5), (5, -9.0)] and depth[2][0] == 3 and math.isnan(depth[2][1])
    assert blend([(4, -1.0)], [[(4, math.nan)]]) == [[(4, -1.0)]]


def test_many_slots(backend: str) -> None:
    """Every slot and depth for itself, in numbers that fill several blocks."""
    B, K, C = (2, 3, 5) if interpreted() else (9, 31, 16)
    scores_BKC = -torch.randint(0, 40, (B, K, C)).sort(2).values / 4
    ids_BKC = torch.rand(B, K, 40).argsort(2)[..., :C].int()
    ids_BK, scores_BK = torch.randint(-1, 40, (B, K)).int(), -torch.randint(0, 40, (B, K)) / 4
    ranked = [
        [list(zip(i, s, strict=True)) for i, s in zip(*slot, strict=True)]
        for slot in zip(ids_BKC.tolist(), scores_BKC.tolist(), strict=True)
    ]
    ops.blend_candidates(ids_BK, scores_BK, ids_BKC, scores_BKC)
    for b in range(B):
        for k in range(K):
            expected = put(int(ids_BK[b, k]), float(scores_BK[b, k]), ranked[b][k])
            assert list(zip(ids_BKC[b, k].tolist(), scores_BKC[b, k].tolist(), strict=True)) == expected


def test_wrong_arguments_are_named() -> None:
    ids_BKC, scores_BKC = i32([[[1, 2]]]), torch.zeros(1, 1, 2)
    with pytest.raises(ValueError, match="ids_BK: expected shape"):
        ops.blend_candidates(i32([1]), torch.zeros(1, 1), ids_BKC, scores_BKC)
    with pytest.raises(ValueError, match="candidate_scores_BKC: expected shape"):
        ops.blend_candidates(i32([[1]]), torch.zeros(1, 1), ids_BKC, torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="scores_BK: expected dtype"):
        ops.blend_candidates(i32([[1]]), torch.zeros(1, 1).double(), ids_BKC, scores_BKC)
