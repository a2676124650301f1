"""csrc/cuda/linear.cu and draft_forward.cu on the GPU: against fp64 and the op-by-op pass, and bit for bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from pspec_rt.ops._dispatch import REGISTRY, obstacle
from pspec_rt.ops.draft_forward import draft_forward_misfit
from pspec_rt.ops.linear import linear_on_cuda
from tests.draft_case import DraftCase, draft_case, run_ref
from tests.ops.cases import same_bits

pytestmark = pytest.mark.gpu
BF16 = torch.bfloat16
ROWS = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200, 1024)
# [O, I] of Llama-3.1-8B and SmolLM2-135M, and one that no tile divides.
WEIGHTS = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (960, 576), (1000, 200)]


@pytest.fixture(autouse=True)
def built_with_cuda() -> None:
    if reason := obstacle("cuda", "cuda"):
        pytest.skip(reason)


def bf16(*shape: int) -> Tensor:
    return torch.randn(*shape).to(BF16)


def linear(x_RI: Tensor, w_OI: Tensor, dtype: torch.dtype = torch.float32, **options: Tensor) -> Tensor:
    out_RO = torch.empty(x_RI.shape[0], w_OI.shape[0], dtype=dtype)
    linear_on_cuda(x_RI, w_OI, out_RO, **options)
    return out_RO


@pytest.mark.parametrize("O, I", WEIGHTS)
def test_linear_and_row_counts(O: int, I: int) -> None:
    x_RI, w_OI = bf16(1024, I), bf16(O, I) / I**0.5
    whole_RO = linear(x_RI, w_OI)
    exact_RO, scale_RO = x_RI[:64].double() @ w_OI.double().T, x_RI[:64].double().abs() @ w_OI.double().abs().T
    assert ((whole_RO[:64] - exact_RO).abs() <= 1e-5 * scale_RO).all()
    for R in ROWS:
        assert same_bits(linear(x_RI[:R], w_OI), whole_RO[:R]), f"{R} rows"
        assert same_bits(linear(x_RI[-R:], w_OI), whole_RO[-R:]), f"the last {R} rows"
        assert same_bits(linear(x_RI[:R], w_OI, BF16), whole_RO[:R].to(BF16)), f"{R} rows in bf16"


@pytest.mark.parametrize("I", [576, 4096, 14336])
@pytest.mark.parametrize("R", [1, 16, 40])
def test_the_norm_has_the_bits_of_its_op(R: int, I: int) -> None:
    """Inside the kernel and in front of it: those of add_rms_norm in Triton."""
    x_RI, w_OI, norm_I = bf16(R, I), bf16(256, I), bf16(I)
    normed_RI = torch.empty_like(x_RI)
    REGISTRY["add_rms_norm"].backends["triton"](None, x_RI, norm_I, 1e-5, normed_RI)
    fused_RO = torch.empty(R, 256)
    linear_on_cuda(x_RI, w_OI, fused_RO, norm_I=norm_I, eps=1e-5)
    assert same_bits(fused_RO, linear(normed_RI, w_OI))


@pytest.mark.parametrize("R", [1, 16, 64])
def test_gate_and_residual(R: int) -> None:
    I, O = 4096, 1024
    x_RI, w_2OI, before_RO = bf16(R, I), bf16(2 * O, I) / I**0.5, bf16(R, O)
    out_RO = before_RO.clone()
    linear_on_cuda(x_RI, w_2OI, out_RO, gated=True, add=True)
    gate_RO, up_RO = linear(x_RI, w_2OI, BF16).float().chunk(2, dim=1)
    expected_RO = before_RO.float() + (torch.nn.functional.silu(gate_RO) * up_RO).to(BF16).float()
    torch.testing.assert_close(out_RO.float(), expected_RO, rtol=1e-2, atol=1e-2)


def draft(case: DraftCase) -> tuple[Tensor, Tensor]:
    out = case.outputs()
    REGISTRY["draft_forward"].backends["cuda"](*case.arguments(), *out, **case.sampling)
    return out


SIZES = [
    {"B": 1, "K": 8, "prefixes": [1000], "M": 4096, "H": 32, "G": 8, "E": 128, "I": 14336, "D": 32000, "V": 128256},
    {
        "B": 4,
        "K": 8,
        "prefixes": [3, 700, 64, 4000],
        "M": 2048,
        "H": 32,
        "G": 8,
        "E": 64,
        "I": 8192,
        "D": 49152,
        "V": 49152,
    },
    {"B": 1, "K": 3, "prefixes": [0], "M": 576, "H": 9, "G": 3, "E": 64, "I": 1536, "D": 999, "V": 5000},
]


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_draft_forward(sizes: dict, sampled: bool) -> None:
    """As the definition, and the same in every launch: eager, in a captured graph, many times over."""
    case = draft_case(**sizes, sampled=sampled and sizes["V"] > sizes["D"], C=8)
    out = draft(case)
    for _ in range(20):
        again = draft(case)
        assert torch.equal(out[0], again[0]) and same_bits(out[1], again[1])
    graph, captured = torch.cuda.CUDAGraph(), case.outputs()
    with torch.cuda.graph(graph):
        REGISTRY["draft_forward"].backends["cuda"](*case.arguments(), *captured, **case.sampling)
    graph.replay()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out[0], captured[0]) and same_bits(out[1], captured[1])
    case.check(*out, run_ref(case))


def test_a_drafter_of_one_layer_fits_one_launch() -> None:
    case = draft_case(**SIZES[0])
    assert draft_forward_misfit(case.head, 1, 16, 8, case.k_BGSE) is None
    assert draft_forward_misfit(
        dataclasses.replace(case.head, head_DM=case.head.head_DM.float()), 1, 16, 8, case.k_BGSE
    )
