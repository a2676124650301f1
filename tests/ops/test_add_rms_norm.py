"""add_rms_norm against the formula in fp64, and bit for bit against the rounding of Hugging Face models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt import ops

from .cases import ROWS, assert_rows_independent, rows_alone, same_bits

DTYPES = [torch.bfloat16, torch.float32]


def norm(x_RM: Tensor | None, residual_RM: Tensor, weight_M: Tensor, eps: float) -> Tensor:
    out_RM = torch.empty_like(residual_RM)
    ops.add_rms_norm(x_RM, residual_RM, weight_M, eps, out_RM)
    return out_RM


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("R", ROWS)
def test_formula(backend: str, R: int, dtype: torch.dtype) -> None:
    x_RM, residual_RM = torch.randn(R, 96).to(dtype), torch.randn(R, 96).to(dtype) * 4
    weight_M, before_RM, eps = torch.rand(96).to(dtype), residual_RM.clone(), 1e-3
    out_RM = norm(x_RM, residual_RM, weight_M, eps)
    assert torch.equal(residual_RM, (before_RM.float() + x_RM.float()).to(dtype))
    exact = residual_RM.double()
    exact = exact / (exact.square().mean(1, keepdim=True) + eps).sqrt() * weight_M.double()
    # Two roundings to the dtype (norm, then weight), and in fp32 a sum of 96 squares.
    tolerance = 2**-7 if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(out_RM.double(), exact, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", [37, 576, 2048])
def test_rounds_as_hugging_face_models_do(backend: str, M: int, dtype: torch.dtype) -> None:
    """The sum of squares may be taken in any order, so the fp32 scale of a row may be a few ulps off; given the
    scale, every bit is determined."""
    x_RM, residual_RM = torch.randn(9, M).to(dtype), torch.randn(9, M).to(dtype) * 3
    weight_M, ulps = torch.rand(M).to(dtype), 4
    out_RM = norm(x_RM, residual_RM, weight_M, 1e-5)
    for h, out in zip(residual_RM.float(), out_RM, strict=True):
        scale = torch.rsqrt(h.double().square().mean() + 1e-5).float()
        scales = [(scale.view(torch.int32) + ulp).view(torch.float32) for ulp in range(-ulps, ulps + 1)]
        assert any(same_bits(out, weight_M * (h * s).to(dtype)) for s in scales)


def test_without_x_the_residual_stays(backend: str) -> None:
    residual_RM = torch.randn(3, 8)
    before_RM = residual_RM.clone()
    norm(None, residual_RM, torch.ones(8), 1e-6)
    assert torch.equal(residual_RM, before_RM)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", [576, 1536, 2048])
def test_rows_are_independent(backend: str, M: int, dtype: torch.dtype) -> None:
    x_RM, residual_RM = torch.randn(64, M).to(dtype), torch.randn(64, M).to(dtype)
    weight_M = torch.rand(M).to(dtype)
    assert_rows_independent(lambda r: norm(x_RM[r], residual_RM[r].clone(), weight_M, 1e-5), rows_alone())


def test_wrong_arguments_are_named() -> None:
    residual_RM = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="weight_M"):
        ops.add_rms_norm(None, residual_RM, torch.ones(5), 1e-5, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="x_RM"):
        ops.add_rms_norm(torch.zeros(3, 4), residual_RM, torch.ones(4), 1e-5, torch.zeros(2, 4))
