"""head_top_k in Triton: the bits of linear's logits, the merge of many tiles, memory it must leave alone."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.ops.cases import WILD, i32, ref_of, same_bits

pytestmark = pytest.mark.usefixtures("triton_device")
BF16, FP32 = torch.bfloat16, torch.float32


@pytest.fixture
def kernel() -> ModuleType:
    return pytest.importorskip("pspec_rt.triton_kernels.head_top_k")


def values_of(keys: Tensor) -> Tensor:
    """The values in keys of `_top`."""
    high = keys >> 32
    return torch.where(high < 0, high ^ 0x7FFFFFFF, high).int().view(torch.float32)


@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize("R", [1, 17, 64, 66])
def test_values_have_the_bits_of_linear(kernel: ModuleType, R: int, dtype: torch.dtype) -> None:
    """The best value of every tile of the vocabulary, read from the scratch memory between the two launches."""
    from pspec_rt.triton_kernels.linear import linear

    from pspec_rt.scratch import scratch

    D, M, C = 300, 200, 2
    x_RM, w_DM = torch.randn(R, M).to(dtype), torch.randn(D, M).to(dtype)
    kernel.head_top_k(x_RM, w_DM, torch.empty(R, C, dtype=torch.int32), None)
    logits_RD = torch.empty(R, D)
    linear(x_RM, w_DM, logits_RD)
    wide = dtype is FP32
    tiles, arch = kernel.tiles, kernel.tiles.arch_of(x_RM.device)
    rows = tiles.whole(tiles.plan_of(D, M, wide, arch), tiles.bucket_of(R), arch, D).rows
    count = -(-D // rows)
    best_RTC = values_of(scratch(x_RM.device, "head_top_k.keys", 1, torch.int64)[: R * count * C]).view(R, count, C)
    for tile, logits in enumerate(logits_RD.split(rows, dim=1)):
        assert same_bits(best_RTC[:, tile], logits.topk(C).values)


@pytest.mark.parametrize("C", [1, 3, 16])
@pytest.mark.parametrize("order", ["ascending", "descending", "equal"])
def test_merge_of_many_blocks(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch, C: int, order: str) -> None:
    """Ascending values replace the whole list in every block, descending ones never."""
    monkeypatch.setattr(kernel, "BLOCK", 16)
    D, R = 1000, 2
    slope = {"ascending": 1.0, "descending": -1.0, "equal": 0.0}[order]
    w_DM = torch.stack([torch.arange(D) // 3 * slope / 8, torch.zeros(D)], dim=1)
    x_RM = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    ids_RC, scores_RC = torch.empty(R, C, dtype=torch.int32), torch.empty(R, C)
    kernel.head_top_k(x_RM, w_DM, ids_RC, scores_RC)
    ref_ids_RC, ref_scores_RC = torch.empty_like(ids_RC), torch.empty_like(scores_RC)
    ref_of("head_top_k")(x_RM, w_DM, ref_ids_RC, ref_scores_RC)
    assert ids_RC.tolist() == ref_ids_RC.tolist()
    torch.testing.assert_close(scores_RC, ref_scores_RC, rtol=1e-5, atol=5e-5)


def test_memory_it_must_leave_alone(kernel: ModuleType) -> None:
    """Rows past x and w are NaN, rows of noise that greedy rows name do not exist, outputs lie in red zones."""
    R, D, M, C, V = 5, 131, 24, 4, 400
    x_RM, w_DM = torch.full((R + 64, M), float("nan")), torch.full((D + 200, M), float("nan"))
    x_RM[:R], w_DM[:D] = torch.randn(R, M), torch.randn(D, M)
    ids_RC, scores_RC = torch.full((R + 2, C), WILD, dtype=torch.int32), torch.full((R + 2, C), float("nan"))
    noise_QV = torch.full((4, V), float("nan"))
    noise_QV[1] = torch.randn(V)
    id_map_D = torch.full((D + 200,), WILD, dtype=torch.int32)
    id_map_D[:D] = torch.randperm(V)[:D].sort().values
    sampling = {"temperature_R": torch.tensor([0, 0.7, 0, 1.5, 0]), "noise_QV": noise_QV}
    rows_R = [WILD, 1, -WILD, 1, WILD]
    kernel.head_top_k(
        x_RM[:R], w_DM[:D], ids_RC[1:-1], scores_RC[1:-1], **sampling, noise_row_R=i32(rows_R), id_map_D=id_map_D[:D]
    )
    ref_ids_RC, ref_scores_RC = torch.empty(R, C, dtype=torch.int32), torch.empty(R, C)
    ref_of("head_top_k")(
        x_RM[:R], w_DM[:D], ref_ids_RC, ref_scores_RC, **sampling, noise_row_R=i32([1] * R), id_map_D=id_map_D[:D]
    )
    assert ids_RC[1:-1].tolist() == ref_ids_RC.tolist()
    torch.testing.assert_close(scores_RC[1:-1], ref_scores_RC, rtol=1e-5, atol=5e-5)
    assert (ids_RC[[0, -1]] == WILD).all() and scores_RC[[0, -1]].isnan().all()


def test_scores_of_rows_with_infinities(kernel: ModuleType) -> None:
    """As ref: a row of nothing but -inf has no token, +inf takes all the probability."""
    inf = float("inf")
    x_RM, w_DM = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [-inf], [0.0], [3.0]])
    ids_RC, scores_RC = torch.empty(2, 3, dtype=torch.int32), torch.empty(2, 3)
    ref_ids_RC, ref_scores_RC = torch.empty_like(ids_RC), torch.empty_like(scores_RC)
    kernel.head_top_k(x_RM, w_DM, ids_RC, scores_RC)
    ref_of("head_top_k")(x_RM, w_DM, ref_ids_RC, ref_scores_RC)
    assert ids_RC.tolist() == ref_ids_RC.tolist()
    torch.testing.assert_close(scores_RC, ref_scores_RC, equal_nan=True)
