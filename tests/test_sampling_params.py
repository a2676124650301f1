"""SamplingParams and seeds: what is refused and how it is said, the sampling mode, the derived seeds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt.errors import PspecError, RequestError
from pspec_rt.sampling import MAX_LOGPROBS, MODES, SamplingParams, as_int64, derive_seed

SEEDS = st.integers(-(2**64), 2**64)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_new_tokens", [-1, 1.5, "3", None, True]),
        ("temperature", [-0.1, float("nan"), float("inf"), "hot", None, True]),
        ("top_k", [-1, 2.0, None]),
        ("top_p", [0, -0.5, 1.01, float("nan"), None]),
        ("min_p", [-0.01, 1.01, float("nan"), None]),
        ("seed", [1.0, "1", None, True]),
        ("stop", [("",), (1,), ("a", "")]),
        ("stop_token_ids", [(-1,), (1.0,), ("a",)]),
        ("logprobs", [-1, MAX_LOGPROBS + 1, 1.0, True]),
    ],
)
def test_bad_values_are_refused_by_name(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(RequestError, match=rf"^{name}=.*: expected ") as caught:
            SamplingParams(**{name: value})
        assert isinstance(caught.value, PspecError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "good",
    [
        {"max_new_tokens": 0},
        {"temperature": 0},
        {"temperature": 1e-6},
        {"top_p": 1},
        {"top_p": 1e-9},
        {"min_p": 1},
        {"seed": 2**70},
        {"seed": -5},
        {"logprobs": 0},
        {"logprobs": MAX_LOGPROBS},
        {"stop": ("a", "\n"), "stop_token_ids": (0, 7)},
    ],
)
def test_edges_of_the_ranges_are_allowed(good: dict[str, object]) -> None:
    params = SamplingParams(**good)
    assert all(getattr(params, name) == value for name, value in good.items())


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, "greedy"),
        ({"top_k": 5, "top_p": 0.5, "min_p": 0.1}, "greedy"),  # filters keep the argmax
        ({"temperature": 0.7}, "noise"),
        ({"temperature": 0.7, "top_k": 5}, "filtered"),
        ({"temperature": 0.7, "top_p": 0.5}, "filtered"),
        ({"temperature": 0.7, "min_p": 0.1}, "filtered"),
        ({"logprobs": 0}, "filtered"),
    ],
)
def test_mode_is_the_cheapest_that_serves(options: dict[str, object], mode: str) -> None:
    assert SamplingParams(**options).mode == mode
    assert mode in MODES


@given(SEEDS, st.integers(0, 1000))
def test_derived_seeds_are_64_bit_and_as_int64_keeps_the_bits(seed: int, index: int) -> None:
    derived = derive_seed(seed, index)
    assert 0 <= derived < 2**64
    signed = as_int64(derived)
    assert -(2**63) <= signed < 2**63
    assert signed % 2**64 == derived
    assert derived == derive_seed(seed % 2**64, index)


def test_derived_seeds_do_not_collide() -> None:
    derived = {derive_seed(seed, index) for seed in range(64) for index in range(64)}
    assert len(derived) == 64 * 64
