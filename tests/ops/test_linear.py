"""linear against fp64, and the bit-exactness its native version promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt import ops
from pspec_rt.ops._dispatch import REGISTRY

from .cases import ROWS, assert_rows_independent, same_bits

BF16, FP32 = torch.bfloat16, torch.float32


def linear(x_RI: Tensor, w_OI: Tensor, out_dtype: torch.dtype, bias_O: Tensor | None = None) -> Tensor:
    out_RO = torch.full((x_RI.shape[0], w_OI.shape[0]), float("nan"), dtype=out_dtype)
    ops.linear(x_RI, w_OI, out_RO, bias_O=bias_O)
    return out_RO


def assert_right(out_RO: Tensor, x_RI: Tensor, w_OI: Tensor, bias_O: Tensor | None) -> None:
    """Within the worst case of an fp32 sum in any order, plus one rounding to the output dtype."""
    exact_RO, scale_RO = x_RI.double() @ w_OI.double().T, x_RI.double().abs() @ w_OI.double().abs().T
    if bias_O is not None:
        exact_RO, scale_RO = exact_RO + bias_O.double(), scale_RO + bias_O.double().abs()
    rounding = 2.0**-8 if out_RO.dtype is BF16 else 2.0**-24
    bound_RO = (x_RI.shape[1] + 1) * 2.0**-24 * scale_RO + rounding * exact_RO.abs()
    assert ((out_RO.double() - exact_RO).abs() <= bound_RO + 1e-30).all()


@pytest.mark.parametrize("dtypes", [(BF16, BF16, BF16), (BF16, BF16, FP32), (FP32,) * 3, (FP32, BF16, FP32)])
@pytest.mark.parametrize("R", ROWS)
def test_formula(backend: str, R: int, dtypes: tuple[torch.dtype, ...]) -> None:
    x_dtype, w_dtype, out_dtype = dtypes
    for I, O in ((8, 1), (37, 33), (64, 65), (200, 128)):
        x_RI, w_OI = torch.randn(R, I).to(x_dtype), torch.randn(O, I).to(w_dtype)
        for bias_O in (None, torch.randn(O).to(w_dtype)):
            assert_right(linear(x_RI, w_OI, out_dtype, bias_O), x_RI, w_OI, bias_O)


def test_small_integers_are_exact(backend: str) -> None:
    x_RI, w_OI = torch.randint(-8, 9, (5, 300)).float(), torch.randint(-8, 9, (70, 300)).float()
    assert torch.equal(linear(x_RI, w_OI, FP32), x_RI @ w_OI.T)
    assert torch.equal(linear(x_RI.to(BF16), w_OI.to(BF16), FP32), x_RI @ w_OI.T)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize("I", [37, 576])
def test_rows_are_independent(backend: str, I: int, dtype: torch.dtype) -> None:
    if backend == "ref":
        pytest.skip("ref calls a library GEMM: exact up to near-ties only")
    x_RI, w_OI = torch.randn(65, I).to(dtype), torch.randn(100, I).to(dtype)
    assert_rows_independent(lambda r: linear(x_RI[r].clone(), w_OI, FP32), rows=65)


def test_not_exact_is_still_right(backend: str) -> None:
    x_RI, w_OI, out_RO = torch.randn(9, 64), torch.randn(20, 64), torch.empty(9, 20)
    ops.linear(x_RI, w_OI, out_RO, exact=False)
    assert_right(out_RO, x_RI, w_OI, None)


def test_fp32_output_rounds_to_the_bf16_output(backend: str) -> None:
    """Both come from one sum; on ref bf16 inputs may take another GEMM."""
    if backend == "ref":
        pytest.skip("ref calls another library GEMM for each output dtype")
    x_RI, w_OI = torch.randn(3, 192).to(BF16), torch.randn(40, 192).to(BF16)
    assert same_bits(linear(x_RI, w_OI, FP32).to(BF16), linear(x_RI, w_OI, BF16))


@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_options_equal_the_separate_ops(backend: str, norm: bool, gated: bool, add: bool, dtype: torch.dtype) -> None:
    """Bit for bit: a norm before, a gate and a residual after are what their own ops do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSPEC_BACKEND", ",".join(f"{op}:{backend}" for op in ("linear", "add_rms_norm", "silu_mul")))
        ops.choose_backends("cpu")
        for R, I, O, biased in ((1, 64, 40, False), (5, 100, 24, True), (20, 64, 33, True)):
            rows = 2 * O if gated else O
            x_RI, w_OI = torch.randn(R, I).to(dtype), torch.randn(rows, I).to(dtype)
            bias_O = torch.randn(rows).to(dtype) if biased else None
            norm_I = torch.randn(I).to(dtype) if norm else None
            start_RO = torch.randn(R, O).to(dtype)
            fused_RO = start_RO.clone()
            ops.linear(x_RI, w_OI, fused_RO, bias_O=bias_O, norm_I=norm_I, eps=1e-5, gated=gated, add=add)
            assert same_bits(fused_RO, separately(x_RI, w_OI, start_RO, bias_O, norm_I, gated, add))


