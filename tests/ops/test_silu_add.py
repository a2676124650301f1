"""silu_add against x + y * sigmoid(y) in fp64."""

from __future__ import annotations

import pytest
import torch

from pspec_rt import ops

from .cases import same_bits

DTYPES = [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("R, M", [(1, 1), (3, 37), (2, 64), (5, 200)])
def test_formula(backend: str, R: int, M: int, dtype: torch.dtype) -> None:
    y_RM, x_RM = (torch.randn(R, M) * 4).to(dtype), torch.randn(R, M).to(dtype)
    expected = x_RM.double() + y_RM.double() * torch.sigmoid(y_RM.double())
    ops.silu_add(y_RM, x_RM)
    rtol, atol = (2**-7, 2**-6) if dtype is torch.bfloat16 else (1e-6, 1e-6)  # two roundings of values below 20
    torch.testing.assert_close(x_RM.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_independent(backend: str, dtype: torch.dtype) -> None:
    y_RM, x_RM = torch.randn(9, 200).to(dtype), torch.randn(9, 200).to(dtype)
    alone = [(y_RM[r : r + 1].clone(), x_RM[r : r + 1].clone()) for r in range(9)]
    ops.silu_add(y_RM, x_RM)
    for r, (y_1M, x_1M) in enumerate(alone):
        ops.silu_add(y_1M, x_1M)
        assert same_bits(x_1M, x_RM[r : r + 1])


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="y_RM"):
        ops.silu_add(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="y_RM"):
        ops.silu_add(torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bfloat16))
