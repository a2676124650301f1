"""csrc/cuda/linear.cu run by the emulation: against the definition, and bit for bit across row counts."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from tests.ops.cases import same_bits

from .build import needs_compiler
from .matrix import ORDERS, Library, address

pytestmark = needs_compiler
BF16, FP32 = torch.bfloat16, torch.float32
# [O, I]: one tile and several, ragged in both, fewer columns than the block's warps take, more than one ring.
SHAPES = [(16, 256), (40, 520), (200, 64), (100, 200), (24, 1800)]
RED = -123.0  # of rows that must stay as they are


def linear(
    library: Library, x_RI: Tensor, w_OI: Tensor, dtype: torch.dtype = FP32, *, bias_O: Tensor | None = None,
    norm_I: Tensor | None = None, gated: bool = False, before_RO: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """out of the kernel, between rows that it must not touch."""
    (R, I), O = x_RI.shape, w_OI.shape[0] // (2 if gated else 1)
    field = torch.full((R + 2, O), RED, dtype=dtype)
    if before_RO is not None:
        field[1:-1] = before_RO
    normed_RI = torch.empty_like(x_RI)
    out_RO = field[1:-1]
    pointers = map(address, (x_RI, w_OI, bias_O, norm_I, out_RO))
    sizes = map(ctypes.c_int64, (R, I, O))
    flags = (ctypes.c_bool(gated), ctypes.c_bool(before_RO is not None), int(dtype is BF16))
    library.call("run_linear", *pointers, *sizes, ctypes.c_float(1e-5), *flags, address(normed_RI))
    assert (field[[0, -1]] == RED).all()
    return out_RO


def bf16(*shape: int) -> Tensor:
    return torch.randn(*shape).to(BF16)


@pytest.mark.parametrize("O, I", SHAPES)
@pytest.mark.parametrize("order, seed", ORDERS)
def test_formula(library: Library, O: int, I: int, order: int, seed: int) -> None:
    library.set_order(order, seed)
    for R in (1, 11):
        x_RI, w_OI, bias_O = bf16(R, I), bf16(O, I), bf16(O)
        exact_RO = x_RI.double() @ w_OI.double().T
        bound_RO = I * 2.0**-24 * (x_RI.double().abs() @ w_OI.double().abs().T) + 1e-30
        out_RO = linear(library, x_RI, w_OI)
        assert ((out_RO.double() - exact_RO).abs() <= bound_RO).all()
        assert same_bits(linear(library, x_RI, w_OI, bias_O=bias_O), out_RO + bias_O.float())
        assert same_bits(linear(library, x_RI, w_OI, BF16), out_RO.to(BF16))


@pytest.mark.parametrize("O, I", [(40, 520), (100, 200)])
def test_a_row_has_the_same_bits_in_every_row_count(library: Library, O: int, I: int) -> None:
    library.set_order(0, 0)
    x_RI, w_OI = bf16(130, I), bf16(O, I)
    whole_RO = linear(library, x_RI, w_OI)
    for R in (1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65):
        assert same_bits(linear(library, x_RI[:R], w_OI), whole_RO[:R]), f"{R} rows"
        assert same_bits(linear(library, x_RI[130 - R :], w_OI), whole_RO[130 - R :]), f"the last {R} rows"


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_the_tile_changes_no_bits(library: Library, rows: int) -> None:
    """A weight's rows come out alike whether it is narrow (tiles of 16 rows) or wide (tiles of 64)."""
    x_RI, w_OI = bf16(3, 264), bf16(48 * rows, 264)
    whole_RO = linear(library, x_RI, w_OI)
    for first in range(0, 48 * rows, 16):
        part = slice(first, first + 16)
        assert same_bits(linear(library, x_RI, w_OI[part].clone()), whole_RO[:, part].contiguous())


@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("R", [3, 12, 20])
def test_norm_gate_and_residual(library: Library, R: int, gated: bool, dtype: torch.dtype) -> None:
    """The norm has one order, inside the kernel (few rows) or in front of it; gate and residual round in between."""
    I, O = 264, 40
    x_RI, w_OI, norm_I, bias_O = bf16(R, I), bf16(2 * O if gated else O, I) / 16, bf16(I), bf16(2 * O if gated else O)
    before_RO = torch.randn(R, O).to(dtype)
    scale_R1 = torch.rsqrt(x_RI.double().square().mean(1, keepdim=True) + 1e-5).float()
    normed_RI = (x_RI.float() * scale_R1).to(BF16) * norm_I
    sums = linear(library, normed_RI, w_OI, bias_O=bias_O).to(dtype)
    expected_RO = torch.nn.functional.silu(sums[:, :O].float()) * sums[:, O:].float() if gated else sums
    expected_RO = (before_RO.float() + expected_RO.to(dtype).float()).to(dtype)
    options = {"bias_O": bias_O, "norm_I": norm_I, "gated": gated, "before_RO": before_RO}
    out_RO = linear(library, x_RI, w_OI, dtype, **options)
    rounding = 2e-2 if dtype is BF16 else 2e-5
    torch.testing.assert_close(out_RO, expected_RO, rtol=rounding, atol=rounding)
    alone_RO = linear(library, x_RI[:1], w_OI, dtype, **{**options, "before_RO": before_RO[:1]})
    assert same_bits(alone_RO, out_RO[:1])


def test_without_rows_nothing_happens(library: Library) -> None:
    linear(library, bf16(0, 64), bf16(8, 64))
