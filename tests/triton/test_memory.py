"""Kernels between red zones: nothing beside an argument is written, and nothing read there reaches a result."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.cases import WILD, bits, i32, ref_of, same_bits

ZONE = 3000  # elements before and after each argument: more than a block of columns
DTYPES = [torch.bfloat16, torch.float32]
Arguments = dict[str, object]


def normal(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape).to(dtype)


def nans(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


def embed(dtype: torch.dtype) -> Arguments:
    return {
        "ids_R": i32([4, -1, 0, -(2**31)]),
        "table_VM": normal(5, 1030, dtype=dtype),
        "out_RM": nans(4, 1030, dtype=dtype),
    }


def add_rms_norm(dtype: torch.dtype) -> Arguments:
    x, residual, weight = (normal(*shape, dtype=dtype) for shape in [(3, 37), (3, 37), (37,)])
    return {"x_RM": x, "residual_RM": residual, "weight_M": weight, "eps": 1e-5, "out_RM": nans(3, 37, dtype=dtype)}


def silu_mul(dtype: torch.dtype) -> Arguments:
    return {"gate_up_R2I": normal(3, 2 * 1030, dtype=dtype), "out_RI": nans(3, 1030, dtype=dtype)}


def silu_add(dtype: torch.dtype) -> Arguments:
    return {"y_RM": normal(3, 1030, dtype=dtype), "out_RM": normal(3, 1030, dtype=dtype)}


def cast(dtype: torch.dtype) -> Arguments:
    return {"x": normal(3, 1030, dtype=dtype), "out": nans(3, 1030, dtype=torch.float32)}


def store_tap(dtype: torch.dtype) -> Arguments:
    return {"state_RM": normal(3, 37, dtype=dtype), "features_RF": nans(3, 111, dtype=dtype), "column": 37}


def gather_features(dtype: torch.dtype) -> Arguments:
    path_BP = i32([[0, 4, -1], [-1, -1, -1], [0, -1, -1]])
    return {
        "features_RF": normal(15, 37, dtype=dtype),
        "path_BP": path_BP,
        "out_BPF": torch.full((3, 3, 37), 7.0, dtype=dtype),
    }


def rope_append(dtype: torch.dtype, *, paged: bool = False) -> Arguments:
    B, N, H, G, E = 2, 3, 7, 1, 24
    cache = (6, G, 16, E) if paged else (B, G, 9, E)
    table_BT = i32([[WILD, 5, WILD], [3, 1, WILD]])
    return {
        "qkv_RX": normal(B * N, (H + 2 * G) * E, dtype=dtype),
        "positions_BN": i32([[0, 49, WILD], [-1, -WILD, 50]]),
        "prefix_B": i32([20, 14] if paged else [0, 6]),
        "cos_SE": torch.randn(50, E // 2),
        "sin_SE": torch.randn(50, E // 2),
        "k_BGSE": nans(*cache, dtype=dtype),
        "v_BGSE": nans(*cache, dtype=dtype),
        "q_BNHE": nans(B, N, H, E, dtype=dtype),
        "q_norm_E": normal(E, dtype=dtype),
        "k_norm_E": normal(E, dtype=dtype),
        "block_table_BT": table_BT if paged else None,
    }


def rope_append_paged(dtype: torch.dtype) -> Arguments:
    return rope_append(dtype, paged=True)


def integers(*shape: int, dtype: torch.dtype) -> Tensor:
    """Small ones, whose sums of some dozen products are exact in bf16."""
    return torch.randint(-2, 3, shape).to(dtype)


def linear(dtype: torch.dtype) -> Arguments:
    x, w, bias, out = (integers(*shape, dtype=dtype) for shape in [(5, 37), (33, 37), (33,), (5, 33)])
    return {"x_RI": x, "w_OI": w, "bias_O": bias, "out_RO": out, "add": True}


def draft_inputs(dtype: torch.dtype) -> Arguments:
    B, P, J, E, F, M = 2, 3, 2, 8, 29, 33
    return {
        "ids_BP": i32([[0, 4, -1], [-WILD, 2, 3]]),
        "features_BPF": integers(B, P, F, dtype=dtype),
        "count_B": i32([2, 0]),
        "mask_inputs_JM": integers(J, M, dtype=dtype),
        "fc_MW": integers(M, E + F, dtype=dtype),
        "out_BNM": nans(B, P + J, M, dtype=dtype),
        "table_VM": integers(5, E, dtype=dtype),
        "anchor_map_MW": integers(M, E + F, dtype=dtype),
    }


def zones(tensor: Tensor) -> Tensor:
    """A buffer with a copy of the tensor between two red zones, of NaN or of wild indices."""
    fill = float("nan") if tensor.is_floating_point() else WILD
    buffer = torch.full((tensor.numel() + 2 * ZONE,), fill, dtype=tensor.dtype)
    buffer[ZONE:-ZONE] = tensor.flatten()
    return buffer


@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case",
    [
        embed,
        add_rms_norm,
        silu_mul,
        silu_add,
        cast,
        store_tap,
        gather_features,
        rope_append,
        rope_append_paged,
        linear,
        draft_inputs,
    ],  # fmt: skip
)
def test_red_zones(case: Callable[[torch.dtype], Arguments], dtype: torch.dtype) -> None:
    op, arguments = case.__name__.removesuffix("_paged"), case(dtype)
    tensors = {name: x for name, x in arguments.items() if isinstance(x, Tensor)}
    buffers = {name: zones(x) for name, x in tensors.items()}
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    inner = {name: buffer[ZONE:-ZONE].view(tensors[name].shape) for name, buffer in buffers.items()}

    launcher = getattr(importlib.import_module(f"pspec_rt.triton_kernels.{op}"), op)
    launcher(**{**arguments, **inner})
    ref_of(op)(**arguments)

    for name, expected in tensors.items():
        buffer = buffers[name]
        assert torch.equal(bits(buffer[:ZONE]), bits(before[name][:ZONE])), f"before {name}"
        assert torch.equal(bits(buffer[-ZONE:]), bits(before[name][-ZONE:])), f"after {name}"
        if name not in written(op):
            assert same_bits(inner[name], before[name][ZONE:-ZONE].view(expected.shape)), f"{name} is an input"
        tolerance = 2**-7 if dtype is torch.bfloat16 else 1e-5
        torch.testing.assert_close(inner[name], expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def written(op: str) -> set[str]:
    """Arguments an op may write."""
    return {
        "add_rms_norm": {"residual_RM", "out_RM"},
        "rope_append": {"k_BGSE", "v_BGSE", "q_BNHE"},
        "store_tap": {"features_RF"},
    }.get(op, {"out", "out_RM", "out_RI", "out_RO", "out_BPF", "out_BNM"})
