"""The bandit over drafters: it finds the fastest, follows a change, and nobody starves."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt.bandit import Bandit

RATES = st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=5)
TOKENS = 100


def pull(bandit: Bandit, rates: list[float], noise: float = 0.0, dice: random.Random | None = None) -> int:
    """One answer of TOKENS tokens by whom the bandit chooses; `noise`: share by which speeds vary."""
    arm = bandit.choose()
    factor = 1.0 if dice is None else 1 + noise * (2 * dice.random() - 1)
    bandit.observe(arm, TOKENS, TOKENS / (rates[arm] * factor))
    return arm


def shares(bandit: Bandit, rates: list[float], pulls: int, **noise: object) -> Counter[int]:
    return Counter(pull(bandit, rates, **noise) for _ in range(pulls))


@given(RATES)
def test_everybody_is_tried_once_in_order(rates: list[float]) -> None:
    bandit = Bandit(len(rates))
    assert [pull(bandit, rates) for _ in rates] == list(range(len(rates)))


@given(RATES, st.data())
def test_who_is_out_is_not_chosen(rates: list[float], data: st.DataObject) -> None:
    bandit, arms = Bandit(len(rates)), range(len(rates))
    for _ in range(8):
        out = data.draw(st.sets(st.sampled_from(arms), max_size=len(rates) - 1))
        arm = bandit.choose(without=out)
        assert arm not in out
        bandit.observe(arm, TOKENS, TOKENS / rates[arm])


@given(st.integers(0, 3), st.floats(1.3, 5.0), st.integers(0, 100))
def test_the_fastest_is_chosen_almost_always(best: int, lead: float, seed: int) -> None:
    """By a lead of 30% and more, though every answer varies by a tenth."""
    rates = [50.0] * 4
    rates[best] *= lead
    bandit, dice = Bandit(4), random.Random(seed)
    shares(bandit, rates, 40, noise=0.1, dice=dice)
    assert shares(bandit, rates, 400, noise=0.1, dice=dice)[best] >= 340


@given(RATES, st.sampled_from([0.125, 2.0, 1024.0]))
def test_only_ratios_matter(rates: list[float], scale: float) -> None:
    """Exactly, by powers of two."""
    one, other = Bandit(len(rates)), Bandit(len(rates))
    scaled = [rate * scale for rate in rates]
    assert [pull(one, rates) for _ in range(60)] == [pull(other, scaled) for _ in range(60)]


@pytest.mark.parametrize("before, after", [([90.0, 60.0, 30.0], [30.0, 60.0, 60.0]), ([50.0, 100.0], [50.0, 35.0])])
def test_it_follows_a_change_of_workload(before: list[float], after: list[float]) -> None:
    """The favourite slows down, or another one has become the fastest."""
    bandit = Bandit(len(before))
    first = shares(bandit, before, 200)
    assert first[before.index(max(before))] > 150
    shares(bandit, after, 60)
    assert sum(after[arm] * count for arm, count in shares(bandit, after, 100).items()) > 90 * max(after)


def test_one_that_became_faster_is_noticed() -> None:
    bandit = Bandit(2)
    shares(bandit, [80.0, 40.0], 200)
    shares(bandit, [80.0, 160.0], 80)
    assert shares(bandit, [80.0, 160.0], 100)[1] > 85


def test_equals_share_the_work() -> None:
    counts = shares(Bandit(3), [70.0] * 3, 300)
    assert min(counts.values()) > 80


def test_a_slow_first_answer_is_forgiven() -> None:
    """The first answer of a process compiles kernels: it must not condemn who gave it."""
    bandit = Bandit(2)
    bandit.observe(bandit.choose(), TOKENS, 100 * TOKENS / 90.0)
    assert shares(bandit, [90.0, 60.0], 100)[0] > 70


@given(st.sampled_from([0.0, -1.0, math.nan, math.inf]), st.integers(0, 50), st.integers(0, 2))
def test_times_that_tell_nothing_starve_nobody(seconds: float, tokens: int, broken: int) -> None:
    bandit, counts = Bandit(3), Counter()
    for _ in range(300):
        arm = bandit.choose()
        counts[arm] += 1
        bandit.observe(arm, tokens if arm == broken else TOKENS, seconds if arm == broken else 2.0)
    assert min(counts[arm] for arm in range(3)) > 40


def test_all_times_telling_nothing() -> None:
    bandit, counts = Bandit(3), Counter()
    for _ in range(90):
        counts[bandit.choose()] += 1
        bandit.observe(bandit.choose(), 0, math.nan)
    assert min(counts.values()) > 20


def test_short_answers_weigh_little() -> None:
    """Lucky answers of one token do not outdo what whole answers said; a whole one would."""
    for tokens, favourite in ((1, 0), (TOKENS, 1)):
        bandit = Bandit(2)
        shares(bandit, [90.0, 60.0], 60)
        for _ in range(3):
            bandit.observe(1, tokens, tokens / 1000.0)
        rates = [arm.rate for arm in bandit.arms]
        assert rates.index(max(rates)) == favourite


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 500), st.floats(allow_nan=True)), max_size=200))
def test_the_same_observations_give_the_same_choice(seen: list[tuple[int, int, float]]) -> None:
    one, other = Bandit(3), Bandit(3)
    for observation in seen:
        one.observe(*observation)
        other.observe(*observation)
        assert 0 <= one.choose() == one.choose() == other.choose() < 3


def test_what_has_faded_to_nothing_is_asked_again() -> None:
    bandit = Bandit(2)
    for arm in (1, *[0] * 30_000):
        bandit.observe(arm, TOKENS, 1.0)
    assert bandit.arms[1].weight < 1e-300 and bandit.choose() == 1
