"""gumbel_noise against Philox in Python integers and logarithms in fp64; every backend gives the same bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pspec_rt import ops
from pspec_rt.ref.gumbel_noise import _gumbel, log

from .cases import i32, interpreted, ref_of, same_bits, signed

MASK = 0xFFFFFFFF


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as in Salmon et al., SC 2011, figure and constants of the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def gumbel(seed: int, t: int, v: int) -> float:
    x = philox([v >> 2, t & MASK, 0, 0], [seed & MASK, seed >> 32 & MASK])[v & 3]
    u = min(float(torch.tensor(x).float() + 0.5) * 2.0**-32, 1 - 2.0**-24)
    return -math.log(-math.log1p(-u))


def noise(seeds: list[int], positions: list[int], P: int, V: int) -> Tensor:
    out_BPV = torch.full((len(seeds), P, V), float("nan"))
    ops.gumbel_noise(torch.tensor([signed(s) for s in seeds]), i32(positions), out_BPV)
    return out_BPV


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([MASK] * 4, [MASK] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: list[int], expected: str) -> None:
    """The published vectors of Random123: they vouch for the Python version the ops are compared with."""
    assert [f"{word:08x}" for word in philox(counter, key)] == expected.split()


@pytest.mark.parametrize("V", [1, 3, 4, 31, 66])
@pytest.mark.parametrize("seeds", [[0], [1, 2**32, 2**64 - 1], [0x9E3779B97F4A7C15, 2**63]])
def test_formula(backend: str, seeds: list[int], V: int) -> None:
    positions = [0, 5, 2**31 - 9][: len(seeds)]
    out_BPV = noise(seeds, positions, 3, V)
    for b, (seed, first) in enumerate(zip(seeds, positions, strict=True)):
        for p in range(3):
            expected = torch.tensor([gumbel(seed, first + p, v) for v in range(V)])
            # u is exact; the two logarithms are within an ulp each, the outer one sees values down
            # to 0.04
            torch.testing.assert_close(out_BPV[b, p], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("B, P, V", [(1, 1, 49152), (3, 2, 5001), (2, 33, 1), (40, 9, 1000)])
def test_backends_give_the_same_bits(backend: str, B: int, P: int, V: int) -> None:
    if interpreted():
        B, P = min(B, 5), min(P, 5)
    seed_B, first_B = torch.randint(-(2**63), 2**63 - 1, (B,)), torch.randint(0, 2**31 - 99, (B,))
    out_BPV, ref_BPV = torch.empty(B, P, V), torch.empty(B, P, V)
    ops.gumbel_noise(seed_B, first_B.int(), out_BPV)
    ref_of("gumbel_noise")(seed_B, first_B.int(), ref_BPV)
    assert same_bits(out_BPV, ref_BPV)
    assert out_BPV.isfinite().all()


def test_depends_on_seed_and_position_only(backend: str) -> None:
    """Not on the slot, the number of slots, of positions, or of tokens."""
    whole = noise([7, 8, 7], [10, 10, 12], 5, 100)
    assert torch.equal(whole[0, 2:], whole[2, :3])
    assert torch.equal(noise([7], [12], 1, 100)[0, 0], whole[0, 2])
    assert torch.equal(noise([8], [13], 1, 37)[0, 0], whole[1, 3, :37])
    assert (whole[0] != whole[1]).float().mean() > 0.99


def test_extreme_bits_are_finite() -> None:
    """All ones would round u to 1 and give +inf, all zeros -inf, in the naive formula."""
    edges = torch.tensor([0, 1, 2**24, 2**31, 2**32 - 257, 2**32 - 256, 2**32 - 2, 2**32 - 1])
    values = _gumbel(edges)
    assert values.isfinite().all() and (values.diff() <= 0).all()
    assert values[0] == pytest.approx(math.log(2.0**33), rel=1e-6)  # the largest: u = 2^-33
    assert values[-1] == pytest.approx(-math.log(24 * math.log(2)), rel=1e-6)


def test_logarithm_is_within_an_ulp() -> None:
    x = torch.cat([torch.rand(200_000), torch.rand(200_000) * 30 + 1e-6, 2.0 ** torch.randint(-33, 5, (1000,))])
    exact = x.double().log()
    ulp = 2.0**-23 * 2.0 ** exact.abs().clamp(min=2.0**-100).log2().floor()
    assert ((log(x).double() - exact).abs() <= ulp).all()


def test_standard_gumbel_distribution(backend: str) -> None:
    """Kolmogorov-Smirnov against exp(-exp(-x)); 1.95 is the 0.1% point of sqrt(n) D."""
    x = noise([123], [0], 8 if interpreted() else 40, 5000).flatten().double().sort().values
    n = len(x)
    cdf, steps = torch.exp(-torch.exp(-x)), torch.arange(n + 1) / n
    assert max((cdf - steps[:-1]).max(), (steps[1:] - cdf).max()) * n**0.5 < 1.95


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="seed_B.*int64"):
        ops.gumbel_noise(i32([1]), i32([1]), torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="first_position_B"):
        ops.gumbel_noise(torch.tensor([1]), i32([1, 2]), torch.zeros(1, 1, 4))
