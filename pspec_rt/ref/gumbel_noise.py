"""gumbel_noise in plain PyTorch: counter-based Gumbel noise, bit for bit the native kernels'."""

from __future__ import annotations

import torch
from torch import Tensor

from ._index import arange

_LOW32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Philox4x32 (Salmon et al. 2011)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_CHUNK = 1 << 18  # counters drawn at once: bounds the int64 temporaries
_SQRT_HALF_BITS = 0x3F3504F3
# log(1 + f) = f - f^2/2 + f^3 poly(f) on [sqrt(1/2) - 1, sqrt(2) - 1], highest power first; as in
# csrc/common/noise.h.
_LOG_POLYNOMIAL = (
    -0.07859805971384048,
    0.1288125067949295,
    -0.13128481805324554,
    0.14181239902973175,
    -0.16624590754508972,
    0.2000228464603424,
    -0.25000810623168945,
    0.33333316445350647,
)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # few bits, and the rest


def gumbel_noise(seed_B: Tensor, first_position_B: Tensor, out_BPV: Tensor) -> None:
    """out[b, p, v] = gumbel(seed[b], first_position[b] + p, v); see `pspec_rt.ops.gumbel_noise`."""
    B, P, V = out_BPV.shape
    device = out_BPV.device
    key_B11 = (seed_B & _LOW32)[:, None, None], ((seed_B >> 32) & _LOW32)[:, None, None]
    position_BP1 = (first_position_B[:, None] + arange(P, device))[:, :, None] & _LOW32
    words = -(-V // 4)  # one counter gives four neighbouring ids their noise
    step = max(1, _CHUNK // max(1, B * P))
    for first in range(0, words, step):
        word_W = arange(words, device)[first : first + step]
        lanes = _philox(word_W.expand(B, P, -1), position_BP1, *key_B11)
        bits_BPWx4 = torch.stack(lanes, dim=-1)
        noise_BPv = _gumbel(bits_BPWx4).flatten(2)
        out_BPV[:, :, 4 * first : 4 * (first + step)] = noise_BPv[:, :, : V - 4 * first]


def _philox(c0: Tensor, c1: Tensor, k0: Tensor, k1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of counter (c0, c1, 0, 0): four words, each an int64 in [0, 2^32)."""
    c2 = c3 = torch.zeros_like(c0)
    for _ in range(_ROUNDS):
        product0, product1 = (
            c0 * _MULTIPLIERS[0],
            c2 * _MULTIPLIERS[1],
        )  # wraps; all 64 bits are right
        high0, high1 = (product0 >> 32) & _LOW32, (product1 >> 32) & _LOW32
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1 & _LOW32, high0 ^ c3 ^ k1, product0 & _LOW32
        k0, k1 = (k0 + _WEYL[0]) & _LOW32, (k1 + _WEYL[1]) & _LOW32
    return c0, c1, c2, c3


def _gumbel(bits: Tensor) -> Tensor:
    """-log(E), E = -log1p(-u) exponential, u = (bits + 1/2) / 2^32 uniform; all in fp32."""
    u = ((bits.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
    z = u.neg()
    w = z + 1.0
    is_one = w == 1.0  # u below half an ulp of 1: log1p(-u) = -u
    ratio = log(w).mul_(z).div_(torch.where(is_one, -1.0, w - 1.0))  # corrects the rounding of 1 - u
    return log(torch.where(is_one, u, ratio.neg_())).neg_()


def log(x: Tensor) -> Tensor:
    """Natural logarithm of positive normal fp32 numbers; fixed order of operations, no FMA."""
    bits = x.view(torch.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).view(torch.float32) - 1.0  # x = 2^exponent (1 + f)
    exponent = exponent.float()
    poly = torch.full_like(f, _LOG_POLYNOMIAL[0])
    for coefficient in _LOG_POLYNOMIAL[1:]:
        poly.mul_(f).add_(coefficient)
    f2 = f * f
    y = poly.mul_(f).mul_(f2)
    y.add_(exponent * _LN2_LOW).add_(f2 * -0.5).add_(f)
    return y.add_(exponent * _LN2_HIGH)
