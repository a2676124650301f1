"""select_tokens against a per-row version with sorted lists, and against the distribution it must draw from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from pspec_rt import ops

from .cases import ROWS, WILD, i32, interpreted


@dataclass
class Row:
    """One row's parameters."""

    logits: list[float]
    noise: list[float]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def select(rows: list[Row], top: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, logprob, top ids, top logprobs of the op; noise rows in reverse, to see that they are looked up."""
    R = len(rows)
    ids_R, logprob_R = torch.full((R,), WILD, dtype=torch.int32), torch.full((R,), float("nan"))
    top_ids_RT, top_logprobs_RT = torch.full((R, top), WILD, dtype=torch.int32), torch.zeros(R, top)
    ops.select_tokens(
        torch.tensor([row.logits for row in rows]), ids_R,
        temperature_R=torch.tensor([row.temperature for row in rows]),
        top_k_R=i32([row.top_k for row in rows]),
        top_p_R=torch.tensor([row.top_p for row in rows]),
        min_p_R=torch.tensor([row.min_p for row in rows]),
        noise_QV=torch.tensor([row.noise for row in reversed(rows)]),
        noise_row_R=torch.arange(R - 1, -1, -1, dtype=torch.int32),
        out_logprob_R=logprob_R, out_top_ids_RT=top_ids_RT, out_top_logprobs_RT=top_logprobs_RT,
    )  # fmt: skip
    return ids_R, logprob_R, top_ids_RT, top_logprobs_RT


def softmax(z: list[float]) -> list[float]:
    weights = [math.exp(x - max(z)) for x in z]
    return [w / math.fsum(weights) for w in weights]


def kept_tokens(row: Row) -> tuple[list[int], float]:
    """ids that survive the filters, and how far the nearest decision was from a tie (fp32 may differ at one)."""
    z = [x / row.temperature for x in row.logits]
    ranked = sorted(range(len(z)), key=lambda v: (-z[v], v))
    if 0 < row.top_k < len(z):
        ranked = [v for v in ranked if z[v] >= z[ranked[row.top_k - 1]]]
    p = softmax([z[v] for v in ranked])
    margins = [1.0]
    if row.top_p < 1:
        before = [0.0, *accumulate(p[:-1])]
        margins += [abs(b - row.top_p) for b in before]
        ranked = [v for v, b in zip(ranked, before, strict=True) if b < row.top_p]
    kept = [v for v, q in zip(ranked, p, strict=False) if q >= row.min_p * p[0]]
    margins += [abs(q - row.min_p * p[0]) for q in p if q < p[0]]  # equals of the best are safe
    return kept, min(margins)


def expected_id(row: Row) -> int:
    if row.temperature == 0:
        return min(range(len(row.logits)), key=lambda v: (-row.logits[v], v))
    kept, margin = kept_tokens(row)
    assume(margin > 1e-6)
    return min(kept, key=lambda v: (-(row.logits[v] / row.temperature + row.noise[v]), v))


# Quarters, and temperatures that are powers of two: z and z + noise are exact, ties frequent.
QUARTERS = st.integers(-12, 12).map(lambda i: i / 4)


@st.composite
def row_lists(draw: st.DrawFn) -> list[Row]:
    V = draw(st.integers(2, 12))
    numbers = st.lists(QUARTERS, min_size=V, max_size=V)
    row = st.builds(
        Row, numbers, numbers,
        temperature=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]),
        top_k=st.integers(0, V + 2),
        top_p=st.sampled_from([0.001, 0.3, 0.5, 0.77, 0.9, 1.0]),
        min_p=st.sampled_from([0.0, 0.05, 0.33, 0.9, 1.0]),
    )  # fmt: skip
    return draw(st.lists(row, min_size=1, max_size=4))


@given(rows=row_lists())
def test_rule(backend: str, rows: list[Row]) -> None:
    if interpreted():
        pytest.skip("tests/triton/test_select_tokens.py has fewer and larger cases of this kind")
    expected = [expected_id(row) for row in rows]
    ids_R, logprob_R, top_ids_RT, top_logprobs_RT = select(rows)
    assert ids_R.tolist() == expected
    for r, row in enumerate(rows):
        logprob = [math.log(p) for p in softmax(row.logits)]
        best = sorted(range(len(logprob)), key=lambda v: (-row.logits[v], v))[:2]
        assert top_ids_RT[r].tolist() == best
        assert logprob_R[r].item() == pytest.approx(logprob[expected[r]], abs=1e-5)
        assert top_logprobs_RT[r].tolist() == pytest.approx([logprob[v] for v in best], abs=1e-5)


FILTERS = [
    {"top_k": 1}, {"top_k": 40}, {"top_k": 2900}, {"top_p": 0.3}, {"top_p": 0.97}, {"top_p": 0.999999},
    {"min_p": 1e-3}, {"min_p": 1e-12}, {"top_k": 300, "top_p": 0.7}, {"top_p": 0.95, "min_p": 0.05},
]  # fmt: skip


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("scale", [0.02, 2.0, 40.0])
def test_filters_cut_a_large_vocabulary_where_they_should(
    backend: str, scale: float, filters: dict[str, float]
) -> None:
    """The noise lifts every token above all that rank before it, so the last one kept is picked. From nearly equal
    tokens to one that has it all; a third of the tokens has an equal."""
    V = 1000 if interpreted() else 3001
    logits = ((torch.randn(V) * scale)[torch.randint(0, V, (V,))]).tolist()
    row = Row(logits, [], 0.75, **filters)
    ranked = sorted(range(V), key=lambda v: (-(row.logits[v] / row.temperature), v))
    row.noise = [0.0] * V
    for rank, v in enumerate(ranked):
        row.noise[v] = 64.0 * rank - logits[v] / row.temperature
    # fp32 probabilities and their sums: a token this close to the limit may fall on either side of it.
    slack, ratio = 2e-6 if row.top_p < 1 else 0.0, 1 + 1e-5
    fewest, _ = kept_tokens(replace(row, top_p=row.top_p - slack, min_p=row.min_p * ratio))
    most, _ = kept_tokens(replace(row, top_p=row.top_p + slack, min_p=row.min_p / ratio))
    ids_R, _, top_ids_RT, _ = select([row])
    assert len(fewest) <= ranked.index(ids_R.item()) + 1 <= len(most)
    assert top_ids_RT.tolist() == [ranked[:2]]


@pytest.mark.parametrize("row", [{"temperature": 0.0}, {}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_nan_counts_as_the_lowest_value(backend: str, row: dict[str, float]) -> None:
    """A NaN logit is passed over; a row of nothing but NaN has no token, and no log-probability."""
    nan, noise = float("nan"), [0.0] * 4
    rows = [Row([nan, 1.0, nan, 0.5], noise, **row), Row([nan] * 4, noise, **row), Row([0.0] * 4, noise, **row)]
    ids_R, logprob_R, top_ids_RT, top_logprobs_RT = select(rows, top=3)
    assert ids_R.tolist() == [1, -1, 0]
    assert top_ids_RT.tolist() == [[1, 3, -1], [-1, -1, -1], [0, 1, 2]]
    p = softmax([1.0, 0.5])
    assert logprob_R.tolist() == pytest.approx([math.log(p[0]), -math.inf, math.log(0.25)], abs=1e-6)
    assert top_logprobs_RT[0].tolist() == pytest.approx([math.log(p[0]), math.log(p[1]), -math.inf], abs=1e-6)


FLAT = [0.0] * 8


def test_ties_with_the_kth_are_kept(backend: str) -> None:
    rows = [Row([3.0, 2.0, 2.0, 2.0, 1.0], [0.0, 0.0, 0.0, 9.0, 99.0], top_k=2)]
    assert select(rows)[0].tolist() == [3]


def test_minus_zero_equals_zero(backend: str) -> None:
    for logits in ([-0.0, 0.0, -1.0], [0.0, -0.0, -1.0]):
        ids_R, _, top_ids_RT, _ = select([Row(logits, [0.0] * 3), Row(logits, [0.0] * 3, 0.0)])
        assert ids_R.tolist() == [0, 0] and top_ids_RT.tolist() == [[0, 1]] * 2


def test_top_p_keeps_equals_in_id_order(backend: str) -> None:
    """Eight equal tokens, top_p 0.3: three are kept, the ones with the lowest ids."""
    for favourite, expected in ((2, 2), (3, 0), (7, 0)):
        noise = [9.0 if v == favourite else 0.0 for v in range(8)]
        assert select([Row(FLAT, noise, top_p=0.3)])[0].tolist() == [expected]


def test_top_p_is_reached_by_exactly_as_much(backend: str) -> None:
    """Two of eight equal tokens have a probability of 0.25: the third is not kept."""
    for favourite, expected in ((1, 1), (2, 0)):
        noise = [9.0 if v == favourite else 0.0 for v in range(8)]
        assert select([Row(FLAT, noise, top_p=0.25)])[0].tolist() == [expected]


def test_one_token_always_remains(backend: str) -> None:
    noise = [0.0] + [50.0] * 7
    for row in (Row(FLAT, noise, top_p=1e-9), Row([1.0] + FLAT[1:], noise, min_p=1.0)):
        assert select([row])[0].tolist() == [0]


def test_top_k_comes_before_top_p(backend: str) -> None:
    """Probabilities are renormalised over the top_k: 2 of 8 equal tokens have 1/2 each, so top_p 0.4 keeps one."""
    logits = [1.0, 1.0] + [0.9] * 6
    noise = [0.0, 30.0] + [60.0] * 6
    assert select([Row(logits, noise, top_k=2, top_p=0.4)])[0].tolist() == [0]
    assert select([Row(logits, noise, top_k=2, top_p=0.6)])[0].tolist() == [1]


@pytest.mark.parametrize("R", ROWS)
def test_rows_are_independent(backend: str, R: int) -> None:
    R = min(R, 5) if interpreted() else R
    rows = [
        Row(torch.randn(700).tolist(), torch.randn(700).tolist(), [0.0, 0.8, 1.3][r % 3], r % 7, 0.5 + r % 5 / 8, 0.01)
        for r in range(R)
    ]
    whole = select(rows)
    for r in {0, R // 2, R - 1}:
        assert all(torch.equal(a, b[r : r + 1]) for a, b in zip(select([rows[r]]), whole, strict=True))


def test_optional_outputs(backend: str) -> None:
    ids_R = torch.empty(1, dtype=torch.int32)
    one = torch.ones(1)
    ops.select_tokens(
        torch.tensor([[0.0, 2.0, 1.0]]), ids_R, temperature_R=one, top_k_R=i32([0]), top_p_R=one,
        min_p_R=0 * one, noise_QV=torch.tensor([[0.0, 0.0, 5.0]]), noise_row_R=i32([0]),
    )  # fmt: skip
    assert ids_R.tolist() == [2]


# chi-square quantiles at 1 - 1e-4 by degrees of freedom
CHI_SQUARE = {2: 18.42, 3: 21.11, 5: 25.74}


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2}])
def test_draws_follow_the_filtered_softmax(backend: str, filters: dict[str, float]) -> None:
    """argmax(z + gumbel) over positions is a sample of softmax(filter(z))."""
    draws, temperature = 20_000, 0.7
    if interpreted():
        pytest.skip("a row takes a tenth of a second")
    logits = [1.0, 0.5, 0.0, 0.75, -1.0, -0.25]
    row = Row(logits, [], temperature, **filters)
    kept, _ = kept_tokens(row)
    p = softmax([logits[v] / temperature for v in kept])
    noise_1RV = torch.empty(1, draws, 6)
    ops.gumbel_noise(torch.tensor([99]), i32([0]), noise_1RV)
    ids_R, ones = torch.empty(draws, dtype=torch.int32), torch.ones(draws)
    ops.select_tokens(
        torch.tensor([logits]).expand(draws, 6).contiguous(), ids_R,
        temperature_R=temperature * ones, top_k_R=(row.top_k * ones).int(), top_p_R=row.top_p * ones,
        min_p_R=row.min_p * ones, noise_QV=noise_1RV[0], noise_row_R=torch.arange(draws).int(),
    )  # fmt: skip
    count = torch.bincount(ids_R.long(), minlength=6).tolist()
    assert sum(count[v] for v in kept) == draws
    statistic = sum((count[v] - draws * q) ** 2 / (draws * q) for v, q in zip(kept, p, strict=True))
    assert statistic < CHI_SQUARE[len(kept) - 1]


def test_wrong_arguments_are_named() -> None:
    one, ids_R = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    good = {
        "temperature_R": one, "top_k_R": i32([0]), "top_p_R": one, "min_p_R": one,
        "noise_QV": torch.zeros(1, 3), "noise_row_R": i32([0]),
    }  # fmt: skip
    with pytest.raises(ValueError, match="noise_QV"):
        ops.select_tokens(torch.zeros(1, 4), ids_R, **good)
    with pytest.raises(ValueError, match="top_k_R.*int32"):
        ops.select_tokens(torch.zeros(1, 3), ids_R, **{**good, "top_k_R": one})
    with pytest.raises(ValueError, match="go together"):
        ops.select_tokens(torch.zeros(1, 3), ids_R, **good, out_top_ids_RT=i32([[1]]))
