"""Benchmark of linear: the weight matrices of one layer, and the output head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from pspec_rt.quantize import DEPTH, ROWS, TILE_BYTES, Int8Weight

from ._bench import BF16, Case, Model, bf16, main, nbytes, weights


def cases(m: Model, R: int) -> Iterator[Case]:
    """qkv, output projection, gate+up, down, as plain products; two as a layer runs them; one in int8; the head."""
    layer = ((m.M, (m.H + 2 * m.G) * m.E), (m.H * m.E, m.M), (m.M, 2 * m.I), (m.I, m.M))
    for I, O in layer:
        yield case(m, R, I, O, torch.bfloat16)
    yield gated(m, R)
    yield added(m, R)
    yield int8(m, R)
    if R in (1, 8):
        yield case(m, R, m.M, m.V, torch.float32)


def case(m: Model, R: int, I: int, O: int, dtype: torch.dtype) -> Case:
    """R rows times a bf16 [O, I] matrix."""
    size = 2 * (R * I + O * I) + R * O * dtype.itemsize
    x_RI, out_RO = bf16(R, I), torch.empty(R, O, dtype=dtype)

    def make() -> tuple:
        return (x_RI, weights(O, I), out_RO), {}

    return Case(m.name, R, f"{I} -> {O}", make, size, weights=2 * O * I, torch=plain)


def int8(m: Model, R: int) -> Case:
    """The same product with int8 weights; torch, which has none, takes bf16 ones."""
    O, I = 2 * m.I, m.M
    tiles = (-(-O // ROWS), -(-I // DEPTH), TILE_BYTES // BF16.itemsize)  # of any bytes: the time is the same
    size = BF16.itemsize * tiles[0] * tiles[1] * tiles[2]
    x_RI, out_RO = bf16(R, I), torch.empty(R, O, dtype=BF16)

    def make() -> tuple:
        return (x_RI, Int8Weight(weights(*tiles).view(torch.uint8), O, I), out_RO), {}

    def plain_bf16(x_RI: Tensor, w_OI: Int8Weight, out_RO: Tensor) -> Tensor:
        return F.linear(x_RI, weights(*w_OI.shape))

    return Case(m.name, R, f"{I} -> {O}, int8", make, nbytes(x_RI, out_RO) + size, weights=size, torch=plain_bf16)


def gated(m: Model, R: int) -> Case:
    """The first half of an MLP: norm, gate and up, and their product."""
    x_RM, norm_M, out_RI = bf16(R, m.M), bf16(m.M), bf16(R, m.I)
    options = {"norm_I": norm_M, "eps": 1e-5, "gated": True}
    fused = 2 * 2 * m.I * m.M

    def make() -> tuple:
        return (x_RM, weights(2 * m.I, m.M), out_RI), options

    size = nbytes(x_RM, norm_M, out_RI) + fused
    return Case(m.name, R, f"norm, {m.M} -> 2 x {m.I}, gate", make, size, weights=fused, torch=plain_gated)


def added(m: Model, R: int) -> Case:
    """The second half: down, added to the residual stream."""
    x_RI, residual_RM, down = bf16(R, m.I), bf16(R, m.M), 2 * m.I * m.M

    def make() -> tuple:
        return (x_RI, weights(m.M, m.I), residual_RM), {"add": True}

    size = nbytes(x_RI, residual_RM, residual_RM) + down
    return Case(m.name, R, f"{m.I} -> {m.M}, add", make, size, weights=down, torch=plain_added)


def plain_gated(x_RM: Tensor, w_NM: Tensor, out_RI: Tensor, *, norm_I: Tensor, eps: float, gated: bool) -> Tensor:
    """torch's own, one op after the other."""
    gate_RI, up_RI = F.linear(F.rms_norm(x_RM, norm_I.shape, norm_I, eps), w_NM).chunk(2, dim=1)
    return torch.mul(F.silu(gate_RI), up_RI, out=out_RI)


def plain_added(x_RI: Tensor, w_MI: Tensor, out_RM: Tensor, *, add: bool) -> Tensor:
    """torch's own in one call."""
    return torch.addmm(out_RM, x_RI, w_MI.T, out=out_RM)


def plain(x_RI: Tensor, w_OI: Tensor, out_RO: Tensor) -> Tensor:
    """torch's own, in bf16; also where the op writes fp32 logits, which torch would have to convert."""
    return F.linear(x_RI, w_OI)


if __name__ == "__main__":
    main("linear", cases)
