"""silu_mul against x * sigmoid(x) in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt import ops

from .cases import ROWS, assert_rows_independent, rows_alone

DTYPES = [torch.bfloat16, torch.float32]


def silu_mul(gate_up_R2I: Tensor) -> Tensor:
    R, twice_I = gate_up_R2I.shape
    out_RI = torch.empty(R, twice_I // 2, dtype=gate_up_R2I.dtype)
    ops.silu_mul(gate_up_R2I, out_RI)
    return out_RI


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("I", [1, 37, 96])
@pytest.mark.parametrize("R", ROWS)
def test_formula(backend: str, R: int, I: int, dtype: torch.dtype) -> None:
    gate_up_R2I = (torch.randn(R, 2 * I) * 4).to(dtype)
    gate_RI, up_RI = gate_up_R2I.double().split(I, dim=1)
    # One rounding to bf16; in fp32 a handful of operations and exp, each good to an ulp or two.
    tolerance = 2**-8 if dtype is torch.bfloat16 else 1e-6
    expected = gate_RI * torch.sigmoid(gate_RI) * up_RI
    torch.testing.assert_close(silu_mul(gate_up_R2I).double(), expected, rtol=tolerance, atol=1e-30)


def test_extreme_gates(backend: str) -> None:
    """exp overflows to infinity where the result is 0, and vanishes where silu(x) = x."""
    gate_up = torch.tensor([[-200.0, 0.0, 200.0, 3.0, 3.0, 3.0]])
    assert silu_mul(gate_up).tolist() == [[0.0, 0.0, 600.0]]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("I", [576, 1000, 1536, 2048])
def test_rows_are_independent(backend: str, I: int, dtype: torch.dtype) -> None:
    gate_up_R2I = torch.randn(64, 2 * I).to(dtype)
    assert_rows_independent(lambda r: silu_mul(gate_up_R2I[r].clone()), rows_alone())


def test_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"gate_up_R2I.*\(2, 8\)"):
        ops.silu_mul(torch.zeros(2, 6), torch.zeros(2, 4))
