"""gumbel_noise: sampling noise, a pure function of (seed, position, token id)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.gumbel_noise import gumbel_noise as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native, ptr, triton_kernel


def _cpu(seed_B: Tensor, first_position_B: Tensor, out_BPV: Tensor) -> None:
    native.gumbel_noise(ptr(seed_B), ptr(first_position_B), ptr(out_BPV), *out_BPV.shape)


_op = Op("gumbel_noise", ref=_ref, cpu=_cpu, triton=triton_kernel("gumbel_noise"))


def gumbel_noise(seed_B: Tensor, first_position_B: Tensor, out_BPV: Tensor) -> None:
    """out[b, p, v] = gumbel(seed[b], first_position[b] + p, v), the same bits on every backend.

    argmax over v of z_v + gumbel(seed, t, v) is an exact draw from softmax(z). Bits x are word v
    mod 4 of Philox4x32-10 (Salmon et al., SC 2011) with key seed and counter (v div 4, t, 0, 0);
    then in fp32 u = min((x + 1/2) / 2^32, 1 - 2^-24) and gumbel = -log(-log1p(-u)), finite for
    every x.

    Args:
        seed_B: [B] int64, a 64-bit pattern.
        first_position_B: [B] int32 absolute position of the first row.
        out_BPV: [B, P, V] fp32 written.
    """
    B = out_BPV.shape[0]
    expect_shape("seed_B", seed_B, B)
    expect_shape("first_position_B", first_position_B, B)
    expect_dtypes(torch.int64, seed_B=seed_B)
    expect_dtypes(torch.int32, first_position_B=first_position_B)
    expect_dtypes(torch.float32, out_BPV=out_BPV)
    _op(out_BPV.device)(seed_B, first_position_B, out_BPV)