def separately(
    x_RI: Tensor, w_OI: Tensor, start_RO: Tensor, bias_O: Tensor | None, norm_I: Tensor | None, gated: bool, add: bool
) -> Tensor:
    if norm_I is not None:
        normed_RI = torch.empty_like(x_RI)
        ops.add_rms_norm(None, x_RI.clone(), norm_I, 1e-5, normed_RI)
        x_RI = normed_RI
    y_RO = linear(x_RI, w_OI, start_RO.dtype, bias_O)
    if gated:
        gate_up_R2O, y_RO = y_RO, torch.empty_like(start_RO)
        ops.silu_mul(gate_up_R2O, y_RO)
    return start_RO + y_RO if add else y_RO


@pytest.mark.parametrize("dtypes", [(BF16, BF16), (BF16, FP32), (FP32, FP32)])
@pytest.mark.parametrize("R", [3, 18])
def test_fused_equals_the_separate_ops(backend: str, R: int, dtypes: tuple[torch.dtype, ...]) -> None:
    """norm, bias, gate and residual at once, against one op of the same backend after the other."""
    dtype, out_dtype = dtypes
    I, O = 70, 20
    x_RI, w_NI, norm_I, bias_N = (torch.randn(*s).to(dtype) for s in ((R, I), (2 * O, I), (I,), (2 * O,)))
    before_RO = torch.randn(R, O).to(out_dtype)

    def run(op: str, *args: object, **kwargs: object) -> None:
        REGISTRY[op].backends[backend](*args, **kwargs)

    normed_RI, y_RN, product_RO = torch.empty_like(x_RI), before_RO.new_empty(R, 2 * O), torch.empty_like(before_RO)
    run("add_rms_norm", None, x_RI, norm_I, 1e-5, normed_RI)
    run("linear", normed_RI, w_NI, y_RN, bias_O=bias_N)
    run("silu_mul", y_RN, product_RO)
    for add in (False, True):
        out_RO = before_RO.clone()
        ops.linear(x_RI, w_NI, out_RO, bias_O=bias_N, norm_I=norm_I, eps=1e-5, gated=True, add=add)
        assert same_bits(out_RO, before_RO + product_RO if add else product_RO)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="w_OI"):
        ops.linear(torch.zeros(2, 4), torch.zeros(3, 5), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="out_RO.*dtype"):
        ops.linear(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="w_OI"):
        ops.linear(torch.zeros(2, 4), torch.zeros(5, 4), torch.zeros(2, 2), gated=True)
    with pytest.raises(ValueError, match="bias_O"):
        ops.linear(torch.zeros(2, 4), torch.zeros(6, 4), torch.zeros(2, 3), gated=True, bias_O=torch.zeros(3))
    with pytest.raises(ValueError, match="norm_I.*dtype"):
        ops.linear(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2, 3), norm_I=torch.zeros(4, dtype=BF16))
