"""Philox and the Gumbel noise: known answers, precision, moments, and no infinities anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt import _C
from pspec_rt.ref.gumbel_noise import gumbel_noise as ref_gumbel_noise

from ..ops.cases import i32, same_bits

ALL_ONES = 0xFFFFFFFF
ISAS = _C.build_info()["isas"]
uint32 = st.integers(0, ALL_ONES)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa("")


def draw(seeds: list[int], positions: list[int], P: int, V: int) -> torch.Tensor:
    """Native noise [B, P, V]."""
    seed_B, position_B, out_BPV = torch.tensor(seeds), i32(positions), torch.empty(len(seeds), P, V)
    addresses = [x.data_ptr() for x in (seed_B, position_B, out_BPV)]
    _C.gumbel_noise(*addresses, len(seeds), P, V)
    return out_BPV


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # the known-answer vectors of Random123
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ALL_ONES] * 4, [ALL_ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: list[int], answer: list[int]) -> None:
    assert _C.philox(counter, key) == answer


@given(seed=st.integers(-(2**63), 2**63 - 1), position=st.integers(0, 2**31 - 1), v=st.integers(0, 999))
def test_value_is_one_lane_of_philox(seed: int, position: int, v: int) -> None:
    key = [seed & ALL_ONES, (seed >> 32) & ALL_ONES]
    bits = _C.philox([v >> 2, position, 0, 0], key)[v & 3]
    assert draw([seed], [position], 1, v + 1)[0, 0, v].item() == _C.gumbel_of_bits(bits)


@given(st.lists(uint32, min_size=1, max_size=200))
def test_value_is_precise(many_bits: list[int]) -> None:
    """Against -log(-log1p(-u)) in fp64 of the same fp32 u: both logs are within one ulp."""
    for bits in many_bits:
        u = float(min((np.float32(bits) + np.float32(0.5)) * np.float32(2**-32), 1 - 2**-24))
        exponential = -math.log1p(-u)
        value = _C.gumbel_of_bits(bits)
        # An ulp of E moves -log(E) by 2^-23 whatever E is; an ulp of the result comes on top.
        assert abs(value + math.log(exponential)) <= 2**-22 + abs(value) * 2**-22


def test_extreme_bits_are_finite_and_ordered() -> None:
    extremes = [*range(300), *range(ALL_ONES - 300, ALL_ONES + 1), 0x7FFFFFFF, 0x80000000]
    values = [_C.gumbel_of_bits(bits) for bits in sorted(extremes)]
    assert all(math.isfinite(x) for x in values)
    assert values == sorted(values, reverse=True), "larger u is a smaller value"
    assert 22 < values[0] < 23 and -3 < values[-1] < -2


@pytest.mark.usefixtures("isa")
def test_moments_and_no_infinities() -> None:
    """Mean is Euler's constant, variance pi^2 / 6; 10^7 draws, tolerance 5 standard errors."""
    draws = 10_000_000
    noise = draw([2024, -7], [0, 10**6], 5, draws // 10).double()
    assert torch.isfinite(noise).all()
    assert abs(noise.mean().item() - np.euler_gamma) < 5 * math.pi / math.sqrt(6 * draws)
    fourth = 12 / 5 + 3  # kurtosis of the Gumbel distribution
    standard_error = math.pi**2 / 6 * math.sqrt((fourth - 1) / draws)
    assert abs(noise.var().item() - math.pi**2 / 6) < 5 * standard_error


def test_distribution() -> None:
    """Kolmogorov-Smirnov distance to exp(-exp(-x)), and neighbours are uncorrelated."""
    noise = draw([99], [17], 1, 200_000).flatten().double()
    empirical = torch.arange(1, len(noise) + 1).double() / len(noise)
    exact = torch.exp(-torch.exp(-noise.sort().values))
    assert (empirical - exact).abs().max() < 1.63 / math.sqrt(len(noise))  # 1% level
    for lag in (1, 2, 3, 4, 8):
        pair = torch.stack([noise[lag:], noise[:-lag]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 5 / math.sqrt(len(noise))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("V", [1, 2, 3, 5, 63, 64, 65, 1023, 1024, 1025, 5000])
def test_bits_equal_torch(V: int) -> None:
    seeds, positions = [0, 5, 2**40 + 3, -1, -(2**63)], [0, 1, 2**31 - 9, 77, 4096]
    expected_BPV = torch.empty(5, 3, V)
    ref_gumbel_noise(torch.tensor(seeds), i32(positions), expected_BPV)
    assert same_bits(draw(seeds, positions, 3, V), expected_BPV)
